"""The rows over which two models disagree, for the eye: disagreements.jsonl."""

# Axes: P = positions of all rows, C = outputs of a position

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.tasks import Task
from runtimes import tasks
from runtimes.rows.features import Ragged
from runtimes.verification.gate import Scores, any_output

NUM_OVER = 20
"""Rows that are decided alike but differ by more than the tolerance: so many are written, the worst first."""


def disagreements(
    task: Task, numbers: Sequence[int], rows: Sequence[Mapping[str, Any]], source: Ragged, other: Ragged, allowed: float
) -> Iterator[dict[str, Any]]:
    """A JSON object for each row decided otherwise, and for the worst of those that are over what is allowed.

    `numbers`: of the rows in the split. A row with several positions is told of by the worst of them.
    """
    if source.values.shape != other.values.shape or not source.values.size:
        return
    module = tasks.module_of(task)
    with np.errstate(invalid="ignore"):
        delta_PC = np.abs(source.values - other.values) / np.asarray(module.head(task).units, source.values.dtype)
        delta_P = np.nan_to_num(delta_PC.max(axis=1), nan=np.inf)
    differ_P, tied_P = np.zeros(len(delta_P), bool), np.zeros(len(delta_P), bool)
    decide = module.decider(task)
    if decide is not None:
        decided, margin = decide(source.values)
        differ = decided != decide(other.values)[0]
        differ_P, tied_P = any_output(differ), ~any_output(differ & (margin >= allowed))
    over_P = ~differ_P & (delta_P > allowed)
    for place in [*_worst(differ_P, delta_P, source), *_worst(over_P, delta_P, source)[:NUM_OVER]]:
        index = int(source.rows[place])
        yield {
            "row": numbers[index],
            "position": int(place - source.offsets[index]),
            "values": dict(rows[index]),
            "differs": "decision" if differ_P[place] else "outputs",
            "near_tie": bool(differ_P[place] and tied_P[place]),
            "max_abs": _finite(delta_P[place]),
            "source": _answer(task, source.row(index), source.values[place]),
            "other": _answer(task, other.row(index), other.values[place]),
        }


def _worst(chosen_P: npt.NDArray[np.bool_], delta_P: npt.NDArray[np.floating[Any]], of: Ragged) -> list[int]:
    """The worst chosen position of each row that has one, the worst first."""
    found = np.flatnonzero(chosen_P)
    found = found[np.argsort(-delta_P[found], kind="stable")]
    _, first = np.unique(of.rows[found], return_index=True)
    return [int(place) for place in found[np.sort(first)]]


def _answer(task: Task, row_PC: Scores, outputs_C: Scores) -> dict[str, Any]:
    outputs = [_finite(output) for output in outputs_C]
    decided = tasks.module_of(task).decision(task, row_PC) if np.isfinite(row_PC).all() else None
    return {"decision": decided, "outputs": outputs}


def _finite(value: Any) -> float | None:
    return float(str(np.float32(value))) if np.isfinite(value) else None
