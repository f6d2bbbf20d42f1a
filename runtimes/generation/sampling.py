"""Drawn tokens: a row's draw depends on (seed, row, position) and on its own logits alone."""

# Axes: B = rows, V = vocabulary, K = tokens that may be drawn

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from compiler.generation import Generation
from runtimes.generation.decoded import Floats, Ids, largest
from runtimes.randomness import uniform


def drawn(logits_BV: Floats, generation: Generation, rows: Sequence[int], position: int) -> Ids:
    """[B] the next token of each row, drawn; `position` counts the tokens of the answer.

    The largest sum of a scaled logit and Gumbel noise of its own: a draw from the softmax (Gumbel 1954; Maddison,
    Tarlow and Minka 2014, arXiv:1411.0030). Unlike a draw along the cumulated shares, a small change of one logit
    changes nothing between the other tokens.
    """
    return np.array(
        [_drawn(logits_V, generation, row, position) for logits_V, row in zip(logits_BV, rows, strict=True)],
        dtype=np.int64,
    )


def _drawn(logits_V: Floats, generation: Generation, row: int, position: int) -> int:
    scaled_V = logits_V.astype(np.float64) / generation.temperature
    ids_K = candidates(scaled_V, generation.top_k, generation.top_p)
    chance_V = uniform(len(logits_V), generation.seed, "token", row, position) + 2.0**-54  # above zero
    noise_K = -np.log(-np.log(chance_V[ids_K]))
    return int(ids_K[(scaled_V[ids_K] + noise_K).argmax()])


def candidates(scaled_V: npt.NDArray[np.float64], top_k: int | None, top_p: float) -> Ids:
    """[K] the tokens that may be drawn: the `top_k` likeliest, and of these the fewest with `top_p` of their share."""
    if top_p >= 1:
        return np.arange(len(scaled_V)) if top_k is None else largest(scaled_V, top_k)
    shares_V = np.exp(scaled_V - scaled_V.max())
    ids_K = _enough(shares_V, top_p) if top_k is None else largest(shares_V, top_k)
    total = shares_V.sum() if top_k is None else shares_V[ids_K].sum()
    shares_K = shares_V[ids_K]
    found: Ids = ids_K[shares_K.cumsum() - shares_K < top_p * total]
    return found


def _enough(shares_V: npt.NDArray[np.float64], top_p: float) -> Ids:
    """The largest shares, at least as many as make up `top_p` of all; a vocabulary is rarely sorted as a whole."""
    count, wanted = 64, top_p * shares_V.sum()
    while True:
        ids_K = largest(shares_V, count)
        if len(ids_K) == len(shares_V) or shares_V[ids_K].sum() >= wanted:
            return ids_K
        count *= 8
