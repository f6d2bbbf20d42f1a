"""export: a model -> the graph of one format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from compiler.files import write_json
from compiler.plan import ExportModel
from runtimes import tasks
from runtimes.events import Said
from runtimes.export import writer
from runtimes.steps import Context


def execute(step: ExportModel, context: Context) -> Iterator[Any]:
    """Writes model.onnx and export.json."""
    [source] = context.inputs.values()
    assert isinstance(step.export.opset, int), "resolved"
    auto_class = tasks.module_of(step.task).head(step.task).auto_class
    facts = writer(step.export.format)(
        source / "model", context.folder / "model.onnx", opset=step.export.opset, auto_class=auto_class
    )
    write_json(context.folder / "export.json", asdict(facts))
    megabytes = facts.num_bytes / 2**20
    yield Said(step=step.id, message=f"ONNX opset {facts.opset}, {facts.num_nodes} nodes, {megabytes:,.1f} MiB")
