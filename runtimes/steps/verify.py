"""verify: the gate over every edge from the trained model to the exported graph. Fails the run when one breaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from compiler.plan import ExportModel, ExportTogether, Merge, Quantize, VerifyExport
from compiler.recipe import Export, Onnx
from runtimes import export
from runtimes.backends import backend
from runtimes.events import Said
from runtimes.export import Stage
from runtimes.generation.answers import writing_of
from runtimes.learnt import learnt, write_learnt
from runtimes.rows.features import Features
from runtimes.rows.inputs import open_reader
from runtimes.rows.tokens import Encoder
from runtimes.saved import SavedModel
from runtimes.steps import Context
from runtimes.steps.models import prepared_for, saved_by
from runtimes.steps.prepare import read_prepared
from runtimes.tasks.interface import InputReader
from runtimes.together import part_folder
from runtimes.verification.comparison import HeldOut
from runtimes.verification.edges import Base, Verified, Writer, verify_export
from runtimes.verification.gate import report_lines, require_passed
from runtimes.verification.stopping import Stopping

HINT = "disagreements.jsonl beside verification.json lists the rows; the tuned model itself is kept"


def execute(step: VerifyExport, context: Context) -> Iterator[Any]:
    """Writes verification.json, disagreements.jsonl and golden.jsonl; raises GateError afterwards when it failed."""
    _, train, *others = step.inputs
    merge = [name for name in others if isinstance(context.plan.step(name), Merge)]
    planned, step = step.task, replace(step, task=learnt(step.task, part_folder(context.inputs[train], step.part)))
    prepared = prepared_for(step, context) / step.split
    facts = Features(prepared).facts
    saved = saved_by((train, *merge)[-1], context, step.part)
    back, device = backend(context.placement.engine), context.placement.device

    stopping = Stopping(context.stop, step.id)
    encoder = open_reader(step.task, saved.reading, max_length=facts.max_length, root=prepared)

    write_learnt(planned, step.task, context.folder)
    trained = saved_by(train, context, step.part)
    stages = [
        Stage("trained", partial(back.scores, step.task, trained, device), files=trained.weights),
        *([Stage("merged", partial(back.scores, step.task, saved, device), files=saved.weights)] if merge else []),
        *_exported(step, saved, context, device),
    ]
    verified = verify_export(
        step,
        held_out=HeldOut(task=step.task, rows=read_prepared(prepared)),
        encoder=encoder,
        stages=[stopping.stage(stage) for stage in stages],
        noise=partial(back.float32_noise, step.task, saved, before_each=stopping.check),
        out=context.folder,
        writer=_writer(step, saved, context, encoder, stopping),
        base=_base(step, saved, context, stopping),
    )
    for line in report_lines(verified.verification)[-1 if verified.verification.passed else 0 :]:
        yield Said(step=step.id, message=line)
    for line in localised_lines(verified):
        yield Said(step=step.id, message=line)
    require_passed(verified.verification, code="E602", hint="; ".join([*localised_lines(verified)[:1], HINT]))


def localised_lines(verified: Verified) -> list[str]:
    """Where a failed edge leaves the noise, for a terminal."""
    localised = verified.report.localised
    return [] if localised is None else localised.lines()


def _writer(
    step: VerifyExport, saved: SavedModel, context: Context, encoder: InputReader, stopping: Stopping
) -> Writer | None:
    """How the tuned model writes, where it does."""
    if step.generation is None or not isinstance(encoder, Encoder):
        return None
    writing = writing_of(step.task, encoder, step.generation, saved.reading)
    back, device = backend(context.placement.engine), context.placement.device
    return stopping.writer(Writer(writing, partial(back.decoder, step.task, saved, device)))


def _base(step: VerifyExport, saved: SavedModel, context: Context, stopping: Stopping) -> Base | None:
    """What the adapter is beside of, where an export does not merge it."""
    if not isinstance(step.export, Onnx) or step.export.adapter != "separate":
        return None
    back, device, base = backend(context.placement.engine), context.placement.device, SavedModel(saved.folder)
    [graph] = _exported(step, base, context, device)
    return Base(
        stopping.stage(Stage("base", partial(back.scores, step.task, base, device), files=base.weights)),
        stopping.stage(replace(graph, name=f"{graph.name}-base")),
        partial(back.float32_noise, step.task, base, before_each=stopping.check),
    )


def _exported(step: VerifyExport, saved: SavedModel, context: Context, device: str) -> Iterator[Stage]:
    """The stages after the saved model: as written, and as rounded; of several tasks, the output of this one."""
    for name in step.inputs:
        match context.plan.step(name):
            case ExportModel(export=written) | Quantize(export=written):
                yield from _stages(step, written, saved, context.inputs[name], device)
            case ExportTogether(parts=parts):
                yield from _stages(step, parts[step.part].export, saved, context.inputs[name], device)


def _stages(step: VerifyExport, written: Export, saved: SavedModel, folder: Path, device: str) -> Sequence[Stage]:
    if step.part:
        return export.together_module_of(written).stages_of_part(written, step.task, folder, step.part)
    return export.module_of(written).stages(written, step.task, saved, folder, device)
