"""verify: the gate over every edge from the trained model to the exported graph. Fails the run when one breaks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from compiler.hub import fetch_model
from compiler.plan import Train, VerifyExport
from runtimes import export
from runtimes.backends import backend
from runtimes.comparison import HeldOut
from runtimes.events import Said
from runtimes.export import Stage
from runtimes.features import Features
from runtimes.gate import report_lines, require_passed
from runtimes.inputs import open_reader
from runtimes.steps import Context
from runtimes.steps.prepare import read_prepared
from runtimes.verify import verify_export

HINT = "disagreements.jsonl beside verification.json lists the rows; the tuned model itself is kept"


def execute(step: VerifyExport, context: Context) -> Iterator[Any]:
    """Writes verification.json, disagreements.jsonl and golden.jsonl; raises GateError afterwards when it failed."""
    train = context.plan.step("train")
    assert isinstance(train, Train)
    prepared = context.inputs["prepare"] / step.split
    facts = Features(prepared).facts
    base = fetch_model(step.model, context.root, context.sources)
    model = context.inputs.get("merge", context.inputs["train"]) / "model"
    back, device = backend(context.placement.engine), context.placement.device
    merges, written = "merge" in context.inputs, context.inputs[step.inputs[-1]]

    verified = verify_export(
        step,
        held_out=HeldOut(task=step.task, rows=read_prepared(prepared)),
        reader=open_reader(step.task, model, max_length=facts.max_length, root=prepared),
        stages=[
            Stage("trained", partial(back.trained_scores, train, context.inputs["train"], base, device)),
            *([Stage("merged", partial(back.model_scores, step.task, model, device))] if merges else []),
            *export.module_of(step.export).stages(step.export, step.task, model, written, device),
        ],
        noise=partial(back.float32_noise, step.task, model),
        out=context.folder,
    )
    for line in report_lines(verified.verification)[-1 if verified.verification.passed else 0 :]:
        yield Said(step=step.id, message=line)
    require_passed(verified.verification, code="E602", hint=HINT)
