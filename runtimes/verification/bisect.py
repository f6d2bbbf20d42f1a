"""Localisation on demand: a run's export against the model it was made from, a bundle or any graph against a source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from compiler.plan import ExportModel, Merge, Plan, Quantize, VerifyExport
from compiler.recipe import Onnx
from compiler.tasks import Example, Task
from runtimes import tasks
from runtimes.bundles.bundle import Bundle, open_bundle
from runtimes.bundles.golden import Golden
from runtimes.bundles.golden import outputs_of as golden_outputs
from runtimes.errors import RunError
from runtimes.export import module_of
from runtimes.export.facts import graph_names
from runtimes.generation.answers import read_written
from runtimes.learnt import learnt
from runtimes.localisation.finding import INPUTS, Localised
from runtimes.rows.batches import collate
from runtimes.rows.features import Features, Table
from runtimes.rows.inputs import fingerprint, open_reader
from runtimes.saved import SavedModel
from runtimes.steps.prepare import read_prepared
from runtimes.store import Store
from runtimes.together import part_folder
from runtimes.untuned import Found
from runtimes.verification.comparison import HeldOut, choose, outputs_of, rows_at_once
from runtimes.verification.edges import BATCH_SIZE, VERIFICATION, WRITTEN, read_report
from runtimes.verification.localise import failing_batches, first_found, localiser
from runtimes.verification.source import Asked, fitted, localise_other, open_other, verify_source

_SHOWN = 6
_APART, _MERGED = "its layers are not followed", 'export it merged: leave "adapter" out'


def bisect_run(plan: Plan, store: Store) -> Iterator[tuple[str, Localised]]:
    """What is found of each export of a run as ONNX, by the id of its verify step.

    The row is the first one that failed, or a golden one. Raises RunError E607 where there is nothing to compare.
    """
    verifies = [step for step in plan.steps if isinstance(step, VerifyExport) and isinstance(step.export, Onnx)]
    if not verifies:
        message = f"the run {plan.name} has no export as ONNX"
        raise RunError("E607", message, 'layers are compared of ONNX graphs alone: add "export": ["onnx"]')
    for step in verifies:
        if isinstance(step.export, Onnx) and step.export.adapter == "separate":
            raise RunError("E607", f"{step.id} is of a graph whose adapter is beside it: {_APART}", _MERGED)
        yield from _bisect_step(step, plan, store)


def _bisect_step(step: VerifyExport, plan: Plan, store: Store) -> Iterator[tuple[str, Localised]]:
    """Of the graph as it was written; where it is right and another one was rounded from it, of that too."""
    keys = plan.keys()
    prepare, train, *_ = (store.folder(keys[name]) for name in step.inputs)
    merge = [store.folder(keys[name]) for name in step.inputs if isinstance(plan.step(name), Merge)]
    [written, *rounded] = [(found, store.folder(keys[found.id])) for found in _exports(step, plan)]
    prepared, model = prepare / step.split, [train, *merge][-1] / "model" / step.part
    for folder, what in ((prepared, "held-out rows"), (model, "whole model"), (written[1], "export")):
        if not folder.is_dir():
            message = f"the run {plan.name} has no {what} in {folder}"
            raise RunError("E607", message, "run it again: what is missing is done, and nothing else")
    task = learnt(step.task, part_folder(train, step.part))
    encoder = open_reader(task, model, max_length=Features(prepared).facts.max_length, root=prepared)
    rows = choose(HeldOut(task=task, rows=read_prepared(prepared)), encoder, step.rows)
    verify = store.folder(keys[step.id])
    verification = read_report(verify).verification if (verify / VERIFICATION).exists() else None
    edge = next((edge for edge, _ in verification.failures()), None) if verification else None
    texts = read_written(verify / WRITTEN) if (verify / WRITTEN).exists() else ()
    size = rows_at_once(tasks.module_of(task).head(task), BATCH_SIZE)
    checks, saved = edge.checks if edge else (), SavedModel(model)
    exact = _files(task, written[1])
    found = first_found(
        lambda batch: localiser()(saved, tasks.module_of(task).head(task), exact, batch),
        failing_batches(checks, rows, texts, size),
    )
    yield step.id, found
    if found.found:
        return
    for export, folder in rounded:
        [stage] = module_of(export.export).stages(export.export, task, saved, folder, "cpu")
        assert stage.localise is not None, "graphs of ONNX have values"
        yield f"{step.id} {stage.name}", stage.localise(next(failing_batches(checks, rows, texts, size)), exact)


def _files(task: Task, folder: Path) -> list[Path]:
    """The graphs in float32 of an export, or of a bundle."""
    return [folder / name for name in graph_names(encodes=tasks.module_of(task).head(task).encodes)]


def _exports(step: VerifyExport, plan: Plan) -> list[ExportModel | Quantize]:
    """The steps that wrote graphs, and rounded them. Raises RunError E607 for one graph of several tasks."""
    steps = [plan.step(name) for name in step.inputs]
    found = [each for each in steps if isinstance(each, (ExportModel, Quantize))]
    if not found:
        message = f"{step.id} is of one graph of several tasks, whose layers are not compared"
        raise RunError("E607", message, "export the tasks one by one")
    return found


def bisect_bundle(folder: Path, source: Path, *, threads: int = 0) -> Localised:
    """The first layer of a model of transformers that a bundle computes otherwise, on the golden row that differs most.

    Inputs are compared first: a row that the bundle reads otherwise than its source did is the fault.
    """
    bundle = open_bundle(folder, threads=threads)
    if bundle.manifest.precision != "fp32":
        message = f"{folder} holds a graph in {bundle.manifest.precision}: every layer of it differs from its source"
        raise RunError("E607", message, "compare the run that made it, which has the graph in float32 too")
    if bundle.manifest.adapter:
        raise RunError("E607", f"{folder} holds an adapter beside its graph: {_APART}", _MERGED)
    golden = bundle.golden()
    if not golden:
        raise RunError("E607", f"{folder} has no golden rows to compare layers on", "ask its sender for a whole bundle")
    table = bundle.encode([Example(row=row.row, target=0) for row in golden])
    fault = next(_input_faults(table, golden), None)
    if fault is not None:
        return fault
    place = _worst(bundle, table, golden)
    size = rows_at_once(bundle.head, BATCH_SIZE)
    first = place // size * size
    batches = (
        collate(table, np.array(places))
        for places in ([place], [*range(first, min(first + size, len(golden)))])
        if len(places) == 1 or places != [place]
    )
    files, saved = _files(bundle.task, bundle.shared), SavedModel(source)
    return first_found(lambda batch: localiser()(saved, bundle.head, files, batch), batches)


def bisect_source(found: Found, asked: Asked) -> Localised:
    """The first layer of a model that any graph of it computes otherwise, on the row that fails; else on the longest.

    Raises RunError as `verify_source`, E607 for weights that are rounded, E608 where layers can't be followed.
    """
    other = open_other(found, asked)
    if other.rounding is not None:
        message = f"the weights of {asked.bundle} are rounded ({other.rounding.shown_by}): every layer of it differs"
        raise RunError("E607", message, "compare the graph in float32 that it was made from")
    localised = verify_source(found, asked).localised
    if localised is not None and not localised.followed:
        raise RunError("E608", localised.note, "compare outputs alone: leave out --bisect")
    if localised is not None:
        return localised
    found = fitted(found, other)
    reader = found.reader()
    rows = choose(found.held_out(reader), reader, found.verify.rows or 0)
    size = rows_at_once(tasks.module_of(found.task).head(found.task), BATCH_SIZE)
    return first_found(partial(localise_other, found, other), failing_batches((), rows, (), size))


def _input_faults(table: Table, golden: Sequence[Golden]) -> Iterator[Localised]:
    """Rows that are read otherwise than they were where the bundle was made."""
    for number, row in enumerate(golden):
        found = fingerprint(table, number)
        if found == row.ids:
            continue
        place = next(
            (at for at, pair in enumerate(zip(found, row.ids, strict=False)) if pair[0] != pair[1]), len(found)
        )
        shown = [", ".join(map(str, ids[place : place + _SHOWN])) or "nothing" for ids in (found, row.ids)]
        yield Localised(
            rows=(number,),
            layer=INPUTS,
            operation="reading a row",
            operator=None,
            max_abs=None,
            allowed=0.0,
            note=f"at place {place} the bundle's files give {shown[0]}, the source's gave {shown[1]}: the tokenizer or "
            "the image processor is at fault, and no layer was compared",
        )


def _worst(bundle: Bundle, table: Table, golden: Sequence[Golden]) -> int:
    """The number of the golden row whose outputs are furthest from the source's."""
    source = golden_outputs(golden, bundle.num_outputs)
    found = outputs_of(bundle.run, table, np.arange(len(golden)), rows_at_once(bundle.head, 1))
    if source.values.shape != found.values.shape:
        return 0
    delta_P = np.nan_to_num(np.abs(source.values - found.values).max(axis=1), nan=np.inf)
    return int(source.rows[int(delta_P.argmax())])
