"""Generation by onnxruntime with graphs whose attention is GroupQueryAttention, as onnxruntime-genai's builder writes.

The operator reads of the mask how many tokens each row has, and nothing else: a row's tokens stand at the beginning of
its cache, its padding behind them, and a new token is put after the last one of its own row. So prompts are padded on
the right, and of a step's mask the sums are given. Over a cache the operator takes one new token a row, or several of
one row alone.
"""

# Axes: B = rows, N = new tokens, T = tokens of the prompt, S = tokens so far, P = places of the cache, V = vocabulary,
#       H = heads of keys, D = size of a head

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtimes.export.facts import PAST, PRESENT
from runtimes.export.session import Session, ort_value
from runtimes.generation.decoded import Floats, Ids
from runtimes.generation.decoding import positions

Cache = Mapping[str, Any]
"""The session's own arrays of keys and values [B, H, P, D], by the names of the inputs."""
OPERATOR = "GroupQueryAttention"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedDecoder:
    """An open graph with a cache, whose rows begin at its beginning."""

    session: Session
    sizes: Mapping[str, tuple[int, int]]
    """Of each input of the cache: H and D."""
    dtype: type[np.floating]
    """Of the cache."""
    max_positions: int | None
    encodes = False

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The open graphs: one."""
        return (self.session,)

    def start(self, ids_BT: Ids, mask_BT: Ids) -> tuple[Floats, Cache]:
        """The logits [B, V] of the last position of prompts, and the cache."""
        ids_BT, lengths_B = begun_left(ids_BT, mask_BT)
        logits_BTV, cache = self._run(ids_BT, lengths_B, self._empty(len(ids_BT)))
        return logits_BTV[np.arange(len(ids_BT)), lengths_B - 1], cache

    def step(self, ids_BN: Ids, mask_BS: Ids, cache: Cache) -> tuple[Floats, Cache]:
        """The logits [B, V] after one token more for each row, or after several, of which the first may be padding."""
        lengths_B = mask_BS.sum(axis=1)
        if ids_BN.shape[1] == 1:
            logits_B1V, cache = self._run(ids_BN, lengths_B, cache)
            return logits_B1V[:, -1], cache
        rows = [
            self._several(ids_N[mask_N == 1], length, self._row(cache, row, length - int(mask_N.sum())))
            for row, (ids_N, mask_N, length) in enumerate(
                zip(ids_BN, mask_BS[:, -ids_BN.shape[1] :], lengths_B.tolist(), strict=True)
            )
        ]
        return np.stack([logits_V for logits_V, _ in rows]), _stacked([cache for _, cache in rows])

    def reorder(self, cache: Cache, rows: Ids) -> Cache:
        """The cache of these rows of it."""
        return {name: ort_value(value.numpy()[rows]) for name, value in cache.items()}

    def logits(self, ids_BT: Ids, mask_BT: Ids) -> Floats:
        """The logits [B, T, V] at every position of rows, padded on any side; zeros at padding."""
        left_BT, lengths_B = begun_left(ids_BT, mask_BT)
        logits_BTV, _ = self._run(left_BT, lengths_B, self._empty(len(ids_BT)))
        found = np.zeros((*ids_BT.shape, logits_BTV.shape[-1]), logits_BTV.dtype)
        found[mask_BT == 1] = logits_BTV[_filled(lengths_B, left_BT.shape[1]) == 1]
        return found

    def outputs(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Floats:
        """The logits [B, T, V] of a padded batch."""
        return self.logits(inputs["input_ids"], inputs["attention_mask"])

    def _empty(self, num_rows: int) -> Cache:
        """The cache before the first token of each row."""
        return {
            name: ort_value(np.zeros((num_rows, num_heads, 0, size), self.dtype))
            for name, (num_heads, size) in self.sizes.items()
        }

    def _row(self, cache: Cache, row: int, length: int) -> Cache:
        """What is cached of one row, nothing behind it."""
        return {name: ort_value(value.numpy()[row : row + 1, :, :length]) for name, value in cache.items()}

    def _several(self, ids_N: Ids, length: int, cache: Cache) -> tuple[Floats, Cache]:
        """The logits [V] after several tokens of one row."""
        logits_1NV, after = self._run(ids_N[None], np.array([length]), cache)
        return logits_1NV[0, -1], after

    def _run(self, ids_BN: Ids, lengths_B: Ids, cache: Cache) -> tuple[Floats, Cache]:
        """The logits [B, N, V] of new tokens, and the cache with them; `lengths_B`: of rows with their new tokens."""
        num_cached = next(iter(cache.values())).shape()[2]
        mask_BS = _filled(lengths_B, num_cached + ids_BN.shape[1])
        places_BN = positions(mask_BS, ids_BN.shape[1])
        tokens = {"input_ids": ids_BN, "attention_mask": mask_BS, "position_ids": places_BN}
        given = {name: ort_value(value) for name, value in tokens.items() if name in self.session.inputs} | dict(cache)
        names = [name.replace(PAST, PRESENT) for name in self.sizes]
        outputs = self.session.values(["logits", *names], given)
        logits_BNV: Floats = outputs.pop("logits").numpy()
        return logits_BNV, {name.replace(PRESENT, PAST): value for name, value in outputs.items()}


def begun_left(ids_BT: Ids, mask_BT: Ids) -> tuple[Ids, Ids]:
    """Token ids [B, T], padded on the right to the longest, and how many tokens each row has [B]."""
    lengths_B = mask_BT.sum(axis=1)
    places_BT = np.argsort(-mask_BT, axis=1, kind="stable")[:, : lengths_B.max()]
    return np.take_along_axis(ids_BT, places_BT, axis=1), lengths_B


def _filled(lengths_B: Ids, width: int) -> Ids:
    """The mask [B, width] of rows that are padded on the right."""
    return (np.arange(width) < lengths_B[:, None]).astype(np.int64)


def _stacked(rows: list[Cache]) -> Cache:
    """The caches of single rows as one, as long as the longest."""

    def whole(name: str) -> npt.NDArray[Any]:
        arrays = [row[name].numpy() for row in rows]
        longest = max(array.shape[2] for array in arrays)
        return np.concatenate(
            [np.pad(array, ((0, 0), (0, 0), (0, longest - array.shape[2]), (0, 0))) for array in arrays]
        )

    return {name: ort_value(whole(name)) for name in rows[0]}
