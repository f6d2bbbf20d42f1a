"""The gate: every edge from the trained model to the exported graph, compared on the held-out rows.

The source is the untouched trained model in float32; what it answers is kept as golden rows, which travel with the
bundle. Rows stream: what grows with them is their token ids and the [P, C] outputs of each stage, nothing else.
"""

# Axes: P = positions of all rows of a set (one a row, or one for each token), C = outputs of a position

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.files import new_file, write_json, write_text
from compiler.metrics import Metric
from compiler.plan import VerifyExport
from compiler.typed import read, to_json
from runtimes import tasks
from runtimes.answers import Written, read_written, save_written
from runtimes.batches import Rows as Places
from runtimes.comparison import HeldOut, Rows, asked, choose, mixed_order, noise_batches, outputs_of, rows_at_once
from runtimes.disagreements import disagreements
from runtimes.errors import RunError
from runtimes.export import Stage
from runtimes.features import Ragged
from runtimes.gate import (
    Check,
    Decide,
    Decisions,
    Edge,
    Outputs,
    ScoreFunction,
    Scores,
    Verification,
    compare_decisions,
    compare_each_decision,
    compare_metrics,
    compare_outputs,
)
from runtimes.golden import Golden, spread, write_golden
from runtimes.inputs import Row, fingerprint, identities, portable_row
from runtimes.localisation.finding import Localised
from runtimes.manifest import Figures, digest_of_rows
from runtimes.protocol import Batch
from runtimes.tasks.interface import InputReader
from runtimes.tolerance import Noise, tolerance
from runtimes.verify_localise import localise_failure, write_localised
from runtimes.verify_writing import NUM_PROMPTS, compare_written

__all__ = ["GOLDEN", "Answers", "HeldOut", "Report", "Verified", "read_report", "verify_export"]

VERIFICATION = "verification.json"
DISAGREEMENTS = "disagreements.jsonl"
GOLDEN = "golden.jsonl"
HELD_OUT = "held_out.npy"
WRITTEN = "written.jsonl"
BATCH_SIZE = 16

NoiseFunction = Callable[[Iterable[Batch]], Noise]
WriteFunction = Callable[[Sequence[Row], Sequence[int]], Sequence[Written]]
"""What the source writes for some rows, with their numbers in the split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What one stage answered, float32 [P, C] each."""

    rows: Ragged  # held-out rows in padded batches
    probes: Ragged  # likewise
    alone: Ragged  # golden rows, then probes, each in a batch of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the gate found, as verification.json holds it."""

    tolerance: float  # of any output over one edge, in the output's unit where outputs have units of their own
    noise: Noise
    max_excused: float
    max_metric_drop: float
    metrics: tuple[Metric, ...]
    held_out: Figures  # the trained model's
    golden: Figures  # likewise, on the golden rows
    stages: Mapping[str, Mapping[str, float]]  # each stage's metrics on the held-out rows
    longest: int  # tokens of the longest row compared
    verification: Verification
    localised: Localised | None = field(default=None, metadata={"later": True})
    """Where the first edge that failed leaves the noise, without its table of layers, which bisect.json has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The report, the golden rows as the trained model answered them, and the answers of every stage by its name."""

    report: Report
    golden: tuple[Golden, ...]
    answers: Mapping[str, Answers]
    numbers: npt.NDArray[np.int64]  # [N] of the compared rows in the split

    @property
    def verification(self) -> Verification:
        """The verdict."""
        return self.report.verification


def verify_export(
    step: VerifyExport,
    *,
    held_out: HeldOut,
    encoder: InputReader,
    stages: Sequence[Stage],
    noise: NoiseFunction,
    out: Path,
    write: WriteFunction | None = None,
) -> Verified:
    """The verdict over the stages, trained first; writes it, the rows that disagree and the golden rows to `out`.

    One stage is in memory at a time. `write`: what the source writes for some rows, where the task writes texts; the
    last stage is forced along it. `noise`: the float32 noise of the saved model. A failed check raises nothing: see
    gate.require_passed. Raises RunError E605 when there are no held-out rows.
    """
    if not len(held_out):
        raise RunError("E605", "there are no held-out rows to verify the export with", "give the recipe a test split")
    rows = choose(held_out, encoder, step.rows)
    size = rows_at_once(tasks.module_of(step.task).head(step.task), BATCH_SIZE)
    found = noise(noise_batches(rows, size))
    answers = {stage.name: _answer(stage.open(), rows, size) for stage in stages}
    exact = {stage.name for stage in stages if stage.exact}
    verified = _compare(step, rows, answers, found, exact)
    if write is not None and stages[-1].decoder is not None:
        verified = _with_written(verified, rows, stages[-1], write, encoder.pad_id, out)
    written = read_written(out / WRITTEN) if (out / WRITTEN).exists() else ()
    localised = localise_failure(verified.verification, stages, rows, written, size)
    if localised is not None:
        write_localised(out, localised)
        verified = replace(verified, report=replace(verified.report, localised=replace(localised, layers=())))
    _write(verified, rows, out)
    return verified


def read_report(folder: Path) -> Report:
    """The report that a verify step left in its folder. Raises RunError E606 when there is none."""
    try:
        return read(Report, json.loads((folder / VERIFICATION).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        message = f"{folder / VERIFICATION} is not a verification: {error}"
        raise RunError("E606", message, "run the gate again") from error


def _answer(scores: ScoreFunction, rows: Rows, batch_size: int) -> Answers:
    """What one stage answers. One stage after another: the idle threads of two runtimes get in each other's way."""

    def answer(places: Places, size: int) -> Ragged:
        order = mixed_order(len(places))
        return outputs_of(scores, rows.table, places[order], size).take(np.argsort(order))

    return Answers(
        rows=answer(rows.places, batch_size),
        probes=answer(rows.probe_places, batch_size),
        alone=answer(rows.alone_places, 1),
    )


def _compare(
    step: VerifyExport, rows: Rows, answers: Mapping[str, Answers], noise: Noise, exact: Container[str]
) -> Verified:
    allowed = tolerance(noise, step.tolerance_factor)
    edges = [
        Edge(
            source=source,
            target=target,
            checks=tuple(
                _checks(step, rows, answers[source], answers[target], allowed)
                if target in exact
                else _rounded(step, rows, answers[source], answers[target])
            ),
        )
        for source, target in pairwise(answers)
    ]
    held_out = tuple(identities(rows.task, rows.values[: len(rows.numbers)], rows.table))
    golden = tuple(_golden_rows(rows, answers["trained"].alone))
    stages = {name: _measure(step, rows.targets, found.rows) for name, found in answers.items()}
    report = Report(
        tolerance=allowed,
        noise=noise,
        max_excused=step.max_excused,
        max_metric_drop=step.max_metric_drop,
        metrics=step.metrics,
        held_out=Figures(
            rows=len(rows.numbers),
            sha256=digest_of_rows(held_out),
            metrics=stages["trained"],
        ),
        golden=Figures(
            rows=len(rows.golden),
            sha256=digest_of_rows(held_out[place] for place in rows.golden),
            metrics=_measure(
                step,
                rows.targets.take(rows.golden),
                answers["trained"].alone.take(np.arange(len(rows.golden))),
            ),
        ),
        stages=stages,
        longest=int(rows.table.lengths[rows.alone_places].max()),
        verification=Verification.of(*edges),
    )
    return Verified(report=report, golden=golden, answers=answers, numbers=rows.numbers)


def _checks(step: VerifyExport, rows: Rows, source: Answers, other: Answers, allowed: float) -> Iterator[Check]:
    numbers = {
        "rows": rows.all_numbers[rows.places][source.rows.rows],
        "probes": rows.all_numbers[rows.probe_places][source.probes.rows],
        "alone": rows.all_numbers[rows.alone_places][source.alone.rows],
    }
    one, two = source.rows.values, other.rows.values
    module, excused_P = tasks.module_of(step.task), np.zeros(len(one), bool)
    compared = partial(compare_outputs, tolerance=allowed, units=module.head(step.task).units)
    yield compared(one, two, rows=numbers["rows"])
    yield compared(source.alone.values, other.alone.values, name="outputs_batch_1", rows=numbers["alone"])
    if rows.probes:
        yield compared(source.probes.values, other.probes.values, name="outputs_probes", rows=numbers["probes"])
    decide = module.decider(step.task)
    if decide is not None:
        yield _decided(step, decide, allowed, one, two, rows.table.targets.take(rows.places), numbers["rows"])
        if rows.probes:
            probes = (source.probes.values, other.probes.values, rows.table.targets.take(rows.probe_places))
            found = _decided(step, decide, allowed, *probes, numbers["probes"])
            yield replace(found, name="decisions_probes")
        differ_P, tied_P = compare_each_decision(one, two, allowed, decide)
        excused_P = differ_P & tied_P
    settled = Ragged(module.settle(step.task, one, two, excused_P, allowed), source.rows.offsets)
    yield compare_metrics(_measure(step, rows.targets, source.rows), _measure(step, rows.targets, settled), 0.0)


def _decided(
    step: VerifyExport, decide: Decide, allowed: float, one: Scores, two: Scores, targets: Ragged, rows_P: Places
) -> Decisions:
    """Whether both decide alike, wherever something is to be decided."""
    at = asked(tasks.module_of(step.task).head(step.task), targets, len(one))
    pair = (one[at], two[at]) if len(one) == len(two) else (one, two)
    rows_P = rows_P[at] if len(one) == len(two) else rows_P
    return compare_decisions(*pair, allowed, step.max_excused, decide=decide, rows=rows_P)


def _rounded(step: VerifyExport, rows: Rows, source: Answers, other: Answers) -> Iterator[Check]:
    """Over an edge on which weights are rounded, outputs differ and metrics may fall a little."""
    before, after = _measure(step, rows.targets, source.rows), _measure(step, rows.targets, other.rows)
    yield compare_metrics(before, after, step.max_metric_drop)


def _with_written(
    verified: Verified, rows: Rows, last: Stage, write: WriteFunction, pad_id: int, out: Path
) -> Verified:
    """With the checks of written texts on the last edge; what was written is kept in `out`."""
    assert last.decoder is not None, "asked by the caller"
    places = spread(len(rows.numbers), NUM_PROMPTS)
    written = write([rows.values[place] for place in places], rows.numbers[places].tolist())
    checks = tuple(compare_written(written, last.decoder(), pad_id, verified.report.tolerance))
    save_written(out / WRITTEN, written)
    *edges, edge = verified.verification.edges
    verification = Verification.of(*edges, replace(edge, checks=(*edge.checks, *checks)))
    return replace(verified, report=replace(verified.report, verification=verification))


def _measure(step: VerifyExport, targets: Ragged, outputs: Ragged) -> dict[str, float]:
    """The step's metrics by name; none where there are not as many outputs as the task has."""
    module = tasks.module_of(step.task)
    if outputs.values.shape[1] != module.head(step.task).num_outputs:
        return {}
    return module.score(step.task, step.metrics, targets, outputs)


def _golden_rows(rows: Rows, alone: Ragged) -> Iterator[Golden]:
    """The golden rows with the trained model's answers: real ones, then probes."""
    module = tasks.module_of(rows.task)
    probes = [*(None for _ in rows.golden), *(probe.name for probe in rows.probes)]
    for number, (place, probe) in enumerate(zip(rows.alone_places, probes, strict=True)):
        outputs_PC = alone.row(number)
        yield Golden(
            row=portable_row(rows.task, rows.values[place], rows.encoder) if probe is None else rows.values[place],
            probe=probe,
            ids=fingerprint(rows.table, place),
            outputs=tuple(tuple(float(value) for value in outputs_C) for outputs_C in outputs_PC),
            decision=module.decision(rows.task, outputs_PC),
        )


def _write(verified: Verified, rows: Rows, out: Path) -> None:
    """Writes verification.json, disagreements.jsonl, golden.jsonl and held_out.npy, the trained model's outputs."""
    write_golden(out / GOLDEN, verified.golden)
    with new_file(out / HELD_OUT) as file:
        np.save(file, verified.answers["trained"].rows.values)
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in _disagreements(verified, rows))
    write_text(out / DISAGREEMENTS, "".join(lines))
    write_json(out / VERIFICATION, to_json(verified.report))


def _disagreements(verified: Verified, rows: Rows) -> Iterator[dict[str, Any]]:
    """The rows over which the two ends of each edge disagree."""

    def told(places: Places, source: Ragged, other: Ragged) -> Iterator[dict[str, Any]]:
        values = [rows.values[place] for place in places]
        numbers = rows.all_numbers[places].tolist()
        return disagreements(rows.task, numbers, values, source, other, verified.report.tolerance)

    for edge in verified.verification.edges:
        if not any(isinstance(check, Outputs) for check in edge.checks):
            continue  # weights are rounded over it: every row differs
        source, other = verified.answers[edge.source], verified.answers[edge.target]
        for line in told(rows.places, source.rows, other.rows):
            yield {"edge": str(edge), **line}
        for line in told(rows.probe_places, source.probes, other.probes):
            yield {"edge": str(edge), "probe": True, **line}
