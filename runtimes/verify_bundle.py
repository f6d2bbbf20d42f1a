"""A receiver's verification of a bundle: its files, and whether it answers here as it answered where it was made.

Needs onnxruntime, tokenizers and numpy. The hashes show damage; the other checks run whatever the hashes say, so that
a bundle that was changed and sealed again is caught by what it answers.
"""

# Axes: B = rows, C = outputs of a row

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler import tasks as compiler_tasks
from compiler.data.texts import BadValueError, UnknownLabelError
from runtimes import tasks
from runtimes.bundle import CONFIG, Bundle, open_bundle
from runtimes.comparison import Row
from runtimes.errors import RunError
from runtimes.features import TARGETS
from runtimes.gate import (
    Check,
    Decide,
    Decisions,
    Edge,
    Findings,
    Metrics,
    Scores,
    Verification,
    compare_decisions,
    compare_each,
    compare_metrics,
    compare_outputs,
)
from runtimes.golden import Golden, outputs_of
from runtimes.manifest import Manifest, broken, check_hashes, digest_of_rows, read_json, read_manifest
from runtimes.tokens import chunks

BATCH_SIZES = (1, 32)


def verify_bundle(
    folder: Path,
    rows: Sequence[Row] | None = None,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    threads: int = 0,
) -> Verification:
    """Every check over a bundle, and over the receiver's own rows where there are any.

    Raises RunError when the folder is no bundle (E601), its graph does not run (E604), or the rows don't fit (E605).
    A failed check raises nothing: see gate.require_passed.
    """
    manifest = read_manifest(folder)
    hashes = compare_each(check_hashes(folder, manifest), len(manifest.files), name="hashes")
    try:
        checks = tuple(_checks(open_bundle(folder, threads=threads), rows, batch_sizes))
    except RunError as error:
        if hashes.passed or error.code == "E605":
            raise
        checks = ()  # the files are damaged, and the check of the hashes says which
    return Verification.of(Edge(source="manifest", target="bundle", checks=(hashes, *checks)))


def _checks(bundle: Bundle, rows: Sequence[Row] | None, batch_sizes: Sequence[int]) -> Iterator[Check]:
    golden = bundle.golden()
    yield _compare_names(bundle)
    yield _compare_tokens(bundle, golden)
    outputs_BC = np.empty((0, bundle.num_outputs), np.float32)
    for size in batch_sizes:
        outputs_BC = _golden_outputs(bundle, golden, size)
        yield _compare_outputs(bundle, golden, outputs_BC, f"outputs_batch_{size}")
    excused: tuple[int, ...] = ()
    decide = tasks.module_of(bundle.task).DECIDE
    if decide is not None:
        decisions = _compare_decisions(bundle, golden, outputs_BC, decide)
        excused = decisions.excused
        yield decisions
    yield _compare_golden_metrics(bundle, golden, outputs_BC, excused)
    if rows is not None:
        yield compare_rows(bundle, rows)


def _compare_names(bundle: Bundle) -> Findings:
    """What outputs are called, in every file that says it."""
    config = read_json(bundle.folder, CONFIG)
    compared, faults = tasks.module_of(bundle.task).name_faults(bundle.task, config)
    return compare_each(faults, compared, name="labels")


def _compare_tokens(bundle: Bundle, golden: Sequence[Golden]) -> Findings:
    """The token ids that the bundle's tokenizer gives, against those of the source's."""
    found = bundle.encode(row.row for row in golden)
    faults = [
        f"row {number} ({row.probe or 'held-out'})"
        for number, (row, tokens) in enumerate(zip(golden, found, strict=True))
        if tokens.ids != row.ids
    ]
    return compare_each(faults, len(golden), name="tokens")


def _golden_outputs(bundle: Bundle, golden: Sequence[Golden], batch_size: int) -> npt.NDArray[np.float32]:
    """What the bundle makes of the golden rows, [B, C], in their order, in which neighbours differ in length."""
    rows = bundle.encode(row.row for row in golden)
    nothing = np.empty((0, bundle.num_outputs), np.float32)
    return np.concatenate([nothing, *map(bundle.run, chunks(rows, batch_size))])


def _source_outputs(bundle: Bundle, golden: Sequence[Golden]) -> Scores:
    if any(len(row.outputs) != bundle.num_outputs for row in golden):
        raise broken(bundle.folder, f"golden rows have not the {bundle.num_outputs} outputs of the task each")
    return outputs_of(golden) if golden else np.empty((0, bundle.num_outputs), np.float32)


def _compare_outputs(bundle: Bundle, golden: Sequence[Golden], outputs_BC: Scores, name: str) -> Check:
    return compare_outputs(_source_outputs(bundle, golden), outputs_BC, bundle.manifest.tolerance, name=name)


def _compare_decisions(bundle: Bundle, golden: Sequence[Golden], outputs_BC: Scores, decide: Decide) -> Decisions:
    """What is decided here, by name, against what was decided there. A near tie excuses a score, never a name."""
    manifest, module = bundle.manifest, tasks.module_of(bundle.task)
    source_BC = _source_outputs(bundle, golden)
    found = compare_decisions(source_BC, outputs_BC, manifest.tolerance, manifest.max_excused, decide=decide)
    misnamed = {
        number
        for number, (row, outputs_C) in enumerate(zip(golden, outputs_BC, strict=True))
        if number not in found.excused and row.decision != module.decision(module.answer(bundle.task, outputs_C))
    }
    disagreeing = tuple(sorted({*found.disagreeing, *misnamed}))
    return replace(
        found,
        passed=found.passed and not disagreeing,
        agreeing=len(golden) - len(disagreeing) - len(found.excused),
        disagreeing=disagreeing,
    )


def _compare_golden_metrics(
    bundle: Bundle, golden: Sequence[Golden], outputs_BC: Scores, excused: Sequence[int]
) -> Metrics:
    """The metrics over the real golden rows, against those of the trained model. Excused rows count as it decided."""
    manifest, module = bundle.manifest, tasks.module_of(bundle.task)
    excused_B = np.isin(np.arange(len(golden)), excused)
    settled_BC = module.settle(_source_outputs(bundle, golden), outputs_BC, excused_B, manifest.tolerance)
    real_B = np.array([row.real for row in golden], bool)
    try:
        targets = _targets(bundle, [row.row for row in golden if row.real])
        found = measure(bundle, targets, settled_BC[real_B])
    except BadValueError:
        found = {}  # what the rows were labelled with has no name here: nothing can be measured, and that is a failure
    return compare_metrics(manifest.golden.metrics, found, manifest.max_metric_drop)


def compare_rows(bundle: Bundle, rows: Sequence[Row]) -> Metrics:
    """The metrics over a receiver's rows, by role. They are checked where the rows are the manifest's held-out ones.

    There, what the gate excuses counts as the trained model answered it. Raises RunError E605 for rows whose answers
    the bundle does not know.
    """
    if not rows:
        raise RunError("E605", "there are no rows to verify with", "give a file with at least one row")
    manifest, module = bundle.manifest, tasks.module_of(bundle.task)
    try:
        targets = _targets(bundle, rows)
    except BadValueError as error:
        hint = f"it knows {', '.join(error.labels[:8])}" if isinstance(error, UnknownLabelError) else ""
        raise RunError("E605", f"the bundle can't be measured on the rows: {error}", hint) from error
    outputs_NC = bundle.outputs(rows)
    if digest_of_rows(rows) != manifest.held_out.sha256:
        return _told(measure(bundle, targets, outputs_NC), len(rows), manifest)
    source_NC, excused_N = bundle.held_out(), np.zeros(len(rows), bool)
    if module.DECIDE is not None:
        decided = compare_decisions(source_NC, outputs_NC, manifest.tolerance, 1.0, decide=module.DECIDE)
        excused_N[list(decided.excused)] = True
    found = measure(bundle, targets, module.settle(source_NC, outputs_NC, excused_N, manifest.tolerance))
    return compare_metrics(manifest.held_out.metrics, found, manifest.max_metric_drop, name="metrics_rows")


def measure(bundle: Bundle, targets: npt.NDArray[Any], outputs_NC: Scores) -> Mapping[str, float]:
    """The manifest's metrics by name; none over no rows."""
    module = tasks.module_of(bundle.task)
    return module.score(bundle.task, bundle.manifest.metrics, targets, outputs_NC) if len(targets) else {}


def _told(found: Mapping[str, float], num_rows: int, manifest: Manifest) -> Metrics:
    note = f"{num_rows} rows that are not the {manifest.held_out.rows} held-out ones: for information"
    return Metrics(
        name="metrics_rows",
        passed=True,
        source=manifest.held_out.metrics,
        other=found,
        fallen=(),
        max_drop=manifest.max_metric_drop,
        note=note,
    )


def _targets(bundle: Bundle, rows: Sequence[Row]) -> npt.NDArray[Any]:
    """[N] the true answers of rows by role, as numbers. Raises BadValueError."""
    reader = compiler_tasks.module_of(bundle.task).reader(bundle.task, compiler_tasks.columns_of(bundle.task, {}))
    [column] = [column for column in tasks.module_of(bundle.task).columns(0) if column.name == TARGETS]
    return np.array([reader.read(row).target for row in rows], column.dtype)
