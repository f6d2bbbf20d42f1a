"""The format onnx: one graph in float32, `model.onnx`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from compiler.recipe import Onnx
from compiler.tasks import Task
from runtimes import tasks
from runtimes.export import Stage, Written
from runtimes.export.session import onnx_scores
from runtimes.pytorch.onnx import export as write_graph

GRAPH = "model.onnx"


def write(export: Onnx, task: Task, model: Path, out: Path) -> Written:
    """Writes the graph. Raises RunError E501."""
    assert isinstance(export.opset, int), "resolved"
    module = tasks.module_of(task)
    shapes = {column.name: column.shape for column in module.columns(task, None) if column.shape}
    auto_class = module.head(task).auto_class
    facts = write_graph(model, out / GRAPH, opset=export.opset, auto_class=auto_class, shapes=shapes)
    megabytes = facts.num_bytes / 2**20
    return Written(facts=asdict(facts), says=f"ONNX opset {facts.opset}, {facts.num_nodes} nodes, {megabytes:,.1f} MiB")


def stages(export: Onnx, task: Task, model: Path, written: Path, device: str) -> Sequence[Stage]:
    """The graph, in the session that is deployed."""
    reading = tasks.module_of(task).head(task).reading
    return [Stage("onnx", partial(onnx_scores, written / GRAPH, reading))]
