"""The format onnx: one graph in float32, `model.onnx`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from transformers import AutoConfig

from compiler.recipe import Onnx
from compiler.tasks import Task
from runtimes import tasks
from runtimes.export import Stage, Written, decoding
from runtimes.export.decoding import decoder_scores
from runtimes.export.session import onnx_scores
from runtimes.pytorch import onnx, onnx_decoder
from runtimes.pytorch.decoding import max_positions

GRAPH = "model.onnx"


def write(export: Onnx, task: Task, model: Path, out: Path) -> Written:
    """Writes the graph. Raises RunError E501."""
    assert isinstance(export.opset, int), "resolved"
    head = tasks.module_of(task).head(task)
    write_graph = onnx_decoder.export if head.reading == "tokens" else onnx.export
    facts = write_graph(model, out / GRAPH, opset=export.opset, auto_class=head.auto_class)
    megabytes = facts.num_bytes / 2**20
    return Written(facts=asdict(facts), says=f"ONNX opset {facts.opset}, {facts.num_nodes} nodes, {megabytes:,.1f} MiB")


def stages(export: Onnx, task: Task, model: Path, written: Path, device: str) -> Sequence[Stage]:
    """The graph, in the session that is deployed."""
    head = tasks.module_of(task).head(task)
    reading = head.reading
    if reading != "tokens":
        return [Stage("onnx", partial(onnx_scores, written / GRAPH, results=head.results, reading=reading))]
    most = max_positions(AutoConfig.from_pretrained(model, local_files_only=True))
    opened = partial(decoding.onnx_decoder, written / GRAPH, max_positions=most)
    return [Stage("onnx", lambda: decoder_scores(opened(), reading), decoder=opened)]
