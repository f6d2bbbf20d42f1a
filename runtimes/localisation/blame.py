"""The first value that is wrong, and the operator that made it so.

A value of the source that no value of the graph is need not be wrong: a fused operator has nothing inside. It is where
the answer can be reached from it over such values alone. Of these, the ones all of whose inputs are right began it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from runtimes.localisation.alignment import Alignment
from runtimes.localisation.values import Graph, Node, Source
from runtimes.localisation.weights import faults_of

NEAR = 0.5
"""Of its scale: a value of the graph that is nearer than this to one of the source's is meant to be it."""
FURTHER = 4
"""Where no value of the graph is near: so many operators are looked through for what reads a parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Culprit:
    """Where a graph leaves its source."""

    number: int  # of the source's value
    node: Node | None  # the first operator
    region: tuple[Node, ...]  # those that compute the value, the first of them the operator
    note: str  # what is wrong about a weight or an index; empty where nothing was found


def culprit(source: Source, graph: Graph, alignment: Alignment) -> Culprit | None:
    """Where the graph leaves its source; None where it does not."""
    began = tuple(_beginnings(source, alignment))
    if not began:
        return None
    wrong = _wrong_names(source, graph, alignment)
    found = [_examined(number, source, graph, alignment, wrong) for number in began]
    told = next((each for each in found if each.note), None)
    meant = next((each for each in found if _is_near(source, alignment, each.number)), None)
    return told or meant or found[0]


def _beginnings(source: Source, alignment: Alignment) -> Iterator[int]:
    """The wrong values whose inputs are right, in order."""
    wrong = wrong_numbers(source, alignment)
    for number in sorted(wrong):
        if alignment.telling[number] or number in source.results.values():
            seen = set(_telling_needs(source, alignment, number))
            if not seen & wrong:
                yield number


def wrong_numbers(source: Source, alignment: Alignment) -> set[int]:
    """The values from which the answer is reached over values that are not found in the graph."""
    users: dict[int, list[int]] = defaultdict(list)
    for number, value in enumerate(source.values):
        for needed in value.needs:
            users[needed].append(number)
    wrong: set[int] = set()
    results = {*source.results.values()}
    for number in reversed(range(len(source.values))):
        found = alignment.right[number] is not None
        through = not found or (not alignment.telling[number] and number not in results)
        if through and ((number in results and not found) or any(user in wrong for user in users[number])):
            wrong.add(number)
    return wrong


def _telling_needs(source: Source, alignment: Alignment, number: int) -> Iterator[int]:
    """What a value was computed from; where that is a mask or a constant, what that was computed from."""
    for needed in source.values[number].needs:
        if alignment.telling[needed]:
            yield needed
        else:
            yield from _telling_needs(source, alignment, needed)


def _is_near(source: Source, alignment: Alignment, number: int) -> bool:
    near = alignment.near[number]
    return near is not None and near.max_abs < NEAR * source.values[number].held.scale


def _wrong_names(source: Source, graph: Graph, alignment: Alignment) -> set[str]:
    """The graph's values from which its answer is reached over values that are none of the source's."""
    right = {
        name
        for name, numbers in alignment.names.items()
        if any(alignment.telling[number] for number in numbers) and name not in source.results
    }
    named = {name for name in source.results if name in graph.outputs}
    ends = (
        {near.name for near in alignment.near if near is not None and near.name in named} or named or {*graph.outputs}
    )
    wrong = {*ends}
    for node in reversed(graph.nodes):
        if wrong & {*node.outputs}:
            wrong |= {name for name in node.inputs if name and name not in right and name not in graph.weights}
    return wrong


def _examined(number: int, source: Source, graph: Graph, alignment: Alignment, wrong: set[str]) -> Culprit:
    """What the operators have about them that compute a value."""
    region = _region(number, source, graph, alignment, wrong)
    for node in region:
        faults = [*faults_of(node, source.values[number], source, graph, alignment.integers)]
        if faults:
            return Culprit(number=number, node=node, region=region, note="; ".join(faults))
    return Culprit(number=number, node=region[0] if region else None, region=region, note="")


def _region(number: int, source: Source, graph: Graph, alignment: Alignment, wrong: set[str]) -> tuple[Node, ...]:
    """The operators between what the value was computed from, as the graph has it, and what is nearest to the value."""
    computing = [
        node for node in graph.nodes if any(name in wrong and _is_float(name, alignment) for name in node.outputs)
    ]
    before = {*_names_before(number, source, alignment)}
    after = [*_reached(computing, before)]
    near = alignment.near[number]
    if near is not None and _is_near(source, alignment, number):
        into = [*_reaching(after or computing, near.name)]
        if into:
            return tuple(into)
    if not after:
        again = [*_computing_again(number, graph, alignment, before)]
        return tuple((again or _reading(computing, source, graph, number) or computing)[:1])
    return after[0], *_reading(after[1:FURTHER], source, graph, number)


def _is_float(name: str, alignment: Alignment) -> bool:
    return name in alignment.floats


def _names_before(number: int, source: Source, alignment: Alignment) -> Iterator[str]:
    """The graph's values that a value of the source is computed from; of an answer that it computes, that itself."""
    itself = [name for name, numbers in alignment.names.items() if number in numbers and name not in source.results]
    needs = {*_telling_needs(source, alignment, number)}
    yield from itself or (name for name, numbers in alignment.names.items() if needs & {*numbers})


def _reached(nodes: Iterable[Node], names: set[str]) -> Iterator[Node]:
    """The operators that compute something from values of these names."""
    reached = {*names}
    for node in nodes:
        if reached & {*node.inputs}:
            reached |= {*node.outputs}
            yield node


def _computing_again(number: int, graph: Graph, alignment: Alignment, before: set[str]) -> Iterator[Node]:
    """Of the operators on values of these names that compute one value twice, that which should compute another one.

    Operators stand in the order of the source: it is the first of them where that other value comes first there.
    """
    readers = [node for node in graph.nodes if before & {*node.inputs} and alignment.names.get(node.outputs[0])]
    found = [alignment.names[node.outputs[0]] for node in readers]
    for numbers in dict.fromkeys(found):
        alike = [node for node, each in zip(readers, found, strict=True) if each == numbers]
        if len(alike) > 1:
            yield alike[0] if number < min(numbers) else alike[-1]


def _reaching(nodes: Sequence[Node], name: str) -> Iterator[Node]:
    """The operators from which a value is computed, it being one of theirs."""
    wanted, found = {name}, []
    for node in reversed(nodes):
        if wanted & {*node.outputs}:
            wanted |= {*node.inputs}
            found.append(node)
    yield from reversed(found)


def _reading(nodes: Iterable[Node], source: Source, graph: Graph, number: int) -> list[Node]:
    """The operators that read a constant as large as a parameter of a value."""
    sizes = {source.parameters[name].size for name in source.values[number].parameters}
    return [
        node
        for node in nodes
        if any(graph.weights[name]().size in sizes for name in node.inputs if name in graph.weights)
    ]


def lost_inputs(graph: Graph, node: Node, names: Iterable[str]) -> Mapping[str, bool]:
    """Of inputs of a graph, whether an operator depends on them."""
    seen: set[str] = {*node.inputs}
    for each in reversed(graph.nodes):
        if seen & {*each.outputs}:
            seen |= {*each.inputs}
    return {name: name in seen for name in names}
