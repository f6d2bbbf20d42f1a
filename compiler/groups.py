"""Which linear layers are quantized: those whose inputs are divided by the group size, each group with a scale."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from compiler.facts import ModelFacts

GroupSize = Literal[32, 64, 128]
LAYER = re.compile(r"(?:^|\.)\d+\.")
"""The number of a layer in the name of a module or parameter inside of it."""


def is_in_layer(name: str) -> bool:
    """Whether a module or parameter is inside a numbered layer."""
    return LAYER.search(name) is not None


def inputs_in_layers(model: ModelFacts) -> Mapping[str, int]:
    """The inputs of the linear modules inside the layers, where the facts have them."""
    return {name: count for name, count in model.linear_inputs.items() if is_in_layer(name)}


def num_held(inputs: Mapping[str, int], group_size: int) -> int:
    """How many of some modules are quantized."""
    return sum(count % group_size == 0 for count in inputs.values())
