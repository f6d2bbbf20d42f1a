"""Localisation over an edge that rounds: the graph in few bits against the one in float32, by the names of values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from runtimes.export.intermediates import Fed, portions_of, values_of
from runtimes.localisation.alignment import align
from runtimes.localisation.finding import Localised
from runtimes.localisation.rounding import Error, error_of, layer_names, search_rounded
from runtimes.protocol import Batch
from runtimes.pytorch.localise import fed_graphs, graphs_of, load, source_of
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
    (before, _), (after, graph) = (
        fed_graphs(graphs_of(files), batch.inputs, cached=head.cached) for files in (exact, rounded)
    )
    names = layer_names(source, align(source, chain.from_iterable(map(values_of, before))))
    errors = dict(_errors(before, after, {name for _, name in names.values()}))
    return search_rounded(source, names, errors, graph, tuple(int(row) for row in batch.rows if row >= 0))


def _errors(before: Sequence[Fed], after: Sequence[Fed], names: set[str]) -> Iterator[tuple[str, Error]]:
    """How far values are off that both have by their names, a portion of each at once."""
    for kept in chain.from_iterable(portions_of(one, names) for one in before):
        for found in chain.from_iterable(portions_of(one, {*kept}) for one in after):
            yield from ((name, error_of(kept[name], array)) for name, array in found.items())
