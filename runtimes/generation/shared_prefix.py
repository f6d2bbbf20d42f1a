"""A decoder that reads what the prompts of a batch begin with once, and not once for each of them."""

# Axes: B = rows, T = tokens of the prompt, S = tokens so far, P = tokens that all prompts begin with, V = vocabulary

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from runtimes.generation.decoded import Floats, Ids
from runtimes.generation.decoding import Decoder

Cache = TypeVar("Cache")


@dataclass(frozen=True, slots=True)
class Prefixed(Generic[Cache]):
    """A cache that begins with P tokens of the common beginning; a row's padding follows them."""

    cache: Cache
    num_prefix: int


@dataclass(frozen=True, slots=True)
class SharedPrefix(Generic[Cache]):
    """Another decoder, to whose attention the mask alone tells which tokens see each other: padding may lie inside."""

    decoder: Decoder[Cache]

    @property
    def encodes(self) -> bool:
        """Whether an encoder reads the prompts."""
        return self.decoder.encodes

    @property
    def max_positions(self) -> int | None:
        """Tokens that a row may have."""
        return self.decoder.max_positions

    def start(self, ids_BT: Ids, mask_BT: Ids) -> tuple[Floats, Prefixed[Cache]]:
        """The logits [B, V] of the last position of prompts, and the cache."""
        num_prefix = common_prefix(ids_BT, mask_BT)
        if not num_prefix or len(ids_BT) == 1:
            logits_BV, cache = self.decoder.start(ids_BT, mask_BT)
            return logits_BV, Prefixed(cache, 0)
        prefix_1P = ids_BT[:1, mask_BT[0].argmax() :][:, :num_prefix]
        _, cache = self.decoder.start(prefix_1P, np.ones_like(prefix_1P))
        cache = self.decoder.reorder(cache, np.zeros(len(ids_BT), np.int64))
        logits_BV, cache = self.decoder.step(ids_BT[:, num_prefix:], _inside(mask_BT, num_prefix), cache)
        return logits_BV, Prefixed(cache, num_prefix)

    def step(self, ids_B1: Ids, mask_BS: Ids, cache: Prefixed[Cache]) -> tuple[Floats, Prefixed[Cache]]:
        """The logits [B, V] of one token more for each row."""
        logits_BV, after = self.decoder.step(ids_B1, _inside(mask_BS, cache.num_prefix), cache.cache)
        return logits_BV, Prefixed(after, cache.num_prefix)

    def reorder(self, cache: Prefixed[Cache], rows: Ids) -> Prefixed[Cache]:
        """The cache of these rows of it."""
        return Prefixed(self.decoder.reorder(cache.cache, rows), cache.num_prefix)


def common_prefix(ids_BT: Ids, mask_BT: Ids) -> int:
    """How many tokens all prompts begin with, at least one token being left of each; padding is on the left."""
    shortest = int(mask_BT.sum(axis=1).min())
    starts_B = mask_BT.argmax(axis=1)
    heads_BN = np.stack([ids[start : start + shortest - 1] for ids, start in zip(ids_BT, starts_B, strict=True)])
    return int((heads_BN == heads_BN[0]).all(axis=0).cumprod().sum())


def _inside(mask_BS: Ids, num_prefix: int) -> Ids:
    """The mask with the padding behind the common beginning and not before it."""
    ones_BP = np.ones((len(mask_BS), num_prefix), mask_BS.dtype)
    return np.concatenate([ones_BP, mask_BS[:, : mask_BS.shape[1] - num_prefix]], axis=1)
