"""A function for MLX, as it is deployed and as the gate measures it: MLX and numpy, no torch.

A function computes on the kind of device that it was written for. It is not compiled: on Linux that takes a C++
compiler.
"""

# B = rows, T = tokens

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from compiler.typed import read
from runtimes.errors import RunError, first_line
from runtimes.export.functions import ROWS, TOKENS, Argument, Described, portions, sized
from runtimes.mlx.dtypes import DTYPES
from runtimes.protocol import Batch
from runtimes.rows.readings import read_outputs
from runtimes.tasks.interface import Reading
from runtimes.verification.gate import ScoreFunction

Arrays = Mapping[str, npt.NDArray[Any]]
FAILURES = (RuntimeError, ValueError, TypeError, IndexError, MemoryError)
"""What MLX raises for a file that it can't read, and for arrays that fit no trace."""


@dataclass(frozen=True, slots=True)
class FunctionSession:
    """An open function."""

    file: Path
    inner: Callable[..., tuple[mx.array, ...]]
    described: Described

    @property
    def inputs(self) -> tuple[str, ...]:
        """What it is given."""
        return tuple(self.described.arguments)

    @property
    def sessions(self) -> tuple[FunctionSession, ...]:
        """The open functions: this one."""
        return (self,)

    def outputs(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        """The results for a padded batch, [B, ...], rows and lengths filled up to those of a trace. Raises RunError."""
        num_rows, num_tokens = self._sizes(inputs)
        length = self._length(num_tokens)
        found, start = [], 0
        for taken, size in portions(num_rows, self.described.shapes.batch_sizes):
            rows = {name: values[start : start + taken] for name, values in inputs.items()}
            [result] = call(self, given_arrays(self.described, rows, {ROWS: size, TOKENS: length}))
            found.append(np.array(result, dtype=np.float32)[:taken])
            start += taken
        whole = np.concatenate(found)
        return whole[:, :num_tokens] if self.described.by_token else whole

    def _sizes(self, inputs: Arrays) -> tuple[int, int]:
        """The rows of a batch, and their tokens. Raises RunError E604 when an argument is not there."""
        named = self.described.arguments
        if lacking := [name for name, own in named.items() if name not in inputs and not own.optional]:
            raise failure(self.file, f"takes {', '.join(lacking)}, which nothing gives")
        sizes: dict[int | str, int] = {}
        for name in named.keys() & inputs.keys():
            sizes |= dict(zip(named[name].axes, inputs[name].shape, strict=False))
        return sizes[ROWS], sizes.get(TOKENS, 0)

    def _length(self, num_tokens: int) -> int:
        lengths = self.described.shapes.lengths
        return length_of(self, lengths, num_tokens) if lengths else 0


def call(session: FunctionSession, given: Mapping[str, mx.array]) -> tuple[mx.array, ...]:
    """The computed results of a function. Raises RunError E604 for arrays that fit no trace."""
    try:
        found = session.inner(**given)
        mx.eval(found)
    except FAILURES as error:
        raise failure(session.file, f"does not run: {first_line(error)}") from error
    return found


def length_of(session: FunctionSession, lengths: Sequence[int], num_tokens: int) -> int:
    """The shortest length that was traced and holds so many tokens. Raises RunError E604."""
    for length in lengths:
        if length >= num_tokens:
            return length
    raise failure(session.file, f"takes {lengths[-1]} tokens of a row, not {num_tokens}")


def given_arrays(described: Described, rows: Arrays, sizes: Mapping[str, int]) -> dict[str, mx.array]:
    """The arguments of a trace of these sizes, those of its axes that it has."""
    return {
        name: mx.array(_filled(rows.get(name), own, sized(own, sizes)), DTYPES[own.dtype])
        for name, own in described.arguments.items()
        if all(axis in sizes for axis in own.axes if isinstance(axis, str))
    }


def _filled(values: npt.NDArray[Any] | None, own: Argument, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Values in a trace's shape: rows are filled up with padding, and more rows are like the first."""
    if values is None:
        return np.zeros(shape, own.dtype)
    whole = np.full(shape, own.padding, own.dtype)
    whole[tuple(slice(size) for size in values.shape)] = values
    whole[len(values) :] = whole[:1]
    return whole


def open_function(file: Path) -> FunctionSession:
    """The function in a file. Raises RunError E604.

    MLX trusts what it reads, so that a damaged file may end the process: compare its hash before.
    """
    try:
        imported: Any = mx.import_function(str(file), return_metadata=True)
        inner, text = imported
        described = read(Described, json.loads(text))
    except FAILURES as error:
        raise failure(file, f"does not load: {first_line(error)}") from error
    return FunctionSession(file, inner, described)


def function_scores(file: Path, reading: Reading) -> ScoreFunction:
    """What is read of the results for batches by the deployed function."""
    session = open_function(file)

    def scores(batch: Batch) -> npt.NDArray[np.float32]:
        return read_outputs(reading, session.outputs(batch.inputs), batch.targets)

    return scores


def failure(file: Path, message: str) -> RunError:
    """What a function does wrong."""
    return RunError("E604", f"{file}: the function {message}", "export it again")
