"""verify: the gate over every edge from the trained model to the exported graph. Fails the run when one breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from compiler.plan import VerifyExport
from runtimes import export
from runtimes.answers import Writing, Written, writing_of
from runtimes.backends import backend
from runtimes.comparison import HeldOut
from runtimes.decoding import Decoder
from runtimes.events import Said
from runtimes.export import Stage
from runtimes.features import Features
from runtimes.gate import report_lines, require_passed
from runtimes.inputs import Row, open_reader
from runtimes.learnt import learnt, write_learnt
from runtimes.saved import SavedModel
from runtimes.steps import Context
from runtimes.steps.models import prepared_for, saved_by
from runtimes.steps.prepare import read_prepared
from runtimes.together import part_folder
from runtimes.tokens import Encoder
from runtimes.verify import Verified, verify_export
from runtimes.verify_writing import write_source

HINT = "disagreements.jsonl beside verification.json lists the rows; the tuned model itself is kept"


def execute(step: VerifyExport, context: Context) -> Iterator[Any]:
    """Writes verification.json, disagreements.jsonl and golden.jsonl; raises GateError afterwards when it failed."""
    _, train, *merge, written = step.inputs
    planned, step = step.task, replace(step, task=learnt(step.task, part_folder(context.inputs[train], step.part)))
    prepared = prepared_for(step, context) / step.split
    facts = Features(prepared).facts
    saved = saved_by((train, *merge)[-1], context, step.part)
    back, device = backend(context.placement.engine), context.placement.device

    encoder = open_reader(step.task, saved.reading, max_length=facts.max_length, root=prepared)
    write = None
    if step.generation is not None and isinstance(encoder, Encoder):
        writing = writing_of(step.task, encoder, step.generation, saved.reading)
        write = partial(_write, writing, partial(back.decoder, step.task, saved, device))

    write_learnt(planned, step.task, context.folder)
    verified = verify_export(
        step,
        held_out=HeldOut(task=step.task, rows=read_prepared(prepared)),
        encoder=encoder,
        stages=[
            Stage("trained", partial(back.scores, step.task, saved_by(train, context, step.part), device)),
            *([Stage("merged", partial(back.scores, step.task, saved, device))] if merge else []),
            *_exported(step, saved, context.inputs[written], device),
        ],
        noise=partial(back.float32_noise, step.task, saved),
        out=context.folder,
        write=write,
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


def _exported(step: VerifyExport, saved: SavedModel, written: Path, device: str) -> Sequence[Stage]:
    """The stages after the saved model; of several tasks in one graph, the output of this one."""
    if step.part:
        return export.together_module_of(step.export).stages_of_part(step.export, step.task, written, step.part)
    return export.module_of(step.export).stages(step.export, step.task, saved, written, device)


def _write(
    writing: Writing, source: Callable[[], Decoder[Any]], rows: Sequence[Row], numbers: Sequence[int]
) -> Sequence[Written]:
    return write_source(writing, source(), rows, numbers)
