"""What is kept of a model's logits: all of them, or a few figures for each token."""

# P = positions in any shape, V = vocabulary, C = figures of a position, B = batch, T = tokens of a row

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from runtimes.rows.features import IGNORED
from runtimes.tasks.interface import Reading

NUM_SAMPLED = 13
"""Tokens spread evenly over the vocabulary, read beside the target and the best."""
TARGET, BEST, SECOND = 0, 1, 2
NUM_FIGURES = 3 + NUM_SAMPLED
FIRST, LAST, PLACE = 0, 1, 2
"""Of what marks a part of a text: log-probabilities that it begins and that it ends with a token; and whether that is
the first of its row (0), another one that can be of the answer (1), or none of these (-1)."""
NUM_SPAN_FIGURES = 3
LEAST = -1e30
"""Takes the place of the logits of tokens that can't be the answer; less is no float32 with a logit to spare."""


def read_outputs(reading: Reading, logits: npt.NDArray[Any], targets: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """What is kept of logits [..., V]: these themselves, `token_figures`, or `span_figures`."""
    if reading == "logits":
        return np.asarray(logits, np.float32)
    return np.asarray((token_figures if reading == "tokens" else span_figures)(logits, targets), np.float32)


def span_figures(logits_BTC: npt.NDArray[Any], targets_BT: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[B, T, 3] log-probabilities in nats that the answer to a row begins with a token, and that it ends with it.

    Over those that it can be of: others have zeros. The last figure is none of the model's, and small: the largest
    figure decides what the gate takes for rounding.
    """
    possible_BT1 = (targets_BT != IGNORED)[..., None]
    logits_BTC = np.where(possible_BT1, logits_BTC, np.asarray(LEAST, logits_BTC.dtype))
    shifted_BTC = logits_BTC - logits_BTC.max(axis=1, keepdims=True)
    shares_BTC = shifted_BTC - np.log(np.exp(shifted_BTC).sum(axis=1, keepdims=True))
    places_T1 = np.minimum(np.arange(targets_BT.shape[1]), 1)[:, None]
    figures: npt.NDArray[Any] = np.concatenate(
        [np.where(possible_BT1, shares_BTC, 0), np.where(possible_BT1, places_T1, -1)], axis=-1
    )
    return figures


def token_figures(logits_PV: npt.NDArray[Any], targets_P: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[..., C] log-probabilities in nats: of the target, of the best token and the second, and of a sample.

    A vocabulary of 50,000 numbers a token would fill the memory, and a difference in any of them moves the sum under
    all log-probabilities. Where nothing is to be answered the target's is zero.
    """
    answered_P = targets_P != IGNORED
    logits_PV = logits_PV.astype(np.result_type(logits_PV.dtype, np.float32), copy=False)
    best_P2 = -np.partition(-logits_PV, 1, axis=-1)[..., :2]
    best_P2 = np.sort(best_P2, axis=-1)[..., ::-1]
    sums_P = best_P2[..., 0] + np.log(np.exp(logits_PV - best_P2[..., :1]).sum(axis=-1))
    chosen_P1 = np.take_along_axis(logits_PV, np.where(answered_P, targets_P, 0)[..., None], axis=-1)
    sampled_PC = logits_PV[..., sample(logits_PV.shape[-1])]
    figures_PC: npt.NDArray[Any] = np.concatenate([chosen_P1, best_P2, sampled_PC], axis=-1) - sums_P[..., None]
    figures_PC[..., TARGET] *= answered_P
    return figures_PC


def sample(num_tokens: int) -> npt.NDArray[np.int64]:
    """Numbers of NUM_SAMPLED tokens spread evenly over a vocabulary."""
    return np.linspace(0, num_tokens - 1, NUM_SAMPLED).round().astype(np.int64)


def decide_tokens(figures_PC: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Whether the target is the best token [P], and how far that is from being otherwise."""
    target_P, best_P = figures_PC[:, TARGET].astype(np.float64), figures_PC[:, BEST].astype(np.float64)
    right_P = target_P >= best_P
    margin_P = np.where(right_P, best_P - figures_PC[:, SECOND], best_P - target_P)
    return right_P.astype(np.int64), margin_P
