"""Which layer adds most to the error of a graph whose weights were rounded: values by their names, which survive it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from runtimes.localisation.alignment import Alignment
from runtimes.localisation.finding import LayerDelta, Localised
from runtimes.localisation.search import operator_of
from runtimes.localisation.values import Array, Graph, Source, difference


@dataclass(frozen=True, slots=True)
class Error:
    """How far a value is off: the largest difference, and the share of its size that is wrong."""

    max_abs: float
    relative: float  # root of the squares of the differences, to that of the values


def error_of(exact: Array, rounded: Array) -> Error:
    """How far a rounded value is off; infinitely where shapes differ or a number is not finite."""
    if exact.shape != rounded.shape:
        return Error(float("inf"), float("inf"))
    one, two = exact.astype(np.float64), rounded.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        off, size = float(np.linalg.norm(one - two)), float(np.linalg.norm(one))
    relative = off / size if size else off
    return Error(difference(exact, rounded), relative if np.isfinite(relative) else float("inf"))


def layer_names(source: Source, alignment: Alignment) -> dict[int, tuple[str, str]]:
    """Of each value that a layer gave and the graph has: the layer, the innermost one, and the value's name there."""
    found: dict[int, tuple[str, str]] = {}
    for layer, number in source.modules:
        near = alignment.right[number]
        if near is not None and alignment.telling[number] and layer:
            found.setdefault(number, (layer, near.name))
    return found


def search_rounded(
    source: Source,
    names: Mapping[int, tuple[str, str]],
    errors: Mapping[str, Error],
    graph: Graph,
    rows: tuple[int, ...],
) -> Localised:
    """The layer that adds most: whose error is furthest above that of what it is computed from.

    `names`: see `layer_names`. `errors`: of the values by name, those that both graphs have. `graph`: the rounded one.
    """
    added = dict(_added(source, names, errors))
    layers = tuple(_layers(source, names, errors, added))
    if not added:
        return Localised(
            rows=rows,
            note="no value of a layer is in both graphs by its name",
            followed=False,
        )
    worst = max(added, key=lambda number: added[number])
    layer, name = names[worst]
    node = next((node for node in graph.nodes if name in node.outputs), None)
    before = errors[name].relative - added[worst]
    others = sorted((each for each in added if each != worst), key=lambda number: -added[number])[:2]
    note = f"of what it gives {errors[name].relative:.1%} is wrong, of what it reads {before:.1%}"
    if others:
        note += f"; then {', '.join(f'{names[each][0]} adds {added[each]:.1%}' for each in others)}"
    return Localised(
        rows=rows,
        layer=layer,
        operation=source.values[worst].operation,
        operator=operator_of(node, graph) if node is not None else None,
        max_abs=errors[name].max_abs,
        allowed=0.0,
        note=note,
        layers=layers,
        rounded=True,
    )


def _added(
    source: Source, names: Mapping[int, tuple[str, str]], errors: Mapping[str, Error]
) -> Iterator[tuple[int, float]]:
    """What each layer adds to the relative error, by the number of its value."""
    known = {number: errors[name].relative for number, (_, name) in names.items() if name in errors}
    reached: dict[int, float] = {}  # of every value, the largest error among the layers just before it
    for number, value in enumerate(source.values):
        before = max((known.get(needed, reached[needed]) for needed in value.needs), default=0.0)
        reached[number] = before
        if number in known:
            yield number, known[number] - before


def _layers(
    source: Source,
    names: Mapping[int, tuple[str, str]],
    errors: Mapping[str, Error],
    added: Mapping[int, float],
) -> Iterator[LayerDelta]:
    for layer, number in source.modules:
        if number in added and names[number][0] == layer:
            error = errors[names[number][1]]
            finite = np.isfinite(error.max_abs)
            yield LayerDelta(
                layer=layer,
                max_abs=error.max_abs if finite else None,
                relative=error.relative if finite else None,
                allowed=0.0,
                right=False,
                added=added[number] if finite else None,
            )
