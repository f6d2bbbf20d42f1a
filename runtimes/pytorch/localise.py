"""Localisation of a fault of an ONNX export: the untouched PyTorch model against every value of its graph."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from compiler.tasks import Task
from runtimes import tasks
from runtimes.errors import RunError
from runtimes.export.facts import PAST, PRESENT, graph_names
from runtimes.export.feeds import for_writing
from runtimes.export.intermediates import Fed, Opened, feed, joined, open_graph, outputs_of, values_of
from runtimes.localisation.finding import Localised
from runtimes.localisation.search import search
from runtimes.localisation.values import Array, Graph, Source
from runtimes.protocol import Batch
from runtimes.pytorch.inputs import taken_inputs
from runtimes.pytorch.loading import SourceError, load_saved
from runtimes.pytorch.localise_decoder import keeps_cache, localise_decoder, traced
from runtimes.pytorch.virtual import VirtualModel
from runtimes.saved import SavedModel
from runtimes.tasks import Head

_ENCODER = "encoder/"
_HIDDEN, _SEEN = "last_hidden_state", "encoder_hidden_states"


def localise(task: Task, saved: SavedModel, onnx_folder: Path, batch: Batch) -> Localised:
    """The first layer and operator of an ONNX graph whose error leaves the noise, on one batch; or that none does.

    `saved`: the source, a model of transformers (SavedModel(folder)). `onnx_folder`: where the export step, optimum or
    Olive wrote the graphs, under the names of export.facts.graph_names. `batch`: one row that fails, as the gate
    encodes it, or a padded batch where rows fail in one alone.
    Raises RunError E502 when the source does not load, E608 when a graph's values can't be looked at.
    """
    head = tasks.module_of(task).head(task)
    return localise_graphs(saved, head, [onnx_folder / name for name in graph_names(encodes=head.encodes)], batch)


def localise_graphs(
    saved: SavedModel, head: Head, graphs: Sequence[Path], batch: Batch, results: Mapping[str, str] | None = None
) -> Localised:
    """As `localise`, for graphs by their files: one, or that which reads and that which writes.

    `results`: what the graph calls the head's results, where it has names of its own for them.
    """
    model = load(saved, head)
    opened = graphs_of(graphs)
    rows = tuple(int(row) for row in batch.rows if row >= 0)
    if keeps_cache(opened):
        [logits] = (results or {name: name for name in head.results}).values()
        return localise_decoder(model, opened[0], batch.inputs, rows, logits)
    source = source_of(model, head, batch, results)
    found, graph = fed_graphs(opened, batch.inputs, cached=head.cached)
    return search(source, graph, chain.from_iterable(map(values_of, found)), rows)


def source_of(model: Any, head: Head, batch: Batch, results: Mapping[str, str] | None = None) -> Source:
    """What a model computes for a batch. Raises RunError E608."""
    inputs = taken_inputs(model, batch.inputs)
    arguments = {**head.arguments, **({"use_cache": False} if "use_cache" in _taken(model) else {})}
    return traced(model, inputs, arguments, results or {name: name for name in head.results})


def _taken(model: Any) -> Mapping[str, Any]:
    return inspect.signature(model.forward).parameters


def load(saved: SavedModel, head: Head) -> Any:
    """The source with attention written out, where its architecture has that: one call would hide what is inside."""
    try:
        model: Any = load_saved(saved, head, attention="eager")
    except SourceError:
        model = load_saved(saved, head)
    if isinstance(model, VirtualModel):
        message = f"{saved.reading}: virtual tokens stand before its rows, and no value of the graph is of these alone"
        raise RunError("E608", message, "compare outputs alone: leave out --bisect")
    return model


def graphs_of(files: Sequence[Path]) -> list[Opened]:
    """The graphs of a model: one, or that which reads, whose names say so, and that which writes."""
    *before, last = files
    return [*(open_graph(file, prefix=_ENCODER, told=True) for file in before), open_graph(last, told=bool(before))]


def fed_graphs(opened: Sequence[Opened], inputs: Mapping[str, Array], *, cached: bool) -> tuple[list[Fed], Graph]:
    """A model's graphs, fed for a batch, and as one graph. `cached`: positions are counted as decoders count them."""
    if len(opened) == 1:
        [one] = opened
        return [feed(one, inputs, cached=cached)], one.graph
    encoder, decoder = opened
    reading = feed(encoder, inputs, cached=False)
    encoded = outputs_of(reading)
    read = {name: name.replace(PRESENT, PAST).replace(_HIDDEN, _SEEN) for name in encoded}
    given = {**for_writing(inputs), **{read[name]: array for name, array in encoded.items()}}
    links = {read[name]: encoder.renamed[name] for name in encoded if read[name] in decoder.graph.inputs}
    return [reading, feed(decoder, given, cached=True)], joined([encoder.graph, decoder.graph], links)
