"""quantize: a graph in float32 -> one in fewer bits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compiler.files import write_json
from compiler.plan import Quantize
from runtimes import tasks
from runtimes.bundles.golden import spread
from runtimes.events import Said
from runtimes.export import genai
from runtimes.export.facts import graph_names, virtual_file
from runtimes.export.feeds import feeds
from runtimes.export.foreign import open_inputs
from runtimes.export.rounding import Feed, Rounded, round_graph
from runtimes.rows.batches import collate
from runtimes.rows.features import Features, Table
from runtimes.steps import Context
from runtimes.store import versions_of

_ROWS_AT_ONCE = 16
_QUANTIZERS = ("onnx", "onnxruntime")


def execute(step: Quantize, context: Context) -> Iterator[Any]:
    """Writes the graphs beside each other as the export has them, and export.json."""
    exported, *prepared = step.inputs
    rows = Features(context.inputs[prepared[0]] / "train") if prepared else None
    yield Said(step=step.id, message=quantized(step, context.inputs[exported], context.folder, rows))


def quantized(step: Quantize, exported: Path, out: Path, rows: Table | None) -> str:
    """Writes the graphs of an export in fewer bits, and export.json; says what came of it.

    `rows`: those of which int8-static sees the ranges.
    """
    head = tasks.module_of(step.task).head(step.task)
    names = graph_names(encodes=head.encodes), graph_names(encodes=head.encodes, precision=step.export.precision)
    found = []
    for before, after in zip(*names, strict=True):
        graph = exported / before
        feeds = () if rows is None else _feeds(step, rows, graph)
        found.append(round_graph(step.export, graph, out / after, weights_alone=head.cached, rows=feeds))
        if virtual_file(graph).exists():
            shutil.copyfile(virtual_file(graph), virtual_file(out / after))
    if (exported / genai.CONFIG).is_file():
        shutil.copyfile(exported / genai.CONFIG, out / genai.CONFIG)
    whole = _together(found)
    facts = {**asdict(whole), "precision": step.export.precision, "versions": versions_of(_QUANTIZERS)}
    write_json(out / "export.json", facts)
    size = f"{whole.num_bytes / 2**20:,.1f} MiB"
    layers = f"{whole.rounded} of {whole.weighed} layers"
    return f"ONNX in {step.export.precision}, {layers}, {size}"


def _together(graphs: Sequence[Rounded]) -> Rounded:
    return Rounded(
        num_bytes=sum(graph.num_bytes for graph in graphs),
        rounded=sum(graph.rounded for graph in graphs),
        weighed=sum(graph.weighed for graph in graphs),
    )


def _feeds(step: Quantize, rows: Table, graph: Path) -> list[Feed]:
    """Batches of rows spread over their lengths, as the graph takes them."""
    chosen = spread(len(rows), step.export.calibration_rows)
    by_length = chosen[rows.lengths[chosen].argsort(kind="stable")]
    inputs = open_inputs(graph)
    portions = (by_length[start : start + _ROWS_AT_ONCE] for start in range(0, len(by_length), _ROWS_AT_ONCE))
    return [feeds(inputs, collate(rows, places).inputs, cached=False) for places in portions]
