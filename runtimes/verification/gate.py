"""The gate's comparisons: what a source answered against what another model answered. Pure functions over arrays.

Nothing passes by being empty: a comparison of no rows is a failure. A row may have several positions, each with outputs
of its own; `rows` then says of each position which row it is of.
"""

# Axes: P = positions (one a row, or one for each token of a row), C = outputs of a position

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from compiler.metrics import LOWER_IS_BETTER, UNRANKED
from compiler.typed import to_json
from runtimes.errors import GateError
from runtimes.protocol import Batch

Scores = npt.NDArray[np.floating[Any]]
"""[P, C] outputs: logits, readings of them, or values in the targets' unit."""
ScoreFunction = Callable[[Batch], Scores]
"""The outputs of a batch by some model, in some runtime, in its targets' shape: one stage on the way to deployment."""
Decide = Callable[[Scores], tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]
"""From outputs to decisions, equal where the answers are, and how far each is from another one.

[P] of each position, or [P, C] where every output is decided by itself. UNDECIDED where nothing is.
"""
UNDECIDED = -1
"""Of positions whose row is decided at another one of it: where both sides say so, they are not counted."""
ROUNDING = 1e-12
"""Metrics are float64 quotients of counts; a drop below this is not one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """The largest difference of any output, with its place, against what is allowed."""

    type: Literal["outputs"] = "outputs"
    name: str
    passed: bool
    rows: int
    max_abs: float | None  # None: not a number, or nothing to compare
    row: int | None
    column: int | None
    tolerance: float
    note: str = ""

    def says(self) -> str:
        """The figures in a sentence."""
        if self.max_abs is None:
            return self.note
        at = f"max |Δ| {self.max_abs:.2g} at row {self.row}, column {self.column}"
        return f"{at}; {self.tolerance:.2g} allowed; {self.rows} rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """How many answers are decided alike: one a row, or one a position. Only near ties of the source are excused."""

    type: Literal["decisions"] = "decisions"
    name: str
    passed: bool
    rows: int
    positions: int  # as many as rows where each has one answer; of each output where each is decided by itself
    agreeing: int  # positions
    num_excused: int  # positions
    excused: tuple[int, ...]  # rows that have one
    disagreeing: tuple[int, ...]  # rows that have one that is not excused
    tolerance: float
    max_excused: float
    note: str = ""

    @property
    def agreement(self) -> float:
        """Share of positions decided alike, near ties not helping."""
        return self.agreeing / self.positions if self.positions else 0.0

    def says(self) -> str:
        """The figures in a sentence."""
        return f"{self._counts()}; {self.note}" if self.note else self._counts()

    def _counts(self) -> str:
        if not self.positions:
            return "no row was compared"
        unit = "rows" if self.positions == self.rows else f"decisions in {self.rows} rows"
        counts = f"{self.agreeing} of {self.positions} {unit} decided alike, {self.num_excused} near ties excused"
        if self.disagreeing:
            number = self.positions - self.agreeing - self.num_excused
            return f"{counts}, {number} differ: rows {_some(self.disagreeing)}"
        if not self.passed:
            return f"{counts}, more than {self.max_excused:.1%} of them"
        return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """The task's metrics on both sides, against the drop that is allowed."""

    type: Literal["metrics"] = "metrics"
    name: str
    passed: bool
    source: Mapping[str, float]
    other: Mapping[str, float]
    fallen: tuple[str, ...]
    max_drop: float
    note: str = ""

    def says(self) -> str:
        """The figures in a sentence."""
        shown = ", ".join(_pair(name, self.source.get(name), self.other.get(name)) for name in self._names())
        return "; ".join(part for part in (shown, self.note) if part) or "no metric was compared"

    def _names(self) -> Sequence[str]:
        return self.fallen or tuple(self.source) or tuple(self.other)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Things compared one by one for equality; `faults` names those that are not equal."""

    type: Literal["findings"] = "findings"
    name: str
    passed: bool
    compared: int
    faults: tuple[str, ...]
    note: str = field(default="", metadata={"later": True})  # of what has no fault

    def says(self) -> str:
        """The figures in a sentence."""
        if self.faults:
            return _some(self.faults)
        if self.note:
            return self.note
        return f"{self.compared} compared, all equal" if self.compared else "nothing was compared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far two models answer alike where weights are rounded: the share of decisions, or of numbers' variance."""

    type: Literal["agreement"] = "agreement"
    name: str
    passed: bool
    rows: int
    agreement: float  # 1: all alike
    least: float  # that is asked
    note: str = ""

    def says(self) -> str:
        """The figures in a sentence."""
        if not self.rows:
            return "no row was compared"
        said = f"{self.agreement:.2%} alike over {self.rows} rows; at least {self.least:.0%} asked"
        return f"{said}; {self.note}" if self.note else said


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrun:
    """A comparison that could not be made on this machine: neither passed nor failed."""

    type: Literal["unrun"] = "unrun"
    name: str
    reason: str

    @property
    def passed(self) -> None:
        """Nobody knows."""
        return

    def says(self) -> str:
        """Why."""
        return self.reason


Check = Outputs | Decisions | Metrics | Findings | Agreement | Unrun


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One step of the way from the trained model to the deployed one, and what was compared over it."""

    source: str
    target: str
    checks: tuple[Check, ...]

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Every edge with its checks, in the order in which they were made."""

    edges: tuple[Edge, ...]
    passed: bool | None  # None: nothing failed, but something could not be run here
    first_failure: str | None  # edge and check: merged -> onnx: outputs

    @staticmethod
    def of(*edges: Edge) -> Verification:
        """The verdict over some edges. No check at all is a failure, and what was not run is no pass."""
        found = [(f"{edge}: {check.name}", check.passed) for edge in edges for check in edge.checks]
        failures = [name for name, passed in found if passed is False]
        checked = bool(edges) and all(edge.checks for edge in edges)
        unrun = any(passed is None for _, passed in found)
        return Verification(
            edges=edges,
            passed=None if checked and not failures and unrun else checked and not failures,
            first_failure=next(iter(failures), None if checked else "nothing was checked"),
        )

    def failures(self) -> Iterator[tuple[Edge, Check]]:
        """The checks that failed."""
        return ((edge, check) for edge in self.edges for check in edge.checks if check.passed is False)

    def unrun(self) -> Iterator[tuple[Edge, Check]]:
        """The checks that could not be run here."""
        return ((edge, check) for edge in self.edges for check in edge.checks if check.passed is None)

    def to_json(self) -> dict[str, Any]:
        """The verification as a JSON object; compiler.typed.read reads it back."""
        value: dict[str, Any] = to_json(self)
        return value


def compare_outputs(
    source_PC: Scores,
    other_PC: Scores,
    tolerance: float,
    *,
    name: str = "outputs",
    rows: Sequence[int] | npt.NDArray[np.int64] | None = None,
    units: Sequence[float] = (1.0,),
) -> Outputs:
    """The largest |source - other| and its place. `rows`: [P] the number of each position's row, where not 0, 1, 2, ...

    `units`: of each output, in which differences are counted, where outputs have no common scale.
    Fails when it is over the tolerance, when any value is not finite, when shapes differ, when there are no rows.
    """
    numbers = _numbers(source_PC, rows)

    def check(max_abs: float | None, place: tuple[int, int] | None, note: str = "") -> Outputs:
        return Outputs(
            name=name,
            passed=max_abs is not None and max_abs <= tolerance,
            rows=len(np.unique(numbers)),
            max_abs=max_abs,
            row=int(numbers[place[0]]) if place else None,
            column=place[1] if place else None,
            tolerance=tolerance,
            note=note,
        )

    if source_PC.shape != other_PC.shape:
        return check(None, None, f"outputs of shape {list(other_PC.shape)}, the source has {list(source_PC.shape)}")
    if not source_PC.size:
        return check(None, None, "no row was compared")
    bad_PC = ~(np.isfinite(source_PC) & np.isfinite(other_PC))
    if bad_PC.any():
        place = _place(bad_PC)
        return check(None, place, f"{bad_PC.sum()} outputs are not finite, the first in row {int(numbers[place[0]])}")
    delta_PC = np.abs(source_PC.astype(np.float64) - other_PC.astype(np.float64)) / np.asarray(units)
    place = _place(delta_PC)
    return check(float(delta_PC[place]), place)


def not_compared(name: str, rows: int, tolerance: float, note: str) -> Outputs:
    """The check that fails as there is nothing to compare with: `note` says why."""
    return Outputs(
        name=name, passed=False, rows=rows, max_abs=None, row=None, column=None, tolerance=tolerance, note=note
    )


def argmax(outputs_PC: Scores) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The number of each row's best score, and how far that is above the next one."""
    return outputs_PC.argmax(axis=1), margins(outputs_PC)


def compare_decisions(
    source_PC: Scores,
    other_PC: Scores,
    tolerance: float,
    max_excused: float,
    *,
    decide: Decide = argmax,
    name: str = "decisions",
    rows: Sequence[int] | npt.NDArray[np.int64] | None = None,
) -> Decisions:
    """Whether both decide alike.

    A position decided otherwise is excused only where the source is nearer than the tolerance to another decision.
    Fails on one that is not excused, on more than `max_excused` (a share of all) excused ones, and on none at all.
    """
    numbers = _numbers(source_PC, rows)
    differ, tied = compare_each_decision(source_PC, other_PC, tolerance, decide)
    excused, wrong = differ & tied, differ & ~tied
    counted = differ if differ.all() else differ | (decide(source_PC)[0] != UNDECIDED)
    return Decisions(
        name=name,
        passed=bool(counted.any() and not wrong.any() and excused.sum() <= max_excused * counted.sum()),
        rows=len(np.unique(numbers)),
        positions=int(counted.sum()),
        agreeing=int((counted & ~differ).sum()),
        num_excused=int(excused.sum()),
        excused=tuple(np.unique(numbers[any_output(excused)]).tolist()),
        disagreeing=tuple(np.unique(numbers[any_output(wrong)]).tolist()),
        tolerance=tolerance,
        max_excused=max_excused,
    )


def compare_rounded(
    source_PC: Scores, other_PC: Scores, least: float, decide: Decide | None, *, num_rows: int, note: str = ""
) -> Agreement:
    """Whether a model with rounded weights answers as its source: the share of positions decided alike.

    Of outputs that are the answers themselves, the share of the source's variance that the other's explain (R squared).
    """
    if decide is not None:
        differ, _ = compare_each_decision(source_PC, other_PC, 0.0, decide)
        counted = differ if differ.all() else differ | (decide(source_PC)[0] != UNDECIDED)
        found = float((counted & ~differ).sum() / max(1, counted.sum()))
    else:
        found = _explained(source_PC, other_PC)
    passed = bool(len(source_PC)) and found >= least
    return Agreement(name="agreement", passed=passed, rows=num_rows, agreement=found, least=least, note=note)


def _explained(source_PC: Scores, other_PC: Scores) -> float:
    """R squared of the other outputs, the least of any column; 0 where they can't be compared."""
    if source_PC.shape != other_PC.shape or not source_PC.size or not np.isfinite(other_PC).all():
        return 0.0
    source, other = source_PC.astype(np.float64), other_PC.astype(np.float64)
    spread_C = ((source - source.mean(axis=0)) ** 2).sum(axis=0)
    away_C = ((source - other) ** 2).sum(axis=0)
    return float(np.clip(1 - away_C / np.maximum(spread_C, np.finfo(np.float64).tiny), 0, 1).min())


def compare_each_decision(
    source_PC: Scores, other_PC: Scores, tolerance: float, decide: Decide
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Where the two decide otherwise, and where the source was so near to another decision that it may.

    In the decisions' shape: [P], or [P, C].
    """
    if not len(source_PC) or source_PC.shape != other_PC.shape or not other_PC.shape[-1]:
        return np.ones(len(source_PC), bool), np.zeros(len(source_PC), bool)
    finite_P = np.isfinite(source_PC).all(axis=1) & np.isfinite(other_PC).all(axis=1)
    decided, margin = decide(source_PC)
    finite: npt.NDArray[np.bool_] = finite_P.reshape(-1, *(1 for _ in decided.shape[1:]))
    return (decided != decide(other_PC)[0]) | ~finite, (margin < tolerance) & finite


def any_output(found: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """[P] whether it is so for a position: of [P], or of [P, C] for any of its outputs."""
    any_P: npt.NDArray[np.bool_] = found if found.ndim == 1 else np.any(found, axis=1)
    return any_P


def _numbers(source_PC: Scores, rows: Sequence[int] | npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    return np.arange(len(source_PC)) if rows is None else np.asarray(rows, np.int64)


def compare_metrics(
    source: Mapping[str, float],
    other: Mapping[str, float],
    max_drop: float,
    *,
    name: str = "metrics",
    lower_is_better: Container[str] = LOWER_IS_BETTER,
) -> Metrics:
    """Whether no metric of the source is worse by more than `max_drop` on the other side, missing or not a number.

    Where less is better, the drop is a share of the source's value: perplexities have no common scale. Of a
    metric of which neither more nor less is better, only that it is there.
    """

    def fell(metric: str) -> bool:
        found = other.get(metric, float("nan"))
        if metric in UNRANKED:
            return not np.isfinite(found)
        drop = source[metric] - found
        if metric in lower_is_better:
            drop = -drop / (abs(source[metric]) or 1.0)
        return not drop <= max_drop + ROUNDING

    fallen = tuple(metric for metric in source if fell(metric))
    return Metrics(
        name=name,
        passed=bool(source) and not fallen,
        source={metric: value for metric, value in source.items() if np.isfinite(value)},
        other={metric: value for metric, value in other.items() if np.isfinite(value)},
        fallen=fallen,
        max_drop=max_drop,
    )


def compare_each(faults: Sequence[str], compared: int, *, name: str) -> Findings:
    """The check over `compared` things of which `faults` are not equal."""
    return Findings(name=name, passed=bool(compared) and not faults, compared=compared, faults=tuple(faults))


def margins(scores_PC: Scores) -> npt.NDArray[np.float64]:
    """How far the best score of each row is above the next one, [B]; infinite where there is only one class."""
    if scores_PC.shape[1] < 2:
        return np.full(len(scores_PC), np.inf)
    best_P2 = np.partition(scores_PC.astype(np.float64), -2, axis=1)[:, -2:]
    found: npt.NDArray[np.float64] = best_P2[:, 1] - best_P2[:, 0]
    return found


def report_lines(verification: Verification) -> list[str]:
    """The verification for a terminal: a line for each check, and the verdict."""
    checks = [(edge, check) for edge in verification.edges for check in edge.checks]
    width = max((len(f"{edge}: {check.name}") for edge, check in checks), default=0)
    lines = [f"{_MARKS[check.passed]}  {f'{edge}: {check.name}':<{width}}  {check.says()}" for edge, check in checks]
    return [*lines, f"gate {_verdict(verification)}"]


_MARKS: Mapping[bool | None, str] = {True: "ok  ", False: "FAIL", None: "----"}


def _verdict(verification: Verification) -> str:
    if verification.passed is None:
        unrun = ", ".join(f"{edge}: {check.name}" for edge, check in verification.unrun())
        return f"undecided: {unrun} could not be run here, so the export is not proven"
    return "passed" if verification.passed else f"failed at {verification.first_failure}"


def require_passed(verification: Verification, *, code: str, hint: str = "") -> None:
    """Nothing when no check failed; raises GateError, which names the first edge and check that broke."""
    if verification.passed is not False:
        return
    failures = list(verification.failures())
    message = str(verification.first_failure)
    if failures:
        message = f"{message}: {failures[0][1].says()}"
    if others := [f"{edge}: {check.name}" for edge, check in failures[1:]]:
        message = f"{message} (also {', '.join(others)})"
    raise GateError(code, message, hint)


def _place(values_PC: npt.NDArray[Any]) -> tuple[int, int]:
    row, column = np.unravel_index(int(values_PC.argmax()), values_PC.shape)
    return int(row), int(column)


def _some(items: Sequence[object], limit: int = 8) -> str:
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(map(str, items[:limit])) + more


def _pair(name: str, source: float | None, other: float | None) -> str:
    shown = ["none" if value is None else f"{value:.4f}" for value in (source, other)]
    return f"{name} {shown[0]} -> {shown[1]}"
