"""package: the bundle, verified as its receiver would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from compiler.plan import ExportModel, Package, Quantize, Step
from compiler.recipe import Held, Mlx
from compiler.tasks import Task
from runtimes import tasks
from runtimes.bundles.package import Parts, package
from runtimes.events import Said
from runtimes.export.facts import graph_names
from runtimes.export.functions import FUNCTION
from runtimes.steps import Context
from runtimes.steps.models import saved_by
from runtimes.steps.provenance import provenance_of
from runtimes.store import RECORDED, versions_of
from runtimes.verification.gate import Verification, report_lines


def execute(step: Package, context: Context) -> Iterator[Any]:
    """Writes bundle/; raises GateError when it does not answer as the trained model did."""
    verification = package(step, parts_of(step, context), context.folder / "bundle")
    yield Said(step=step.id, message=said(verification))


def said(verification: Verification) -> str:
    """What the receiver's verification came to."""
    return f"verified as its receiver will: {report_lines(verification)[-1]}"


def parts_of(step: Package, context: Context, part: str = "") -> Parts:
    """Where the parts of a bundle come from. `part`: of several tasks, which."""
    _, model_step, evaluate, export, verify = step.inputs
    saved = saved_by(model_step, context, part)
    evaluation = json.loads((context.inputs[evaluate] / "evaluation.json").read_text(encoding="utf-8"))
    graphs, precision = graphs_of(context.plan.step(export), step.task)
    return Parts(
        written=context.inputs[export],
        graphs=graphs,
        precision=precision,
        model_folder=saved.reading,
        tokenizer_folder=saved.reading,
        verify_folder=context.inputs[verify],
        key=context.key,
        versions=versions_of(RECORDED),
        baseline=evaluation["baseline"],
        provenance=provenance_of(step, context, evaluation, part),
        part=part,
    )


def graphs_of(written: Step, task: Task) -> tuple[tuple[str, ...], Held]:
    """The files that a step wrote, and their precision."""
    match written:
        case ExportModel(export=Mlx() as export):
            return (FUNCTION,), export.held
        case Quantize(export=export):
            precision: Held = export.precision
        case _:
            precision = "fp32"
    return graph_names(encodes=tasks.module_of(task).head(task).encodes, precision=precision), precision
