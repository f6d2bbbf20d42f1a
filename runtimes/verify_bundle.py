"""A receiver's verification of a bundle: its files, and whether it answers here as it answered where it was made.

Needs onnxruntime, tokenizers and numpy. The hashes show damage; the other checks run whatever the hashes say, so that
a bundle that was changed and sealed again is caught by what it answers.
"""

# Axes: B = rows, C = classes

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtimes.bundle import CONFIG, LABELS, Bundle, config_labels, open_bundle
from runtimes.errors import RunError
from runtimes.gate import (
    Check,
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
    margins,
    settle,
)
from runtimes.golden import Golden, scores_of
from runtimes.manifest import Manifest, broken, check_hashes, digest_of_rows, read_json, read_manifest
from runtimes.metrics import score
from runtimes.tokens import chunks

BATCH_SIZES = (1, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRows:
    """Rows that a receiver has: texts and the names of their true labels."""

    texts: Sequence[str]
    labels: Sequence[str]


def verify_bundle(
    folder: Path,
    rows: LabelledRows | None = None,
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


def _checks(bundle: Bundle, rows: LabelledRows | None, batch_sizes: Sequence[int]) -> Iterator[Check]:
    golden = bundle.golden()
    yield _compare_labels(bundle)
    yield _compare_tokens(bundle, golden)
    scores_BC = np.empty((0, len(bundle.labels)), np.float32)
    for size in batch_sizes:
        scores_BC = _golden_scores(bundle, golden, size)
        yield _compare_outputs(bundle, golden, scores_BC, f"outputs_batch_{size}")
    decisions = _compare_decisions(bundle, golden, scores_BC)
    yield decisions
    yield _compare_golden_metrics(bundle, golden, scores_BC, decisions.excused)
    if rows is not None:
        yield compare_rows(bundle, rows)


def _compare_labels(bundle: Bundle) -> Findings:
    """The label names, in order, in every file that has them."""
    named = config_labels(read_json(bundle.folder, CONFIG))
    faults = [
        f"number {number} is {ours} in {LABELS} and {theirs} in {CONFIG}"
        for number, (ours, theirs) in enumerate(zip(bundle.labels, named, strict=False))
        if ours != theirs
    ]
    if len(named) != len(bundle.labels):
        faults.append(f"{len(bundle.labels)} in {LABELS}, {len(named)} in {CONFIG}")
    return compare_each(faults, len(named), name="labels")


def _compare_tokens(bundle: Bundle, golden: Sequence[Golden]) -> Findings:
    """The token ids that the bundle's tokenizer gives, against those of the source's."""
    found = bundle.encoder.encode(row.text for row in golden)
    faults = [
        f"row {number} ({row.probe or 'held-out'})"
        for number, (row, tokens) in enumerate(zip(golden, found, strict=True))
        if tokens.ids != row.ids
    ]
    return compare_each(faults, len(golden), name="tokens")


def _golden_scores(bundle: Bundle, golden: Sequence[Golden], batch_size: int) -> npt.NDArray[np.float32]:
    """What the bundle makes of the golden texts, [B, C], in their order, in which neighbours differ in length."""
    rows = bundle.encoder.encode(row.text for row in golden)
    nothing = np.empty((0, len(bundle.labels)), np.float32)
    return np.concatenate([nothing, *map(bundle.score_rows, chunks(rows, batch_size))])


def _source_scores(bundle: Bundle, golden: Sequence[Golden]) -> Scores:
    if any(len(row.scores) != len(bundle.labels) for row in golden):
        raise broken(bundle.folder, f"golden rows have not one score for each of {len(bundle.labels)} labels")
    return scores_of(golden) if golden else np.empty((0, len(bundle.labels)), np.float32)


def _compare_outputs(bundle: Bundle, golden: Sequence[Golden], scores_BC: Scores, name: str) -> Check:
    return compare_outputs(_source_scores(bundle, golden), scores_BC, bundle.manifest.tolerance, name=name)


def _compare_decisions(bundle: Bundle, golden: Sequence[Golden], scores_BC: Scores) -> Decisions:
    """Label names decided here against those decided there. A near tie excuses a score, never a name."""
    manifest = bundle.manifest
    found = compare_decisions(_source_scores(bundle, golden), scores_BC, manifest.tolerance, manifest.max_excused)
    misnamed = {
        number
        for number, (row, best) in enumerate(zip(golden, scores_BC.argmax(axis=1), strict=True))
        if row.decision != bundle.labels[best] and number not in found.excused
    }
    disagreeing = tuple(sorted({*found.disagreeing, *misnamed}))
    return replace(
        found,
        passed=found.passed and not disagreeing,
        agreeing=len(golden) - len(disagreeing) - len(found.excused),
        disagreeing=disagreeing,
    )


def _compare_golden_metrics(
    bundle: Bundle, golden: Sequence[Golden], scores_BC: Scores, excused: Sequence[int]
) -> Metrics:
    """The metrics over the real golden rows, against those of the trained model. Excused rows count as it decided."""
    excused_B = np.isin(np.arange(len(golden)), excused)
    settled_BC = settle(_source_scores(bundle, golden), scores_BC, excused_B)
    labels = {number: row.label for number, row in enumerate(golden) if row.label is not None}
    found: Mapping[str, float] = {}
    if set(labels.values()) <= set(bundle.labels):  # else nothing can be measured, and that is a failure
        found = measure(
            bundle.manifest, _targets(bundle, list(labels.values())), settled_BC[list(labels)], bundle.labels
        )
    return compare_metrics(bundle.manifest.golden.metrics, found, bundle.manifest.max_metric_drop)


def compare_rows(bundle: Bundle, rows: LabelledRows) -> Metrics:
    """The metrics over a receiver's rows. They are checked where the rows are the manifest's held-out ones.

    Near ties are decided in the bundle's favour, because the trained model's scores are not there to compare.
    Raises RunError E605 for rows without a known label.
    """
    if unknown := sorted(set(rows.labels) - set(bundle.labels)):
        known = ", ".join(bundle.labels[:8])
        raise RunError("E605", f"the bundle has no label {unknown[0]!r}", f"its labels are {known}")
    if not rows.texts:
        raise RunError("E605", "there are no rows to verify with", "give a file with at least one row")
    manifest, targets = bundle.manifest, _targets(bundle, rows.labels)
    scores_NC = bundle.scores(rows.texts)
    if digest_of_rows(rows.texts, rows.labels) != manifest.held_out.sha256:
        found = measure(manifest, targets, scores_NC, bundle.labels)
        return _told(found, len(rows.texts), manifest)
    tied_N = margins(scores_NC) < manifest.tolerance
    scores_NC[tied_N, targets[tied_N]] = np.inf
    found = measure(manifest, targets, scores_NC, bundle.labels)
    return compare_metrics(manifest.held_out.metrics, found, manifest.max_metric_drop, name="metrics_rows")


def measure(
    manifest: Manifest, targets: npt.NDArray[np.int64], scores_NC: Scores, labels: Sequence[str]
) -> Mapping[str, float]:
    """The manifest's metrics by name; none over no rows."""
    return score(manifest.metrics, targets, scores_NC, labels) if len(targets) else {}


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


def _targets(bundle: Bundle, names: Sequence[str]) -> npt.NDArray[np.int64]:
    numbers = {name: number for number, name in enumerate(bundle.labels)}
    return np.asarray([numbers[name] for name in names], dtype=np.int64)
