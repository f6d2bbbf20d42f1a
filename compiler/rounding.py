"""Exports in few bits: that something is quantized, and how much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

from compiler.auto import Choice
from compiler.diagnostics import Diagnostic
from compiler.groups import GroupSize, inputs_in_layers, num_held
from compiler.recipe import Mlx

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe


def check_groups(recipe: Recipe, model: ModelFacts) -> Iterator[Diagnostic]:
    """An export in few bits quantizes something."""
    inputs = inputs_in_layers(model)
    for index, export in _in_few_bits(recipe):
        if inputs and not num_held(inputs, export.group_size):
            message = f"groups of {export.group_size} divide the inputs of none of the {len(inputs)} linear layers"
            sizes = [size for size in get_args(GroupSize) if num_held(inputs, size)]
            hint = f'write "group_size": {max(sizes)}' if sizes else "leave out bits: no group size divides them"
            yield recipe.finding("R214", f"/export/{index}/group_size", message, hint)


def group_choices(recipe: Recipe, model: ModelFacts) -> Iterator[Choice]:
    """How many layers each export in few bits quantizes."""
    inputs = inputs_in_layers(model)
    for index, export in _in_few_bits(recipe):
        held = num_held(inputs, export.group_size)
        if inputs:
            rest = ", the group size does not divide the inputs of the rest" if held < len(inputs) else ""
            reason = f"{held} of {len(inputs)} linear layers are quantized{rest}"
            yield Choice(pointer=f"/export/{index}/group_size", value=export.group_size, reason=reason)


def _in_few_bits(recipe: Recipe) -> Iterator[tuple[int, Mlx]]:
    for index, export in enumerate(recipe.export):
        if isinstance(export, Mlx) and export.bits is not None:
            yield index, export
