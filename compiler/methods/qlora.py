"""QLoRA: low-rank updates beside weights that are held in a few bits (Dettmers et al. 2023, arXiv:2305.14314)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from compiler.auto import Auto, Choice
from compiler.diagnostics import Diagnostic
from compiler.groups import GroupSize, inputs_in_layers, num_held
from compiler.methods import lora
from compiler.methods.interface import Tuned
from compiler.methods.lora import LowRank
from compiler.placement import Runtime
from compiler.typed import About

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class QLoRA(LowRank):
    """Low-rank updates beside linear weights that are held quantized; the task head is trained in full. MLX only."""

    type: Annotated[Literal["qlora"], About("As lora, beside weights that are held in a few bits (MLX).")] = "qlora"
    bits: Annotated[Literal[4, 8], About("Bits of a held weight.")] = 4
    group_size: Annotated[GroupSize, About("Inputs of a layer that share a scale; must divide their number.")] = 64


LEARNING_RATE = Auto(5e-4, "method qlora: as for lora, the trained updates are the same")
MERGES = True  # whether what it trains is merged into its base before an export
SAVES: Literal["model", "adapter"] = "adapter"
RUNTIMES: tuple[Runtime, ...] = ("mlx",)


def check(recipe: Recipe, method: QLoRA, model: ModelFacts) -> Iterator[Diagnostic]:
    """As lora; and the group size holds every layer that one of its values can hold."""
    yield from lora.check(recipe, method, model)
    inputs = inputs_in_layers(model)
    held = {size: num_held(inputs, size) for size in get_args(GroupSize)}
    most = max(held.values())
    if inputs and not most:
        message = "no group size divides the inputs of the model's linear layers"
        yield recipe.finding("R214", "/method", message, 'use the method "lora"')
    elif held[method.group_size] < most:
        name, count = next((name, count) for name, count in inputs.items() if count % method.group_size)
        message = f"groups of {method.group_size} don't divide the {count} inputs of {name}"
        largest = max(size for size, count in held.items() if count == most)
        yield recipe.finding("R214", "/method/group_size", message, f'write "group_size": {largest}')


def resolve(method: QLoRA, model: ModelFacts) -> tuple[QLoRA, tuple[Choice, ...]]:
    """As lora; where layers stay as they are because no group size divides their inputs, it is said."""
    method, choices = lora.resolve(method, model)
    inputs = inputs_in_layers(model)
    kept = [name for name, count in inputs.items() if count % method.group_size]
    if kept:
        reason = f"{len(kept)} of {len(inputs)} linear layers are not quantized, no group size divides their inputs"
        choice = Choice(pointer="/method/group_size", value=method.group_size, reason=f"{reason}: {kept[0]}")
        choices = (*choices, choice)
    return method, choices


def tuned(method: QLoRA, model: ModelFacts) -> Tuned:
    """As lora."""
    return lora.tuned(method, model)
