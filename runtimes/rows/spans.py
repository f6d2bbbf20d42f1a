"""The part of a row's tokens that answers it: how it is marked in targets, and which is best by a model's figures.

A row's first token is the answer where there is none, as in BERT's SQuAD 2.0 (Devlin et al. 2019, arXiv:1810.04805,
4.3): what is best is the likeliest pair of first and last token, its two log-probabilities added.
"""

# T = tokens of a row, P = tokens of all rows, K = tokens of the longest answer

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from runtimes.rows.features import IGNORED, POSSIBLE
from runtimes.rows.readings import FIRST, LAST, PLACE
from runtimes.verification.gate import UNDECIDED

FIRST_TOKEN, ONE_TOKEN, LAST_TOKEN = 0, 1, -102
"""Targets of an answer's tokens: of the first, which stands for the row; of the only one; of the last."""
_BASE = 1 << 20  # tokens of a row, at most
_Figures = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Best:
    """The likeliest answer of a row: its tokens, the first and the last; the row's first one where there is none."""

    start: int
    end: int
    score: float  # log-probability
    margin: float  # how far the next one is below; infinite where there is no other
    none: float  # score of there being no answer

    @property
    def is_none(self) -> bool:
        """Whether there is no answer."""
        return self.start == 0


def best_span(
    figures_TC: _Figures, possible_T: npt.NDArray[np.bool_], most: int, *, no_answer: bool, passages_only: bool = False
) -> Best:
    """The best answer of at most `most` tokens, all of which are possible; the first of equal ones.

    `no_answer`: whether there may be none; there is none in a row without text. `passages_only`: even then the best
    part of the text, if there is one, but with the score of there being none.
    """
    first_T, last_T = figures_TC[:, FIRST].astype(np.float64), figures_TC[:, LAST].astype(np.float64)
    none = float(first_T[0] + last_T[0])
    places = np.flatnonzero(possible_T[1:]) + 1
    first, count = (int(places[0]), len(places)) if len(places) else (0, 0)
    most = min(most, count)
    scores_KT = np.full((most, count), -np.inf)  # of spans that are so many tokens longer than one, by their first
    for more in range(most):
        scores_KT[more, : count - more] = first_T[first : first + count - more] + last_T[first + more : first + count]
    flat = scores_KT.T.ravel()
    if (no_answer and not passages_only) or not count:
        flat = np.concatenate([[none], flat])
    best = int(flat.argmax())
    margin = float(flat[best] - np.partition(flat, -2)[-2]) if len(flat) > 1 else np.inf
    offset = len(flat) - most * count
    if best < offset:
        return Best(0, 0, none, margin, none)
    start, more = divmod(best - offset, most)
    return Best(first + start, first + start + more, float(flat[best]), margin, none)


def decide_spans(
    figures_PC: _Figures, most: int, *, no_answer: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """[P] the best answer of each row, as a number at its first token, and how far it is above the next one.

    Rows are told by the places of their tokens.
    """
    decided, margin = np.full(len(figures_PC), UNDECIDED, np.int64), np.full(len(figures_PC), np.inf)
    for start, end in row_ranges(figures_PC):
        row_TC = figures_PC[start:end]
        best = best_span(row_TC, row_TC[:, PLACE] >= 0, most, no_answer=no_answer)
        decided[start], margin[start] = best.start * _BASE + best.end, best.margin
    return decided, margin


def tokens_of(decision: int) -> tuple[int, int]:
    """The first and the last token of what was decided; twice the first one of the row where there is no answer."""
    return divmod(decision, _BASE)


def row_ranges(figures_PC: _Figures) -> list[tuple[int, int]]:
    """Where each row starts and ends: its first token has the place 0."""
    starts = [*np.flatnonzero(figures_PC[:, PLACE] == 0).tolist(), len(figures_PC)]
    return list(pairwise(starts))


def marked(num_tokens: int, context: range, answer: tuple[int, int] | None) -> npt.NDArray[np.int32]:
    """[T] the targets of a row. `context`: the tokens of its text; `answer`: its first and last, None for none."""
    targets = np.full(num_tokens, IGNORED, np.int32)
    targets[context.start : context.stop] = POSSIBLE
    targets[0] = POSSIBLE
    start, end = answer or (0, 0)
    targets[end] = LAST_TOKEN
    targets[start] = FIRST_TOKEN if end > start else ONE_TOKEN
    return targets
