"""What is kept of a model's logits: all of them, or of a language model a few figures for each token."""

# P = positions in any shape, V = vocabulary, C = figures of a position

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from runtimes.features import IGNORED
from runtimes.tasks.interface import Reading

NUM_SAMPLED = 13
"""Tokens spread evenly over the vocabulary, read beside the target and the best."""
TARGET, BEST, SECOND = 0, 1, 2
NUM_FIGURES = 3 + NUM_SAMPLED


def read_outputs(reading: Reading, logits: npt.NDArray[Any], targets: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """What is kept of logits [..., V]: these themselves, or `token_figures`."""
    return np.asarray(logits if reading == "logits" else token_figures(logits, targets), np.float32)


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
