"""A receiver's verification of a bundle: its files, and whether it answers here as it answered where it was made.

Needs onnxruntime, tokenizers and numpy. The hashes show damage; the other checks run whatever the hashes say, so that
a bundle that was changed and sealed again is caught by what it answers.
"""

# Axes: P = positions of all rows (one a row, or one for each token), C = outputs of a position

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from compiler import __version__
from compiler import tasks as compiler_tasks
from compiler.data.texts import BadValueError, UnknownLabelError
from compiler.origin import CARD
from compiler.tasks import Example
from runtimes import tasks
from runtimes.bundles.bundle import CONFIG, Bundle, open_bundle
from runtimes.bundles.card import compare_card
from runtimes.bundles.golden import Golden
from runtimes.bundles.golden import outputs_of as golden_outputs
from runtimes.bundles.manifest import (
    Manifest,
    TogetherManifest,
    broken,
    check_hashes,
    digest_of_rows,
    read_json,
    read_manifest,
    read_together,
)
from runtimes.errors import RunError
from runtimes.export.facts import Provider
from runtimes.generation.decoding import Decoder
from runtimes.rows.features import Ragged, Table
from runtimes.rows.inputs import Row, fingerprint, identities, parts_of
from runtimes.rows.windows import windows_of
from runtimes.verification.allowed import compare_allowed
from runtimes.verification.comparison import asked, examples_of, outputs_of, rows_at_once
from runtimes.verification.gate import (
    Check,
    Decide,
    Decisions,
    Edge,
    Findings,
    Metrics,
    Outputs,
    Verification,
    compare_decisions,
    compare_each,
    compare_each_decision,
    compare_metrics,
    compare_outputs,
    not_compared,
)
from runtimes.verification.settings import compare_settings
from runtimes.verification.told import compare_held_out, compare_inputs, misnamed_metrics
from runtimes.verification.writing import compare_written

if TYPE_CHECKING:
    from runtimes.export.decoding import CachedDecoder

BATCH_SIZES = (1, 32)


def verify_bundle(
    folder: Path,
    rows: Sequence[Row] | None = None,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    threads: int = 0,
    provider: Provider = "cpu",
) -> Verification:
    """Every check over a bundle, and over the receiver's own rows where there are any.

    Raises RunError when the folder is no bundle (E601), its graph does not run (E604), or the rows don't fit (E605).
    A failed check raises nothing: see gate.require_passed.
    """
    manifest = read_manifest(folder)
    hashes = compare_each(check_hashes(folder, manifest), len(manifest.files), name="hashes")
    try:
        checks = tuple(_checks(open_bundle(folder, threads=threads, provider=provider), rows, batch_sizes))
    except RunError as error:
        if not _is_damage(error, hashes):
            raise
        checks = ()
    return Verification.of(Edge(source="manifest", target="bundle", checks=(hashes, *checks)))


def verify_together(folder: Path, *, threads: int = 0, provider: Provider = "cpu") -> Verification:
    """Every check over a bundle of several tasks: its files, then each task as a bundle of its own."""
    manifest = read_together(folder)
    hashes = compare_each(check_hashes(folder, manifest), len(manifest.files), name="hashes")
    try:
        edges = [
            replace(edge, target=name)
            for name in manifest.parts
            for edge in verify_bundle(folder / name, threads=threads, provider=provider).edges
        ]
        card = _compare_card(folder, manifest, [read_manifest(folder / name) for name in manifest.parts])
    except RunError as error:  # of the graph, say, which no task's own hashes have
        if not _is_damage(error, hashes):
            raise
        edges, card = [], ()
    return Verification.of(Edge(source="manifest", target="bundle", checks=(hashes, *card)), *edges)


def _is_damage(error: RunError, hashes: Findings) -> bool:
    """Whether files that differ from their hashes, of which the check says which, explain an error."""
    return not hashes.passed and error.code not in ("E508", "E605")


def _compare_card(
    folder: Path, manifest: Manifest | TogetherManifest, parts: Sequence[Manifest]
) -> tuple[Findings, ...]:
    """The card against the manifest; nothing where a bundle has none, or another version of this program worded it."""
    own = parts[0].versions.get("recipec", __version__) == __version__
    return (compare_card(folder, manifest.name, parts),) if own and CARD in manifest.files else ()


def _checks(bundle: Bundle, rows: Sequence[Row] | None, batch_sizes: Sequence[int]) -> Iterator[Check]:
    golden = bundle.golden()
    yield _compare_names(bundle)
    # What the rows should be answered with is not known before the labels are: outputs don't depend on it.
    table = bundle.encode([Example(row=row.row, target=0) for row in golden])
    yield _compare_inputs(bundle, table, golden)
    source = _source_outputs(bundle, golden)
    yield _compare_golden(bundle, golden, table, source)
    yield compare_held_out(bundle, golden, source)
    yield compare_allowed(bundle.manifest, source.values, bundle.head.units)
    yield compare_inputs(bundle)
    found = yield from _compare_outputs(bundle, table, golden, source, batch_sizes)
    if bundle.manifest.adapter:
        yield _compare_without_adapter(bundle, table, len(golden))
    if found is None:
        return  # nothing was answered: there is nothing to decide, to measure or to write with
    decide = tasks.module_of(bundle.task).decider(bundle.task)
    if decide is not None:
        yield _compare_decisions(bundle, golden, source, found, decide, table.targets)
    if bundle.manifest.metrics:
        yield _compare_golden_metrics(bundle, golden, source, found)
    if bundle.manifest.generation is not None:
        decoder, written = cast(Decoder[Any], bundle.graph), bundle.written()
        yield compare_settings(bundle, written, decoder)
        yield from compare_written(written, decoder, bundle.encoder.pad_id, bundle.manifest.batch_tolerance)
    if not bundle.manifest.part:
        yield from _compare_card(bundle.folder, bundle.manifest, [bundle.manifest])
    if rows is not None:
        yield from _compare_rows(bundle, rows)


def _compare_outputs(
    bundle: Bundle, table: Table, golden: Sequence[Golden], source: Ragged, batch_sizes: Sequence[int]
) -> Generator[Outputs, None, Ragged | None]:
    """The outputs in batches of each size; at the end those that decide, none where the graph runs at no size.

    Raises RunError for a graph that does not load. One that does not run at some size fails a check.
    """
    bundle.load()
    manifest, found = bundle.manifest, None
    for size in _sizes(bundle, batch_sizes):
        name, allowed = f"outputs_batch_{size}", manifest.tolerance if size == 1 else manifest.batch_tolerance
        try:
            found = _answers(bundle, table, len(golden), size) if golden else source
        except RunError as error:
            if error.code != "E604":
                raise
            yield not_compared(name, len(golden), allowed, error.message)
        else:
            units = bundle.head.units
            yield compare_outputs(source.values, found.values, allowed, name=name, rows=source.rows, units=units)
    return found


def _compare_without_adapter(bundle: Bundle, table: Table, count: int) -> Outputs:
    """The graph without its adapter against the graph with one of zeros: alone it is to answer as its base.

    Raises RunError where it does not run.
    """
    from runtimes.export.adapters import write_nothing
    from runtimes.export.decoding import onnx_decoder

    graph, adapted = bundle.folder / bundle.graphs[0], cast("CachedDecoder", bundle.graph)
    size = rows_at_once(bundle.head, 1)
    with tempfile.TemporaryDirectory() as scratch:
        nothing = Path(scratch) / "nothing.onnx_adapter"
        write_nothing(nothing, adapted.session.inner)
        open_decoder = partial(onnx_decoder, graph, threads=bundle.threads, max_positions=adapted.max_positions)
        alone, zeros = (
            outputs_of(partial(bundle.outputs_by, open_decoder(adapter=adapter)), table, np.arange(count), size)
            for adapter in (None, nothing)
        )
    tolerance = bundle.manifest.tolerance
    return compare_outputs(zeros.values, alone.values, tolerance, name="outputs_without_adapter", rows=zeros.rows)


def _answers(bundle: Bundle, table: Table, count: int, size: int) -> Ragged:
    """What the bundle answers to golden rows, so many at once. Raises RunError."""
    return outputs_of(bundle.run, table, np.arange(count), rows_at_once(bundle.head, size))


def _sizes(bundle: Bundle, batch_sizes: Sequence[int]) -> Sequence[int]:
    """Sizes of batches; what decides comes last. A rounded graph's golden answers are those of each row alone."""
    return batch_sizes if bundle.manifest.precision == "fp32" else sorted(batch_sizes, reverse=True)


def _compare_names(bundle: Bundle) -> Findings:
    """What outputs are called, in every file that says it."""
    config = read_json(bundle.folder, CONFIG)
    compared, faults = tasks.module_of(bundle.task).name_faults(bundle.task, config)
    return compare_each(faults, compared, name="labels")


def _compare_inputs(bundle: Bundle, table: Table, golden: Sequence[Golden]) -> Findings:
    """The token ids or pixels that the bundle's files give, against those of the source's."""
    faults = [
        f"row {number} ({row.probe or 'held-out'})"
        for number, row in enumerate(golden)
        if fingerprint(table, number) != row.ids
    ]
    return compare_each(faults, len(golden), name=parts_of(bundle.task))


def _source_outputs(bundle: Bundle, golden: Sequence[Golden]) -> Ragged:
    try:
        return golden_outputs(golden, bundle.num_outputs)
    except ValueError as error:
        raise broken(bundle.folder, str(error)) from error


def _compare_decisions(
    bundle: Bundle, golden: Sequence[Golden], source: Ragged, found: Ragged, decide: Decide, targets: Ragged
) -> Decisions:
    """What is decided here, by name, against what was decided there. A near tie excuses a score, never a name."""
    manifest, module = bundle.manifest, tasks.module_of(bundle.task)
    one, two, rows_P = source.values, found.values, source.rows
    if len(one) == len(two):
        at = asked(bundle.head, targets, len(one))
        one, two, rows_P = one[at], two[at], rows_P[at]
    compared = compare_decisions(one, two, manifest.tolerance, manifest.max_excused, decide=decide, rows=rows_P)
    misnamed = {
        number
        for number, row in enumerate(golden)
        if number not in compared.excused and row.decision != module.decision(bundle.task, found.row(number))
    }
    new = misnamed - {*compared.disagreeing}
    return replace(
        compared,
        passed=compared.passed and not misnamed,
        agreeing=max(0, compared.agreeing - int(np.isin(source.rows, sorted(new)).sum())),
        disagreeing=tuple(sorted({*compared.disagreeing, *misnamed})),
    )


def _compare_golden(bundle: Bundle, golden: Sequence[Golden], table: Table, source: Ragged) -> Findings:
    """Whether the golden rows are those that the manifest tells of: how many, which, and how well they are answered."""
    told = bundle.manifest.golden
    real = [number for number, row in enumerate(golden) if row.real]
    rows = [golden[number].row for number in real]
    faults = [f"{len(rows)} rows of {told.rows}"] if len(rows) != told.rows else []
    if not faults and digest_of_rows(identities(bundle.task, rows, table)) != told.sha256:
        faults.append("other rows than the manifest's")
    faults += _worth_otherwise(bundle, rows, source.take(np.asarray(real, np.int64)))
    return compare_each(faults, len(golden), name="golden")


def _worth_otherwise(bundle: Bundle, rows: Sequence[Row], outputs: Ragged) -> list[str]:
    """The metrics that the golden answers have and the manifest tells otherwise, and those that they have not."""
    told = bundle.manifest.golden.metrics
    if not bundle.manifest.metrics:
        return [*misnamed_metrics(bundle.manifest, ())]
    try:
        targets = _targets(bundle, rows)
    except BadValueError:  # true answers that have no name here: the metrics fail
        return []
    if not np.array_equal(targets.offsets, outputs.offsets):  # they are read otherwise here: the tokens fail
        return []
    worth = measure(bundle, targets, outputs)
    otherwise = [name for name, value in worth.items() if not np.isclose(value, told.get(name, np.nan), 1e-4, 1e-6)]
    return [*otherwise, *misnamed_metrics(bundle.manifest, worth)]


def _compare_golden_metrics(bundle: Bundle, golden: Sequence[Golden], source: Ragged, found: Ragged) -> Metrics:
    """The metrics over the real golden rows, against those of the trained model. Excused rows count as it decided."""
    manifest = bundle.manifest
    real = [number for number, row in enumerate(golden) if row.real]
    settled = _settled(bundle, source, found)
    try:
        targets = _targets(bundle, [golden[number].row for number in real])
        measured = measure(bundle, targets, settled.take(np.asarray(real, np.int64)))
    except BadValueError:
        measured = {}  # the rows' answers have no name here: nothing can be measured, and that is a failure
    return compare_metrics(manifest.golden.metrics, measured, manifest.max_metric_drop)


def _settled(bundle: Bundle, source: Ragged, found: Ragged) -> Ragged:
    """What was found, but the source's outputs where the difference is one that the gate excuses."""
    manifest, module = bundle.manifest, tasks.module_of(bundle.task)
    excused_P = np.zeros(len(source.values), bool)
    decide = module.decider(bundle.task)
    if decide is not None:
        differ_P, tied_P = compare_each_decision(source.values, found.values, manifest.batch_tolerance, decide)
        excused_P = differ_P & tied_P
    return Ragged(
        module.settle(bundle.task, source.values, found.values, excused_P, manifest.batch_tolerance), found.offsets
    )


def _compare_rows(bundle: Bundle, rows: Sequence[Row]) -> Iterator[Check]:
    """The metrics over a receiver's rows, by role. They are checked where the rows are the manifest's held-out ones.

    There, what the gate excuses counts as the trained model answered it; and of a graph in float32 those answers are
    compared too (how far rounded ones move with the rows beside them is known of the golden rows alone). Raises
    RunError E605 for rows whose answers the bundle does not know.
    """
    if not rows:
        raise RunError("E605", "there are no rows to verify with", "give a file with at least one row")
    manifest = bundle.manifest
    rows = [part for parts in windows_of(bundle.task, rows, bundle.encoder) for part in parts]
    try:
        examples = examples_of(bundle.task, rows)
    except BadValueError as error:
        hint = f"it knows {', '.join(error.labels[:8])}" if isinstance(error, UnknownLabelError) else ""
        raise RunError("E605", f"the bundle can't be measured on the rows: {error}", hint) from error
    table, found = bundle.encode(examples), bundle.outputs(examples)
    targets = table.targets
    if not manifest.metrics or digest_of_rows(identities(bundle.task, rows, table)) != manifest.held_out.sha256:
        yield _told(measure(bundle, targets, found), len(rows), manifest)
        return
    source = Ragged(bundle.held_out(), found.offsets)
    compared = partial(
        compare_outputs, tolerance=manifest.batch_tolerance, name="outputs_rows", units=bundle.head.units
    )
    if source.values.shape != found.values.shape:
        yield compared(source.values, found.values)
        return
    if manifest.precision == "fp32":
        yield compared(source.values, found.values, rows=found.rows)
    measured = measure(bundle, targets, _settled(bundle, source, found))
    yield compare_metrics(manifest.held_out.metrics, measured, manifest.max_metric_drop, name="metrics_rows")


def measure(bundle: Bundle, targets: Ragged, outputs: Ragged) -> Mapping[str, float]:
    """The manifest's metrics by name, or the task's where nothing was measured before; none over no rows."""
    module = tasks.module_of(bundle.task)
    metrics = bundle.manifest.metrics or compiler_tasks.module_of(bundle.task).DEFAULT_METRICS
    return module.score(bundle.task, metrics, targets, outputs) if len(targets) else {}


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


def _targets(bundle: Bundle, rows: Sequence[Row]) -> Ragged:
    """The true answers of rows by role, as numbers. Raises BadValueError."""
    return bundle.encode(examples_of(bundle.task, rows)).targets
