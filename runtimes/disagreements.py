"""The rows over which two models disagree, for the eye: disagreements.jsonl."""

# Axes: B = rows, C = classes

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtimes.gate import Scores, margins

NUM_OVER = 20
"""Rows that are decided alike but differ by more than the tolerance: so many are written, the worst first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One row of a comparison: its number in the split, its text, its true label where it has one."""

    number: int
    text: str
    label: str | None


def disagreements(
    rows: Sequence[Compared], source_BC: Scores, other_BC: Scores, tolerance: float, labels: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """A JSON object for each row decided otherwise, and for the worst of those that are over the tolerance."""
    if source_BC.shape != other_BC.shape or not source_BC.size:
        return
    with np.errstate(invalid="ignore"):
        delta_B = np.nan_to_num(np.abs(source_BC - other_BC).max(axis=1), nan=np.inf)
    differ_B = source_BC.argmax(axis=1) != other_BC.argmax(axis=1)
    tied_B = margins(source_BC) < tolerance
    over_B = ~differ_B & (delta_B > tolerance)
    for index in [*_worst(differ_B, delta_B), *_worst(over_B, delta_B)[:NUM_OVER]]:
        yield {
            "row": rows[index].number,
            "text": rows[index].text,
            "label": rows[index].label,
            "differs": "decision" if differ_B[index] else "outputs",
            "near_tie": bool(differ_B[index] and tied_B[index]),
            "max_abs": _finite(delta_B[index]),
            "source": _answer(source_BC[index], labels),
            "other": _answer(other_BC[index], labels),
        }


def _worst(chosen_B: npt.NDArray[np.bool_], delta_B: npt.NDArray[np.floating[Any]]) -> list[int]:
    found = np.flatnonzero(chosen_B)
    return [int(index) for index in found[np.argsort(-delta_B[found], kind="stable")]]


def _answer(scores_C: Scores, labels: Sequence[str]) -> dict[str, Any]:
    return {"decision": labels[int(scores_C.argmax())], "scores": [_finite(score) for score in scores_C]}


def _finite(value: Any) -> float | None:
    return float(str(np.float32(value))) if np.isfinite(value) else None
