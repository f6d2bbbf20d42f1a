"""What a decoder wrote, what its logits said at each token, and what ends an answer."""

# Axes: B = rows, V = vocabulary

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Ended = Literal["eos", "stop", "length"]
Detokenize = Callable[[Sequence[int]], str]
Floats = npt.NDArray[np.floating]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One answer, its end token included where it has one; nothing of the prompt."""

    ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    """Of each token, in nats, by the model's own softmax: without temperature, top_k and top_p."""
    margins: tuple[float, ...] = ()
    """Largest less second largest logit where each token was chosen."""
    ended: Ended | None = None

    @property
    def log_prob(self) -> float:
        """Of the whole answer, in nats."""
        return sum(self.log_probs)

    def extended(self, token: int, log_prob: float, margin: float) -> Decoded:
        """The answer with one token more."""
        return replace(
            self,
            ids=(*self.ids, token),
            log_probs=(*self.log_probs, log_prob),
            margins=(*self.margins, margin),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """What ends an answer."""

    eos_ids: frozenset[int]
    stop: tuple[str, ...]
    detokenize: Detokenize | None

    def ending(self, answer: Decoded, limit: int) -> Decoded:
        """The answer with the reason why its last token is the last, if it is; it has at most `limit` tokens."""
        return replace(answer, ended=self._reason(answer, limit))

    def _reason(self, answer: Decoded, limit: int) -> Ended | None:
        if answer.ids[-1] in self.eos_ids:
            return "eos"
        if self.stop and self.detokenize is not None:
            text = self.detokenize(answer.ids)
            if any(stop in text for stop in self.stop):
                return "stop"
        return "length" if len(answer.ids) >= limit else None


def eos_ids(*configs: Any) -> tuple[int, ...]:
    """The end tokens that the first of some configurations names: a model's generation_config.json, its config.json."""
    for config in configs:
        named = config.get("eos_token_id") if isinstance(config, dict) else None
        if found := tuple(token for token in (named if isinstance(named, list) else [named]) if isinstance(token, int)):
            return found
    return ()


def before_stop(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the stop strings in it."""
    return text[: min((at for word in stop if (at := text.find(word)) >= 0), default=len(text))]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the logits [B, V] of rows say of their next token."""

    logits: Floats
    totals: Floats
    """[B] logarithm of the sum of the exponentials: what a logit is less its token's log-probability."""
    best: Ids
    """[B] the likeliest token."""
    margins: Floats
    """[B] largest less second largest logit."""

    def log_probs(self, ids_B: Ids) -> Floats:
        """[B] of a token of each row, in nats."""
        found: Floats = self.logits[np.arange(len(ids_B)), ids_B] - self.totals
        return found


def read(logits_BV: Floats) -> Reading:
    """What logits say, in float64; of equal logits the first is the best."""
    rows = np.arange(len(logits_BV))
    best_B = logits_BV.argmax(axis=1)
    largest_B = logits_BV[rows, best_B].astype(np.float64)
    others_BV = logits_BV.copy()
    others_BV[rows, best_B] = -np.inf
    totals_B = largest_B + np.log(np.exp(logits_BV - largest_B[:, None]).sum(axis=1))
    return Reading(logits_BV, totals_B, best_B, largest_B - others_BV.max(axis=1))


def largest(values_N: Floats, count: int) -> Ids:
    """The places of the `count` largest values, or of all: the largest first, of equal ones the first."""
    count = min(count, len(values_N))
    places = np.sort(np.argpartition(-values_N, count - 1)[:count])
    found: Ids = places[np.argsort(-values_N[places], kind="stable")]
    return found
