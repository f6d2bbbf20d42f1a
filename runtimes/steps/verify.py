"""verify: the gate over every edge from the trained model to the exported graph. Fails the run when one breaks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from compiler.plan import Merge, VerifyExport
from compiler.recipe import Onnx
from compiler.typed import to_json
from runtimes.events import Said
from runtimes.export import Stage
from runtimes.learnt import learnt, write_learnt
from runtimes.rows.features import Features
from runtimes.rows.inputs import open_reader
from runtimes.saved import SavedModel
from runtimes.steps import Context
from runtimes.steps.models import prepared_for, saved_by
from runtimes.steps.prepare import read_prepared
from runtimes.together import part_folder
from runtimes.verification.comparison import HeldOut
from runtimes.verification.edges import DISAGREEMENTS, Base, Source, Verified, verify_export
from runtimes.verification.gate import report_lines, require_passed
from runtimes.verification.stages import Model, written_stages
from runtimes.verification.stopping import Stopping


def execute(step: VerifyExport, context: Context) -> Iterator[Any]:
    """Writes verification.json, disagreements.jsonl and golden.jsonl; raises GateError afterwards when it failed."""
    _, train, *others = step.inputs
    merge = [name for name in others if isinstance(context.plan.step(name), Merge)]
    planned, step = step.task, replace(step, task=learnt(step.task, part_folder(context.inputs[train], step.part)))
    prepared = prepared_for(step, context) / step.split
    facts = Features(prepared).facts
    saved = saved_by((train, *merge)[-1], context, step.part)
    model = partial(Model, task=step.task, engine=context.placement.engine, device=context.placement.device)

    stopping = Stopping(context.stop, step.id)
    encoder = open_reader(step.task, saved.reading, max_length=facts.max_length, root=prepared)
    write_learnt(planned, step.task, context.folder)
    stages = [
        model(saved=saved_by(train, context, step.part)).stage("trained"),
        *([model(saved=saved).stage("merged")] if merge else []),
        *_exported(step, saved, context),
    ]
    writer = model(saved=saved).writer(step.generation, encoder)
    shared = replace(step, id="", inputs=(), export=Onnx(), max_metric_drop=0.0)  # as of the gates of other exports
    verified = verify_export(
        step,
        held_out=HeldOut(task=step.task, rows=read_prepared(prepared)),
        encoder=encoder,
        stages=[stopping.stage(stage) for stage in stages],
        source=Source(
            model(saved=saved).noise(before_each=stopping.check),
            writer and stopping.writer(writer),
            context.kept.of(json.dumps(to_json(shared)), prepared, saved.weights, context.placement),
        ),
        out=context.folder,
        base=_base(step, model(saved=SavedModel(saved.folder)), context, stopping),
    )
    for line in report_lines(verified.verification)[-1 if verified.verification.passed else 0 :]:
        yield Said(step=step.id, message=line)
    for line in localised_lines(verified):
        yield Said(step=step.id, message=line)
    kept = f"{context.folder / DISAGREEMENTS} lists the rows; the tuned model itself is kept"
    require_passed(verified.verification, code="E602", hint="; ".join([*localised_lines(verified)[:1], kept]))


def localised_lines(verified: Verified) -> list[str]:
    """Where a failed edge leaves the noise, for a terminal."""
    localised = verified.report.localised
    return [] if localised is None else localised.lines()


def _base(step: VerifyExport, base: Model, context: Context, stopping: Stopping) -> Base | None:
    """What the adapter is beside of, where an export does not merge it. `base`: the model without it."""
    if not isinstance(step.export, Onnx) or step.export.adapter != "separate":
        return None
    [graph] = _exported(step, base.saved, context)
    return Base(
        stopping.stage(base.stage("base")),
        stopping.stage(replace(graph, name=f"{graph.name}-base")),
        base.noise(before_each=stopping.check),
    )


def _exported(step: VerifyExport, saved: SavedModel, context: Context) -> Iterator[Stage]:
    """The stages after the saved model."""
    return written_stages(step, context.plan, saved, context.inputs.__getitem__, context.placement.device)
