"""LoRA: low-rank updates beside frozen weights (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from compiler.auto import Auto, Choice
from compiler.diagnostics import Diagnostic, nearest
from compiler.groups import LAYER
from compiler.methods.interface import Tuned
from compiler.placement import EVERY_RUNTIME
from compiler.typed import About

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """What the methods that train low-rank updates have in common."""

    type: str
    rank: Annotated[int, About("Rank of each update.", minimum=1)] = 8
    alpha: Annotated[
        float | Literal["auto"], About("Scale: an update counts alpha / rank. auto: twice the rank.", above=0)
    ] = "auto"
    dropout: Annotated[float, About("Dropout before each update.", minimum=0, below=1)] = 0.0
    target_modules: Annotated[
        tuple[str, ...] | Literal["auto"],
        About("Linear layers to update, by the end of their names. auto: all inside the layers.", nonempty=True),
    ] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRA(LowRank):
    """Low-rank updates beside frozen weights; the task head is trained in full."""

    type: Annotated[Literal["lora"], About("Train low-rank updates beside frozen weights.")] = "lora"


M = TypeVar("M", bound=LowRank)
LEARNING_RATE = Auto(5e-4, "method lora: adapters stand about ten times the rate of full tuning")
MERGES = True  # whether what it trains is merged into its base before an export
SAVES: Literal["model", "adapter"] = "adapter"
RUNTIMES = EVERY_RUNTIME


def matches(pattern: str, module: str) -> bool:
    """Whether a target pattern means a module: equal to its name or to the end of it after a dot."""
    return module == pattern or module.endswith(f".{pattern}")


def inside_layers(modules: tuple[str, ...]) -> tuple[str, ...]:
    """The names that linear modules have inside a numbered layer, each once."""
    suffixes = (name[found.end() :] for name in modules if (found := LAYER.search(name)))
    return tuple(sorted(dict.fromkeys(suffixes)))


def check(recipe: Recipe, method: LowRank, model: ModelFacts) -> Iterator[Diagnostic]:
    """Every target must name a linear module of the model."""
    if method.target_modules == "auto":
        if not model.linear_modules:
            message = f"the model has no linear modules ({model.model_type}), beside which updates stand"
            yield recipe.finding("R205", "/method", message, 'use the method "full", "freeze" or "head"')
        elif not inside_layers(model.linear_modules):
            message = "no linear module was found inside numbered layers of the model"
            yield recipe.finding("R205", "/method/target_modules", message, "name target_modules")
        return
    existing = sorted(
        {*inside_layers(model.linear_modules), *(name.rpartition(".")[2] for name in model.linear_modules)}
    )
    for index, pattern in enumerate(method.target_modules):
        if not any(matches(pattern, name) for name in model.linear_modules):
            message = f'"{pattern}" matches no linear module of the model'
            best = nearest(pattern, existing)
            hint = (f'did you mean "{best}"? ' if best else "") + f"the model has: {', '.join(existing)}"
            yield recipe.finding("R205", f"/method/target_modules/{index}", message, hint)


def resolve(method: M, model: ModelFacts) -> tuple[M, tuple[Choice, ...]]:
    """The method as it runs, and what was chosen for it."""
    choices: list[Choice] = []
    if method.alpha == "auto":
        method = replace(method, alpha=2.0 * method.rank)
        choices.append(Choice(pointer="/method/alpha", value=method.alpha, reason="twice the rank"))
    if method.target_modules == "auto":
        method = replace(method, target_modules=inside_layers(model.linear_modules))
        choices.append(
            Choice(
                pointer="/method/target_modules",
                value=inside_layers(model.linear_modules),
                reason="every linear module inside the layers",
            )
        )
    return method, tuple(choices)


def tuned(method: LowRank, model: ModelFacts) -> Tuned:
    """The linear modules with an update: `rank` times their inputs and outputs each."""
    assert method.target_modules != "auto", "resolved"
    modules = [name for name in model.linear_modules if any(matches(p, name) for p in method.target_modules)]
    sides = sum(sum(model.shapes[f"{name}.weight"]) for name in modules)
    return Tuned(modules=tuple(modules), parameters=method.rank * sides, total=model.num_parameters)
