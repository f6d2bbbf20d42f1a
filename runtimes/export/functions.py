"""What is known of a function for MLX: where it lies, and the arguments and shapes that it was traced with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from compiler.functions import Shapes

FUNCTION = "mlx/model.mlxfn"
"""The file of a function, from the folder of an export or a bundle."""
ROWS, TOKENS, WRITTEN = "batch", "tokens", "labels"
"""The axes that take several sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """An array that a function is given."""

    dtype: str
    axes: tuple[int | str, ...]
    padding: int  # of the tokens that fill a row up
    optional: bool  # zero everywhere where it is not given


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What a function says of itself, in its own file."""

    arguments: Mapping[str, Argument]
    results: tuple[str, ...]  # of an encoder-decoder, what the traces give that read; else the outputs alone
    by_token: bool  # whether each token of a row has outputs of its own
    shapes: Shapes
    precision: str


def sized(own: Argument, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of an argument whose axes have these sizes."""
    return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in own.axes)


def portions(num_rows: int, batch_sizes: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """How many rows are taken at once, and the size of the trace that takes them: at most half of it is filled up."""
    while num_rows:
        most = max(batch_sizes)
        size = next((size for size in sorted(batch_sizes) if size >= num_rows), most)
        if 2 * num_rows < size:
            size = max(one for one in batch_sizes if one <= num_rows)
        taken = min(num_rows, size)
        yield taken, size
        num_rows -= taken
