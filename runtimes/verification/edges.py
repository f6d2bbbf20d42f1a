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
from runtimes.bundles.golden import Golden, spread, write_golden
from runtimes.bundles.manifest import Figures, digest_of_rows
from runtimes.errors import RunError
from runtimes.export import Stage
from runtimes.generation.answers import Writing, read_written, save_written
from runtimes.generation.decoding import Decoder
from runtimes.localisation.finding import Localised
from runtimes.protocol import Batch
from runtimes.rows.batches import Rows as Places
from runtimes.rows.features import Ragged
from runtimes.rows.inputs import fingerprint, identities, portable_row
from runtimes.tasks.interface import InputReader
from runtimes.verification.comparison import (
    HeldOut,
    Rows,
    asked,
    choose,
    mixed_order,
    noise_batches,
    outputs_of,
    rows_at_once,
)
from runtimes.verification.costs import Cost, cost_of
from runtimes.verification.disagreements import disagreements
from runtimes.verification.gate import (
    Agreement,
    Check,
    Decide,
    Decisions,
    Edge,
    Outputs,
    Scores,
    Unrun,
    Verification,
    compare_decisions,
    compare_each_decision,
    compare_metrics,
    compare_outputs,
    compare_rounded,
)
from runtimes.verification.kept import Kept
from runtimes.verification.localise import localise_failure, write_localised
from runtimes.verification.tolerance import Noise, tolerance
from runtimes.verification.writing import NUM_PROMPTS, compare_written, write_source

__all__ = ["GOLDEN", "Answers", "HeldOut", "Report", "Verified", "read_report", "verify_export"]

VERIFICATION = "verification.json"
DISAGREEMENTS = "disagreements.jsonl"
GOLDEN = "golden.jsonl"
HELD_OUT = "held_out.npy"
WRITTEN = "written.jsonl"
BATCH_SIZE = 16
MOST_CHANGED = 0.05
"""Share of the decisions that rounding weights may change, or what a metric may fall by: accuracy falls by no more."""

NoiseFunction = Callable[[Iterable[Batch]], Noise]


@dataclass(frozen=True, slots=True)
class Writer:
    """How texts are written, and the source that writes them."""

    writing: Writing
    source: Callable[[], Decoder[Any]]


@dataclass(frozen=True, slots=True)
class Source:
    """The saved model that others are measured against."""

    noise: NoiseFunction  # of its float32
    writer: Writer | None = None  # where the task writes texts
    kept: Kept = field(default_factory=Kept)  # what other gates found out of it, and of what was made from it


@dataclass(frozen=True, slots=True)
class Base:
    """A model without the adapter that its export leaves beside the graph, and the graph without it."""

    source: Stage
    graph: Stage
    noise: NoiseFunction  # of the source


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
    golden_tolerance: float  # of the golden answers where the bundle goes, each row alone
    batch_tolerance: float  # likewise, beside other rows
    noise: Noise
    max_excused: float
    max_metric_drop: float
    metrics: tuple[Metric, ...]
    held_out: Figures  # the trained model's
    golden: Figures  # of what the golden answers are from: the trained model, or a graph that was rounded
    stages: Mapping[str, Mapping[str, float]]  # each stage's metrics on the held-out rows
    costs: Mapping[str, Cost]  # of each stage
    longest: int  # tokens of the longest row compared
    verification: Verification
    localised: Localised | None = field(default=None, metadata={"later": True})
    """Where the first edge that failed leaves the noise, without its table of layers, which bisect.json has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The report, the golden rows with their answers, and the answers of every stage by its name.

    The source is the first stage: the trained model, or one as it was found.
    """

    report: Report
    golden: tuple[Golden, ...]
    reference: str  # the stage whose answers travel with a bundle
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
    source: Source,
    out: Path,
    base: Base | None = None,
) -> Verified:
    """The verdict over the stages, the source first; writes it, the rows that disagree and the golden rows to `out`.

    One stage is in memory at a time. Where texts are written, the last stage that is not rounded is forced along the
    source's. `base`: compared over an edge of its own, before the others. A failed check raises nothing: see
    gate.require_passed. A step without metrics measures none. Raises RunError E605 when there are no held-out rows.
    """
    if not len(held_out):
        raise RunError("E605", "there are no held-out rows to verify the export with", "give the recipe a test split")
    rows = choose(held_out, encoder, step.rows)
    size = rows_at_once(tasks.module_of(step.task).head(step.task), BATCH_SIZE)
    found = source.kept.once("noise", (), lambda: source.noise(noise_batches(rows, size)))
    answered = {
        stage.name: source.kept.once(stage.name, stage.files, partial(_answer, stage, rows, size))
        for stage in stages
        if not stage.unrun
    }
    answers = {name: found for name, (found, _) in answered.items()}
    exact = {stage.name for stage in stages if stage.exact}
    verified = _compare(step, rows, answers, found, exact)
    costs = {name: cost for name, (_, cost) in answered.items()}
    verified = replace(verified, report=replace(verified.report, costs=costs))
    verified = _with_inspected(verified, stages)
    if source.writer is not None and stages[-1].decoder is not None:
        verified = _with_written(verified, rows, stages, source, encoder.pad_id, out)
    if base is not None:
        verified = _with_base(verified, step, rows, base, size)
    _write(verified, rows, out)  # now: whatever happens to the layers, what was found is kept
    written = read_written(out / WRITTEN) if (out / WRITTEN).exists() else ()
    localised = localise_failure(verified.verification, stages, rows, written, size)
    if localised is None:
        return verified
    write_localised(out, localised)
    report = replace(verified.report, localised=replace(localised, layers=()))
    write_json(out / VERIFICATION, to_json(report))
    return replace(verified, report=report)


def read_report(folder: Path) -> Report:
    """The report that a verify step left in its folder. Raises RunError E606 when there is none."""
    try:
        return read(Report, json.loads((folder / VERIFICATION).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        message = f"{folder / VERIFICATION} is not a verification: {error}"
        raise RunError("E606", message, "run the gate again") from error


def _answer(stage: Stage, rows: Rows, batch_size: int) -> tuple[Answers, Cost]:
    """What one stage answers, and costs. One stage after another: idle threads of two get in each other's way."""
    scores = stage.open()

    def answer(places: Places, size: int) -> Ragged:
        order = mixed_order(len(places))
        return outputs_of(scores, rows.table, places[order], size).take(np.argsort(order))

    answers = Answers(
        rows=answer(rows.places, batch_size),
        probes=answer(rows.probe_places, batch_size),
        alone=answer(rows.alone_places, 1),
    )
    return answers, cost_of(stage, scores, rows.table, batch_size)


def _compare(
    step: VerifyExport, rows: Rows, answers: dict[str, Answers], noise: Noise, exact: Container[str]
) -> Verified:
    """The verdict over the stages' answers. `exact`: the stages that round nothing."""
    allowed = tolerance(noise, step.tolerance_factor)
    edges = tuple(_edges(step, rows, answers, allowed, exact))
    first, last = next(iter(answers)), next(reversed(answers))
    reference = first if last in exact else last
    tipped, moved = (0.0, 0.0) if reference == first else _moves(step, rows, answers[first], answers[reference])
    stages = {name: _measure(step, rows.targets, found.rows) for name, found in answers.items()}
    held_out, golden = _figures(step, rows, stages[first], answers[reference].alone)
    report = Report(
        tolerance=allowed,
        golden_tolerance=allowed * len(edges) + tipped,
        batch_tolerance=allowed * len(edges) + tipped + moved,
        noise=noise,
        max_excused=step.max_excused,
        max_metric_drop=step.max_metric_drop,
        metrics=step.metrics,
        held_out=held_out,
        golden=golden,
        stages=stages,
        costs={},
        longest=int(rows.table.lengths[rows.alone_places].max()),
        verification=Verification.of(*edges),
    )
    return Verified(
        report=report,
        golden=tuple(_golden_rows(rows, answers[reference].alone)),
        reference=reference,
        answers=answers,
        numbers=rows.numbers,
    )


def _edges(
    step: VerifyExport, rows: Rows, answers: Mapping[str, Answers], allowed: float, exact: Container[str]
) -> Iterator[Edge]:
    """Each stage that answered against the one before it."""
    for (source, one), (target, other) in pairwise(answers.items()):
        checks = _checks(step, rows, one, other, allowed) if target in exact else _rounded(step, rows, one, other)
        yield Edge(source=source, target=target, checks=tuple(checks))


def _figures(step: VerifyExport, rows: Rows, measured: Mapping[str, float], alone: Ragged) -> tuple[Figures, Figures]:
    """What is told of the held-out rows, as the source was measured on them, and of the golden ones among them."""
    held_out = tuple(identities(rows.task, rows.values[: len(rows.numbers)], rows.table))
    of_golden = _measure(step, rows.targets.take(rows.golden), alone.take(np.arange(len(rows.golden))))
    golden = digest_of_rows(held_out[place] for place in rows.golden)
    return (
        Figures(rows=len(rows.numbers), sha256=digest_of_rows(held_out), metrics=measured),
        Figures(rows=len(rows.golden), sha256=golden, metrics=of_golden),
    )


def _with_inspected(verified: Verified, stages: Sequence[Stage]) -> Verified:
    """With what is seen of a stage's files, and what could not be run here."""
    edges = {edge.target: edge for edge in verified.verification.edges}
    for before, stage in pairwise(stages):
        unrun = (Unrun(name="outputs", reason=stage.unrun),) if stage.unrun else ()
        compared = edges[stage.name].checks if stage.name in edges else ()
        checks = (*stage.inspect(), *compared, *unrun)
        edges[stage.name] = Edge(source=before.name, target=stage.name, checks=checks)
    verification = Verification.of(*edges.values())
    return replace(verified, report=replace(verified.report, verification=verification))


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
    if step.metrics:
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
    """Over an edge on which weights are rounded, outputs differ and metrics may fall a little.

    Without metrics most decisions have to stay.
    """
    if not step.metrics:
        yield agreement(step, rows, source, other)
        return
    before, after = _measure(step, rows.targets, source.rows), _measure(step, rows.targets, other.rows)
    note = f"{step.max_metric_drop:g} allowed{_alike(step, rows, source.rows, other.rows)}"
    yield replace(compare_metrics(before, after, step.max_metric_drop), note=note)


def _alike(step: VerifyExport, rows: Rows, source: Ragged, other: Ragged) -> str:
    """How many decisions rounding has left as they were: for information."""
    decide = tasks.module_of(step.task).decider(step.task)
    if decide is None or len(source.values) != len(other.values):
        return ""
    at = asked(tasks.module_of(step.task).head(step.task), rows.table.targets.take(rows.places), len(source.values))
    differ, _ = compare_each_decision(source.values[at], other.values[at], 0.0, decide)
    return f"; {(~differ).sum():,} of {differ.size:,} decided alike"


def _moves(step: VerifyExport, rows: Rows, source: Answers, found: Answers) -> tuple[float, float]:
    """How far the answers of a rounded graph move with the processor, and with the rows beside them.

    A last bit may tip a number over to its next step, which is a part of what rounding did to the outputs; and what
    is rounded while it runs depends on the whole batch.
    """
    units = np.asarray(tasks.module_of(step.task).head(step.task).units)
    together, alone = found.rows.take(rows.golden).values, found.alone.take(np.arange(len(rows.golden))).values
    beside = _largest(together - alone, units) if together.shape == alone.shape else 0.0
    return _largest(found.alone.values - source.alone.values, units) / 8, 2 * beside


def _largest(differences_PC: Scores, units: npt.NDArray[np.float64]) -> float:
    return float(np.nanmax(np.abs(differences_PC) / units, initial=0.0))


def agreement(step: VerifyExport, rows: Rows, source: Answers, other: Answers, note: str = "") -> Agreement:
    """How far two stages answer alike on the rows, where weights are rounded between them."""
    module, one, two = tasks.module_of(step.task), source.rows.values, other.rows.values
    if len(one) == len(two):
        at = asked(module.head(step.task), rows.table.targets.take(rows.places), len(one))
        one, two = one[at], two[at]
    decide = module.decider(step.task)
    least = 1 - max(MOST_CHANGED, step.max_metric_drop)
    return compare_rounded(one, two, least, decide, num_rows=len(rows.numbers), note=note)


def _with_written(
    verified: Verified, rows: Rows, stages: Sequence[Stage], source: Source, pad_id: int, out: Path
) -> Verified:
    """With the checks of written texts on the last edge that is not rounded.

    What travels with a bundle is written by what its golden answers are from.
    """
    places = spread(len(rows.numbers), NUM_PROMPTS)
    values, numbers = [rows.values[place] for place in places], rows.numbers[places].tolist()
    *_, place = (index for index, stage in enumerate(stages) if stage.exact)
    writer, kept, forced, last = source.writer, source.kept, stages[place].decoder, stages[-1]
    assert writer is not None and forced is not None and last.decoder is not None, "asked by the caller"
    written = kept.once("written", (), lambda: write_source(writer.writing, writer.source(), values, numbers))
    compared = partial(compare_written, written, pad_id=pad_id, tolerance=verified.report.tolerance)
    checks = kept.once("forced", stages[place].files, lambda: tuple(compared(forced())))
    if not last.exact:
        written = write_source(writer.writing, last.decoder(), values, numbers)
    save_written(out / WRITTEN, written)
    edges = [*verified.verification.edges]
    edges[place - 1] = replace(edges[place - 1], checks=(*edges[place - 1].checks, *checks))
    return replace(verified, report=replace(verified.report, verification=Verification.of(*edges)))


def _with_base(verified: Verified, step: VerifyExport, rows: Rows, base: Base, batch_size: int) -> Verified:
    """With an edge before the others, over which the graph without its adapter answers as the model without it."""
    one, other = (_answer(stage, rows, batch_size)[0] for stage in (base.source, base.graph))
    allowed = tolerance(base.noise(noise_batches(rows, batch_size)), step.tolerance_factor)
    checks = tuple(_checks(step, rows, one, other, allowed))
    edge = Edge(source=base.source.name, target=base.graph.name, checks=checks)
    report = replace(verified.report, verification=Verification.of(edge, *verified.verification.edges))
    return replace(verified, report=report, answers={**verified.answers, edge.source: one, edge.target: other})


def _measure(step: VerifyExport, targets: Ragged, outputs: Ragged) -> dict[str, float]:
    """The step's metrics by name; none where there are not as many outputs as the task has."""
    module = tasks.module_of(step.task)
    if not step.metrics or outputs.values.shape[1] != module.head(step.task).num_outputs:
        return {}
    return module.score(step.task, step.metrics, targets, outputs)


def _golden_rows(rows: Rows, alone: Ragged) -> Iterator[Golden]:
    """The golden rows with their answers: real ones, then probes."""
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
    """Writes verification.json, disagreements.jsonl, golden.jsonl, and held_out.npy: outputs on the held-out rows."""
    write_golden(out / GOLDEN, verified.golden)
    with new_file(out / HELD_OUT) as file:
        np.save(file, verified.answers[verified.reference].rows.values)
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
