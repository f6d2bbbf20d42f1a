"""The format onnx: one graph in float32, `model.onnx`, or two: one that reads and one that writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedModel

from compiler.recipe import Onnx
from compiler.tasks import Task
from runtimes import tasks
from runtimes.export import Stage, Written, decoding
from runtimes.export.decoding import decoder_scores
from runtimes.export.facts import GRAPH, ExportFacts, adapter_file, graph_names, virtual_file
from runtimes.export.sequence import OnnxSequenceDecoder, onnx_sequence_decoder
from runtimes.export.session import onnx_scores
from runtimes.generation.virtual import write_virtual
from runtimes.localisation.finding import Localised
from runtimes.protocol import Batch
from runtimes.pytorch import onnx, onnx_decoder, onnx_genai, onnx_sequence, onnx_together
from runtimes.pytorch.decoding import max_positions
from runtimes.pytorch.loading import SourceError, load_saved
from runtimes.pytorch.localise import localise
from runtimes.pytorch.localise_rounded import localise_rounded
from runtimes.pytorch.onnx_graph import ExportError
from runtimes.pytorch.virtual import VirtualModel, virtual_cache
from runtimes.rows.features import TARGETS
from runtimes.saved import SavedModel
from runtimes.tasks import Head


def write(export: Onnx, task: Task, saved: SavedModel, out: Path) -> Written:
    """Writes the graph. Raises RunError E501, E505 where another's exporter fails."""
    assert isinstance(export.opset, int), "resolved"
    module = tasks.module_of(task)
    head = module.head(task)
    if export.exporter == "genai":
        apart = saved.adapter.folder if saved.adapter else None
        assert (apart is not None) == (export.adapter == "separate"), "merged, or written by transformers"
        return _written(onnx_genai.export(saved.folder, out, GRAPH, opset=export.opset, adapter=apart))
    write_graph, place = _writer(head)
    if head.reading == "logits":
        shapes = {column.name: column.shape for column in module.columns(task, 0) if column.name != TARGETS}
        write_graph = partial(write_graph, shapes={name: shape for name, shape in shapes.items() if shape})
    model: Any = traceable(saved, head)
    if isinstance(model, VirtualModel) and head.cached and not head.encodes:
        write_virtual(virtual_cache(model), virtual_file(out / place))
        model = model.inner
    facts = write_graph(model, out / place, opset=export.opset)
    return _written(facts)


def _written(facts: ExportFacts) -> Written:
    megabytes = facts.num_bytes / 2**20
    return Written(facts=asdict(facts), says=f"ONNX opset {facts.opset}, {facts.num_nodes} nodes, {megabytes:,.1f} MiB")


def write_together(export: Onnx, parts: Mapping[str, tuple[Task, SavedModel]], out: Path) -> Written:
    """Writes one graph, with an output named after each task. Raises RunError E501."""
    assert isinstance(export.opset, int), "resolved"
    models = {name: traceable(saved, tasks.module_of(task).head(task)) for name, (task, saved) in parts.items()}
    return _written(onnx_together.export_together(models, out / GRAPH, opset=export.opset))


def traceable(saved: SavedModel, head: Head) -> PreTrainedModel:
    """A saved model as it is traced. Raises ExportError when its files are not a whole model."""
    try:
        return load_saved(saved, head, attention="eager")
    except SourceError as error:
        raise ExportError(error.message, error.hint) from error


def _writer(head: Head) -> tuple[Callable[..., ExportFacts], str]:
    """What writes the graphs of a model, and where in its folder it writes: into it, where they are several."""
    if head.encodes:
        return onnx_sequence.export, ""
    return onnx_decoder.export if head.cached else onnx.export, GRAPH


def stages(export: Onnx, task: Task, saved: SavedModel, written: Path, device: str) -> Sequence[Stage]:
    """The graph, in the session that is deployed: as it was written, or rounded.

    Of an adapter beside its graph, with it; without it where the saved model has none.
    """
    head = tasks.module_of(task).head(task)
    [graph, *_] = graphs = graph_names(encodes=head.encodes, precision=export.precision)
    apart = export.adapter == "separate"
    adapter = adapter_file(written / graph) if apart and saved.adapter else None
    stage = partial(
        Stage,
        "onnx" if export.is_exact else f"onnx-{export.precision}",
        exact=export.is_exact,
        files=tuple(written / name for name in graphs) + ((adapter,) if adapter else ()),
        localise=None if apart else partial(_localise, export, task, saved, written),
    )
    if not head.cached:
        return [stage(partial(onnx_scores, written / graph, results=head.results, reading=head.reading))]
    most = max_positions(AutoConfig.from_pretrained(saved.folder, local_files_only=True))
    opened: Callable[[], decoding.CachedDecoder | OnnxSequenceDecoder]
    if head.encodes:
        start = head.config["decoder_start_token_id"]
        precision = export.precision
        opened = partial(onnx_sequence_decoder, written, precision=precision, start_id=start, max_positions=most)
    else:
        opened = partial(decoding.onnx_decoder, written / graph, max_positions=most, adapter=adapter)
    return [stage(lambda: decoder_scores(opened(), head.reading), decoder=opened)]


def _localise(
    export: Onnx, task: Task, saved: SavedModel, written: Path, batch: Batch, before: Sequence[Path]
) -> Localised:
    """Where the layers of a graph leave the model, or those of a graph that was rounded leave the graph before it."""
    if export.is_exact:
        return localise(task, saved, written, batch)
    head = tasks.module_of(task).head(task)
    rounded = [written / name for name in graph_names(encodes=head.encodes, precision=export.precision)]
    return localise_rounded(saved, head, before, rounded, batch)


def stages_of_part(export: Onnx, task: Task, written: Path, part: str) -> Sequence[Stage]:
    """The output of one of several tasks, in the session that is deployed."""
    reading = tasks.module_of(task).head(task).reading
    [graph] = graph_names(encodes=False, precision=export.precision)
    name = "onnx" if export.is_exact else f"onnx-{export.precision}"
    opened = partial(onnx_scores, written / graph, results=(part,), reading=reading)
    return [Stage(name, opened, exact=export.is_exact, files=(written / graph,))]
