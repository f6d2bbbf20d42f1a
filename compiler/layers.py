"""Which layer a weight is in, by its name: layers count from the input, an encoder's before its decoder's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from compiler.groups import LAYER
from compiler.weights import is_embedding, is_in_head

_HALVES = ("encoder", "decoder")


def layers_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The layer of each weight that is in one. A layer is what the first number in a name counts.

    So a stage is one layer (ResNet, ConvNeXt, Swin), and so are layers that share their weights (ALBERT). Of several
    stacks of layers in a half the one with most parameters counts; weights of others are beside the layers.
    """
    places = {name: place for name in shapes if not is_in_head(name) and (place := _place(name))}
    sizes: Counter[tuple[int, str]] = Counter()
    for name, (half, stack, _) in places.items():
        sizes[half, stack] += math.prod(shapes[name])
    largest = {half: stack for (half, stack), _ in reversed(sizes.most_common())}
    counted = {name: (half, number) for name, (half, stack, number) in places.items() if largest[half] == stack}
    numbers = {layer: at for at, layer in enumerate(sorted(set(counted.values())))}
    return {name: numbers[layer] for name, layer in counted.items()}


def _place(name: str) -> tuple[int, str, int] | None:
    """Half, stack and number of the layer that a weight is in; None where it is in none, as embeddings are."""
    found = LAYER.search(name)
    if found is None or is_embedding(stack := name[: found.start()]):
        return None
    half = next((part for part in stack.split(".") if part in _HALVES), _HALVES[0])
    return _HALVES.index(half), stack, int(found[0].strip("."))
