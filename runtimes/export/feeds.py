"""What a graph is fed for a batch of rows: what these have, and what is made beside it.

Made are positions, one segment, an empty cache and its switch: whatever graphs want that follows from the tokens.
"""

# Axes: B = rows, T = tokens, H = heads, D = size of a head

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtimes.errors import RunError
from runtimes.export.facts import PAST
from runtimes.generation.decoding import positions

Arrays = Mapping[str, npt.NDArray[Any]]
BRANCH = "use_cache_branch"
_MADE = ("token_type_ids", "position_ids", "cache_position", BRANCH)
_CACHE = ("rows", "heads", "tokens", "size of a head")


@dataclass(frozen=True, slots=True)
class Input:
    """An input of a graph: its numpy type, and its shape, in which a size that varies is no number."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def fixed(self, axis: int) -> int | None:
        """The size of an axis where it is fixed."""
        return self.shape[axis] if len(self.shape) > axis else None


def input_of(file: Path, name: str, dtype: str, shape: Iterable[object]) -> Input:
    """An input of a graph; a size that varies may be a name. Raises RunError E610 for a cache that can't be made."""
    found = Input(name, dtype, tuple(size if isinstance(size, int) and size > 0 else None for size in shape))
    if name.startswith(PAST) and len(found.shape) != len(_CACHE):
        message = f"{file}: the cache {name} has {len(found.shape)} axes, and not {len(_CACHE)}: {', '.join(_CACHE)}"
        raise RunError("E610", message, "export it with such a cache, or without one")
    return found


def is_made(name: str) -> bool:
    """Whether an input is made where no row has it."""
    return name in _MADE or name.startswith(PAST)


def feeds(inputs: Iterable[Input], given: Arrays, *, cached: bool) -> dict[str, npt.NDArray[Any]]:
    """What a graph is fed for a batch, each input in its own type; one that is neither given nor made is left out.

    `cached`: positions are counted along the mask, as decoders count them, and not along the row.
    """
    fed = {each: _fed(each, given, cached=cached) for each in inputs if each.name in given or is_made(each.name)}
    return {each.name: array.astype(each.dtype, copy=False) for each, array in fed.items()}


def for_writing(given: Arrays) -> dict[str, npt.NDArray[Any]]:
    """What the half of an encoder-decoder that writes has of a batch, beside what the other half made of it."""
    ids = given["decoder_input_ids"]
    return {
        "input_ids": ids,
        "decoder_input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "decoder_attention_mask": np.ones_like(ids),
        "encoder_attention_mask": given["attention_mask"],
    }


def first(given: Arrays) -> npt.NDArray[Any]:
    """The array of a batch that is always there: its tokens, or its images."""
    return given["input_ids"] if "input_ids" in given else next(iter(given.values()))


def _fed(wanted: Input, given: Arrays, *, cached: bool) -> npt.NDArray[Any]:
    if wanted.name in given:
        return given[wanted.name]
    if wanted.name.startswith(PAST):
        _, num_heads, _, size = wanted.shape
        return np.zeros((len(first(given)), num_heads or 0, 0, size or 0), wanted.dtype)
    if wanted.name == BRANCH:
        return np.zeros(1, bool)
    ids_BT = given["input_ids"]
    places_BT = np.broadcast_to(np.arange(ids_BT.shape[1]), ids_BT.shape)
    if wanted.name == "position_ids":
        return positions(given["attention_mask"], ids_BT.shape[1]) if cached else places_BT
    return places_BT[0] if wanted.name == "cache_position" else np.zeros_like(ids_BT)
