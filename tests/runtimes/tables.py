"""A small decoder without a framework: the logits of a token follow from all tokens before it, by a table."""

# Axes: B = rows, T = tokens, S = tokens so far, V = vocabulary

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from runtimes.generation.decoded import Floats, Ids
from runtimes.generation.decoding import positions


@dataclass(frozen=True, slots=True)
class Tables:
    """The row of the table is the sum of (position + 1) * token, so order, padding and caches all matter."""

    table: Floats
    max_positions: int | None = None
    batches: list[int] = field(default_factory=list)
    """How many rows each call had."""
    encodes = False

    def logits(self, tokens: Sequence[int]) -> Floats:
        """[V] after these tokens."""
        place = sum((position + 1) * token for position, token in enumerate(tokens)) % len(self.table)
        found: Floats = self.table[place]
        return found

    def start(self, ids_BT: Ids, mask_BT: Ids) -> tuple[Floats, Ids]:
        weights_BT = (positions(mask_BT, ids_BT.shape[1]) + 1) * mask_BT
        return self._answer((weights_BT * ids_BT).sum(axis=1))

    def step(self, ids_B1: Ids, mask_BS: Ids, cache: Ids) -> tuple[Floats, Ids]:
        assert mask_BS.shape[0] == len(ids_B1) == len(cache)
        num_new = ids_B1.shape[1]  # several, where a beginning is shared
        weights_BN = (positions(mask_BS, num_new) + 1) * mask_BS[:, -num_new:]
        return self._answer(cache + (weights_BN * ids_B1).sum(axis=1))

    def reorder(self, cache: Ids, rows: Ids) -> Ids:
        return cache[rows]

    def _answer(self, sums_B: Ids) -> tuple[Floats, Ids]:
        self.batches.append(len(sums_B))
        return self.table[sums_B % len(self.table)], sums_B


def random_tables(num_tokens: int = 12, *, places: int = 31, seed: int = 0, limit: int | None = None) -> Tables:
    """A decoder with random logits."""
    table = np.random.default_rng(seed).normal(0, 2, (places, num_tokens)).astype(np.float32)
    return Tables(table, limit)


def random_prompts(count: int, num_tokens: int = 12, *, longest: int = 9, seed: int = 1) -> list[list[int]]:
    """Prompts of different lengths."""
    random = np.random.default_rng(seed)
    return [random.integers(1, num_tokens, random.integers(1, longest + 1)).tolist() for _ in range(count)]


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities over the last axis, in float64, the plain way."""
    shares = np.exp(logits.astype(np.float64))
    found: Floats = np.log(shares / shares.sum(axis=-1, keepdims=True))
    return found
