"""The rows over which two models disagree, for the eye: disagreements.jsonl."""

# Axes: B = rows, C = outputs of a row

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.tasks import Task
from runtimes import tasks
from runtimes.gate import Scores

NUM_OVER = 20
"""Rows that are decided alike but differ by more than the tolerance: so many are written, the worst first."""


def disagreements(
    task: Task, numbers: Sequence[int], rows: Sequence[Mapping[str, Any]], source: Scores, other: Scores, allowed: float
) -> Iterator[dict[str, Any]]:
    """A JSON object for each row decided otherwise, and for the worst of those that are over what is allowed.

    `numbers`: of the rows in the split.
    """
    if source.shape != other.shape or not source.size:
        return
    module = tasks.module_of(task)
    with np.errstate(invalid="ignore"):
        delta_B = np.nan_to_num(np.abs(source - other).max(axis=1), nan=np.inf)
    differ_B, tied_B = np.zeros(len(source), bool), np.zeros(len(source), bool)
    if module.DECIDE is not None:
        decided_B, margin_B = module.DECIDE(source)
        differ_B, tied_B = decided_B != module.DECIDE(other)[0], margin_B < allowed
    over_B = ~differ_B & (delta_B > allowed)
    for index in [*_worst(differ_B, delta_B), *_worst(over_B, delta_B)[:NUM_OVER]]:
        yield {
            "row": numbers[index],
            "values": dict(rows[index]),
            "differs": "decision" if differ_B[index] else "outputs",
            "near_tie": bool(differ_B[index] and tied_B[index]),
            "max_abs": _finite(delta_B[index]),
            "source": _answer(task, source[index]),
            "other": _answer(task, other[index]),
        }


def _worst(chosen_B: npt.NDArray[np.bool_], delta_B: npt.NDArray[np.floating[Any]]) -> list[int]:
    found = np.flatnonzero(chosen_B)
    return [int(index) for index in found[np.argsort(-delta_B[found], kind="stable")]]


def _answer(task: Task, outputs_C: Scores) -> dict[str, Any]:
    module = tasks.module_of(task)
    outputs = [_finite(output) for output in outputs_C]
    decided = None if None in outputs else module.decision(module.answer(task, outputs_C))
    return {"decision": decided, "outputs": outputs}


def _finite(value: Any) -> float | None:
    return float(str(np.float32(value))) if np.isfinite(value) else None
