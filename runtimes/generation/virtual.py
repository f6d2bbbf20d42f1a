"""Virtual tokens of a decoder, as it keeps them: keys and values that stand in its cache before each row."""

# B = rows, V = virtual tokens, S = tokens so far, H = heads of keys, D = size of a head

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compiler.files import new_file
from runtimes.export.facts import PAST
from runtimes.generation.decoded import Floats, Ids


@dataclass(frozen=True, slots=True)
class VirtualCache:
    """Of each layer the keys and the values, [1, H, V, D] float32 each; of no layer without virtual tokens."""

    layers: tuple[tuple[Floats, Floats], ...] = ()

    @property
    def num_tokens(self) -> int:
        """How many stand before each row."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def seen(self, mask_BS: Ids) -> Ids:
        """The mask [B, V + S]: virtual tokens are never padding."""
        return np.pad(mask_BS, ((0, 0), (self.num_tokens, 0)), constant_values=1) if self.layers else mask_BS

    def left(self, max_positions: int | None) -> int | None:
        """Of a model's positions those that rows have."""
        return max_positions and max_positions - self.num_tokens

    def of_rows(self, num_rows: int) -> list[tuple[Floats, Floats]]:
        """Of each layer the keys and the values, [B, H, V, D]."""
        return [(np.repeat(key, num_rows, axis=0), np.repeat(value, num_rows, axis=0)) for key, value in self.layers]


def behind_virtual(mask_BT: Ids, num_tokens: int) -> Ids:
    """The mask of sources [B, V + T], of which `num_tokens` in all were encoded: the first are virtual ones."""
    return np.pad(mask_BT, ((0, 0), (num_tokens - mask_BT.shape[1], 0)), constant_values=1)


def write_virtual(cache: VirtualCache, file: Path) -> None:
    """Writes the arrays by the names of the inputs that they are for: past_key_values.{i}.key and .value."""
    named = {
        f"{PAST}{at}.{kind}": array
        for at, layer in enumerate(cache.layers)
        for kind, array in zip(("key", "value"), layer, strict=True)
    }
    with new_file(file) as opened:
        np.savez(opened, **named)  # type: ignore[arg-type]  # the stub takes allow_pickle for one of them


def read_virtual(file: Path, shapes: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> VirtualCache:
    """The cache in a file, where there is one. Raises ValueError when it is not of layers of these sizes [H, D]."""
    if not file.exists():
        return VirtualCache()
    with np.load(file, allow_pickle=False) as found:
        arrays = dict(found)
    names = [f"{PAST}{at}.{kind}" for at in range(len(shapes)) for kind in ("key", "value")]
    if [*arrays] != names:
        raise ValueError(f"{file.name} has not the keys and values of {len(shapes)} layers")
    cache = VirtualCache(
        tuple((arrays[key], arrays[value]) for key, value in zip(names[::2], names[1::2], strict=True))
    )
    for layer, sizes in zip(cache.layers, shapes, strict=True):
        for array, (num_heads, size) in zip(layer, sizes, strict=True):
            if array.dtype != np.float32 or array.shape != (1, num_heads, cache.num_tokens, size):
                raise ValueError(f"{file.name} is of another model: {array.dtype} {list(array.shape)}")
    return cache
