"""The gate: every edge from the trained model to the exported graph, compared on the held-out rows.

The source is the untouched trained model in float32; what it answers is kept as golden rows, which travel with the
bundle. Rows stream: what grows with them is the [N, C] scores of each stage, nothing else.
"""

# Axes: C = classes, N = rows of a set

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.files import new_file, write_json, write_text
from compiler.metrics import Metric
from compiler.plan import VerifyExport
from compiler.tasks import Task
from compiler.typed import read, to_json
from runtimes import tasks
from runtimes.comparison import HeldOut, Rows, batches, choose, mixed_order, noise_batches
from runtimes.disagreements import disagreements
from runtimes.errors import RunError
from runtimes.gate import (
    Check,
    Edge,
    ScoreFunction,
    Scores,
    Verification,
    compare_decisions,
    compare_metrics,
    compare_outputs,
)
from runtimes.golden import Golden, write_golden
from runtimes.manifest import Figures, digest_of_rows
from runtimes.tokens import Encoder, Inputs
from runtimes.tolerance import Noise, tolerance

__all__ = ["GOLDEN", "Answers", "HeldOut", "Report", "Verified", "read_report", "verify_export"]

VERIFICATION = "verification.json"
DISAGREEMENTS = "disagreements.jsonl"
GOLDEN = "golden.jsonl"
HELD_OUT = "held_out.npy"
BATCH_SIZE = 16

NoiseFunction = Callable[[Iterable[Inputs]], Noise]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What one stage answered, [N, C] each."""

    rows: npt.NDArray[np.float32]  # held-out rows in padded batches
    probes: npt.NDArray[np.float32]  # likewise
    alone: npt.NDArray[np.float32]  # golden rows, then probes, each in a batch of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the gate found, as verification.json holds it."""

    tolerance: float  # of any output over one edge
    noise: Noise
    max_excused: float
    max_metric_drop: float
    metrics: tuple[Metric, ...]
    held_out: Figures  # the trained model's
    golden: Figures  # likewise, on the golden rows
    stages: Mapping[str, Mapping[str, float]]  # each stage's metrics on the held-out rows
    longest: int  # tokens of the longest row compared
    verification: Verification


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
    encoder: Encoder,
    trained: ScoreFunction,
    merged: ScoreFunction | None,
    exported: ScoreFunction,
    noise: NoiseFunction,
    out: Path,
) -> Verified:
    """The verdict over `trained -> [merged ->] onnx`; writes it, the rows that disagree and the golden rows to `out`.

    `noise`: the float32 noise of the merged model over batches of inputs. A failed check raises nothing: see
    gate.require_passed. Raises RunError E605 when there are no held-out rows.
    """
    if not len(held_out):
        raise RunError("E605", "there are no held-out rows to verify the export with", "give the recipe a test split")
    stages = {"trained": trained, "merged": merged, "onnx": exported}
    rows = choose(held_out, encoder, step.rows)
    found = noise(batch.inputs for batch in noise_batches(rows, encoder, BATCH_SIZE))
    answers = {name: _answer(scores, rows, encoder) for name, scores in stages.items() if scores is not None}
    verified = _compare(step, rows, answers, found, encoder)
    _write(verified, rows, out)
    return verified


def read_report(folder: Path) -> Report:
    """The report that a verify step left in its folder. Raises RunError E606 when there is none."""
    try:
        return read(Report, json.loads((folder / VERIFICATION).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        message = f"{folder / VERIFICATION} is not a verification: {error}"
        raise RunError("E606", message, "run the gate again") from error


def _answer(scores: ScoreFunction, rows: Rows, encoder: Encoder) -> Answers:
    """What one stage answers. One stage after another: the idle threads of two runtimes get in each other's way."""

    def answer(numbers: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.float32]:
        order = mixed_order(len(numbers))
        found = [scores(batch) for batch in batches(rows.texts(numbers[order]), encoder, size)]
        return np.concatenate(found)[np.argsort(order)].astype(np.float32)

    return Answers(
        rows=answer(rows.numbers, BATCH_SIZE),
        probes=answer(rows.probe_numbers, BATCH_SIZE),
        alone=answer(rows.alone_numbers, 1),
    )


def _compare(
    step: VerifyExport, rows: Rows, answers: Mapping[str, Answers], noise: Noise, encoder: Encoder
) -> Verified:
    allowed = tolerance(noise, step.tolerance_factor)
    edges = [
        Edge(source=source, target=target, checks=tuple(_checks(step, rows, answers[source], answers[target], allowed)))
        for source, target in pairwise(answers)
    ]
    golden = tuple(_golden_rows(step.task, rows, answers["trained"].alone, encoder))
    stages = {name: _measure(step, rows.targets, found.rows) for name, found in answers.items()}
    report = Report(
        tolerance=allowed,
        noise=noise,
        max_excused=step.max_excused,
        max_metric_drop=step.max_metric_drop,
        metrics=step.metrics,
        held_out=Figures(
            rows=len(rows.numbers), sha256=digest_of_rows(rows.rows(rows.numbers)), metrics=stages["trained"]
        ),
        golden=Figures(
            rows=len(rows.golden),
            sha256=digest_of_rows(rows.rows(rows.numbers[rows.golden])),
            metrics=_measure(step, rows.targets[rows.golden], answers["trained"].alone[: len(rows.golden)]),
        ),
        stages=stages,
        longest=max(len(row.ids) for row in golden),
        verification=Verification.of(*edges),
    )
    return Verified(report=report, golden=golden, answers=answers, numbers=rows.numbers)


def _checks(step: VerifyExport, rows: Rows, source: Answers, other: Answers, allowed: float) -> Iterator[Check]:
    yield compare_outputs(source.rows, other.rows, allowed, rows=rows.numbers)
    yield compare_outputs(source.alone, other.alone, allowed, name="outputs_batch_1", rows=rows.alone_numbers)
    yield compare_outputs(source.probes, other.probes, allowed, name="outputs_probes", rows=rows.probe_numbers)
    module, excused = tasks.module_of(step.task), np.zeros(len(rows.numbers), bool)
    if module.DECIDE is not None:
        compare = partial(compare_decisions, tolerance=allowed, max_excused=step.max_excused, decide=module.DECIDE)
        decisions = compare(source.rows, other.rows, rows=rows.numbers)
        yield decisions
        yield compare(source.probes, other.probes, name="decisions_probes", rows=rows.probe_numbers)
        excused = np.isin(rows.numbers, decisions.excused)
    settled_NC = module.settle(source.rows, other.rows, excused, allowed)
    yield compare_metrics(
        _measure(step, rows.targets, source.rows), _measure(step, rows.targets, settled_NC), step.max_metric_drop
    )


def _measure(step: VerifyExport, targets: npt.NDArray[Any], outputs_NC: Scores) -> dict[str, float]:
    """The step's metrics by name; none where there are not as many outputs as the task has."""
    module = tasks.module_of(step.task)
    if outputs_NC.shape[1] != module.head(step.task).num_outputs:
        return {}
    return module.score(step.task, step.metrics, targets, outputs_NC)


def _golden_rows(task: Task, rows: Rows, alone_NC: npt.NDArray[np.float32], encoder: Encoder) -> Iterator[Golden]:
    """The golden rows with the trained model's answers: real ones, then probes."""
    module, numbers = tasks.module_of(task), rows.alone_numbers
    probes = [*(None for _ in rows.golden), *(probe.name for probe in rows.probes)]
    tokens = encoder.encode(rows.texts(numbers))
    for number, probe, encoded, outputs_C in zip(numbers, probes, tokens, alone_NC, strict=True):
        yield Golden(
            row=rows.row(number),
            probe=probe,
            ids=encoded.ids,
            outputs=tuple(float(value) for value in outputs_C),
            decision=module.decision(module.answer(task, outputs_C)),
        )


def _write(verified: Verified, rows: Rows, out: Path) -> None:
    """Writes verification.json, disagreements.jsonl, golden.jsonl and held_out.npy, the trained model's outputs."""
    write_golden(out / GOLDEN, verified.golden)
    with new_file(out / HELD_OUT) as file:
        np.save(file, verified.answers["trained"].rows)
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in _disagreements(verified, rows))
    write_text(out / DISAGREEMENTS, "".join(lines))
    write_json(out / VERIFICATION, to_json(verified.report))


def _disagreements(verified: Verified, rows: Rows) -> Iterator[dict[str, Any]]:
    """The rows over which the two ends of each edge disagree."""
    task, allowed = rows.held_out.task, verified.report.tolerance
    real, probes = rows.numbers.tolist(), rows.probe_numbers.tolist()
    for edge in verified.verification.edges:
        source, other = verified.answers[edge.source], verified.answers[edge.target]
        for line in disagreements(task, real, list(rows.rows(real)), source.rows, other.rows, allowed):
            yield {"edge": str(edge), **line}
        for line in disagreements(task, probes, list(rows.rows(probes)), source.probes, other.probes, allowed):
            yield {"edge": str(edge), "probe": True, **line}
