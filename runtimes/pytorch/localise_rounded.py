"""Localisation over an edge that rounds: the graph in few bits against the one in float32, by the names of values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from runtimes.localisation.alignment import align
from runtimes.localisation.finding import Localised
from runtimes.localisation.rounding import Error, error_of, layer_names, search_rounded
from runtimes.localisation.values import Array
from runtimes.protocol import Batch
from runtimes.pytorch.localise import graphs_of, load, source_of, values_and_graph
from runtimes.saved import SavedModel
from runtimes.tasks import Head


def localise_rounded(
    saved: SavedModel, head: Head, exact: Sequence[Path], rounded: Sequence[Path], batch: Batch
) -> Localised:
    """The layer that adds most to the error of a graph whose weights were rounded, on one batch.

    `exact`: the files of the graph that was rounded, which says by its values which name is which layer of the source.
    Raises RunError E502 or E608.
    """
    source = source_of(load(saved, head), head, batch)
    names = layer_names(source, align(source, values_and_graph(graphs_of(exact), batch.inputs, cached=head.cached)[0]))
    wanted = {name for _, name in names.values()}
    kept = dict(_kept(values_and_graph(graphs_of(exact), batch.inputs, cached=head.cached)[0], wanted))
    values, graph = values_and_graph(graphs_of(rounded), batch.inputs, cached=head.cached)
    errors = dict(_errors(kept, values))
    return search_rounded(source, names, errors, graph, tuple(int(row) for row in batch.rows if row >= 0))


def _kept(values: Iterator[tuple[str, Array]], wanted: set[str]) -> Iterator[tuple[str, Array]]:
    return ((name, array) for name, array in values if name in wanted)


def _errors(exact: Mapping[str, Array], values: Iterator[tuple[str, Array]]) -> Iterator[tuple[str, Error]]:
    return ((name, error_of(exact[name], array)) for name, array in values if name in exact)
