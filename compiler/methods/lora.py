"""LoRA: low-rank updates beside frozen weights (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from compiler.auto import Auto, Choice
from compiler.diagnostics import Diagnostic
from compiler.methods import targets
from compiler.methods.beginning import BEGUN, FROM, check_beginning
from compiler.methods.interface import Tuned, unknown_shapes
from compiler.methods.targets import PATTERNS, SavedModules, check_patterns, check_saved, inside_layers, meant
from compiler.placement import EVERY_RUNTIME
from compiler.typed import About

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.methods.adalora import AdaLoRA
    from compiler.recipe import Recipe

UpdateDropout = Annotated[float, About("Dropout before each update.", minimum=0, below=1)]
LinearTargets = Annotated[
    tuple[str, ...] | Literal["auto", "all-linear"],
    About(
        f"Linear layers to update, {PATTERNS}. auto: all inside the layers; all-linear: those outside as well.",
        nonempty=True,
    ),
]
LATER: dict[str, Any] = {"later": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """What the methods have in common whose low-rank updates keep their rank."""

    type: str
    rank: Annotated[int, About("Rank of each update.", minimum=1)] = 8
    alpha: Annotated[
        float | Literal["auto"], About("Scale: an update counts alpha / rank. auto: an update counts twice.", above=0)
    ] = "auto"
    rank_stabilized: Annotated[
        bool, About("An update counts alpha / sqrt(rank), so that high ranks learn as fast as low ones.")
    ] = field(default=False, metadata=LATER)
    initialization: Annotated[
        Literal["kaiming", "gaussian", "orthogonal"],
        About(
            "First values of an update B A. kaiming: A uniform, B zero. gaussian: A normal, B zero. orthogonal: slices "
            "of an orthonormal matrix, whose product is zero; an even rank."
        ),
    ] = field(default="kaiming", metadata=LATER)
    dropout: UpdateDropout = 0.0
    target_modules: LinearTargets = "auto"
    modules_to_save: SavedModules = field(default=(), metadata=LATER)
    from_: Annotated[str | None, About(FROM)] = field(default=None, metadata=BEGUN)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRA(LowRank):
    """Low-rank updates beside frozen weights; the task head is trained in full."""

    type: Annotated[Literal["lora"], About("Train low-rank updates beside frozen weights.")] = "lora"


M = TypeVar("M", bound=LowRank)
LEARNING_RATE = Auto(5e-4, "method lora: adapters stand about ten times the rate of full tuning")
MERGES = True  # whether what it trains is merged into its base before an export
SAVES: Literal["model", "adapter"] = "adapter"
RUNTIMES = EVERY_RUNTIME


def check(recipe: Recipe, method: LowRank, model: ModelFacts) -> Iterator[Diagnostic]:
    """Every target must name a linear module of the model; what is beside must fit."""
    if not model.has_shapes:
        yield unknown_shapes(recipe)
        return
    yield from check_targets(recipe, method, model)
    if method.initialization == "orthogonal" and method.rank % 2:
        message = f"orthogonal first values need an even rank, this is {method.rank}"
        yield recipe.finding("R230", "/method/initialization", message, f'write "rank": {method.rank + 1}')
    said = {"peft_type": "LORA", "use_dora": method.type == "dora", "r": method.rank, "lora_alpha": scale(method)}
    said["use_rslora"] = method.rank_stabilized
    yield from check_beginning(recipe, model, said, _parts(method, model))
    if method.from_ is not None and recipe.wrote("/method/initialization") is not None:
        message = 'nothing reads "initialization" beside "from", whose weights are the first values'
        yield recipe.finding("R202", "/method/initialization", message, "remove one of them", key=True)


def _parts(method: LowRank, model: ModelFacts) -> dict[str, dict[str, tuple[int, ...]]]:
    """What is added to each target module, as PEFT saves it."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for name in updated(method, model):
        outputs, inputs = model.sides(name)
        found[name] = {"lora_A.weight": (method.rank, inputs), "lora_B.weight": (outputs, method.rank)}
        if method.type == "dora":
            found[name]["lora_magnitude_vector"] = (outputs,)
    return found


def scale(method: LowRank) -> float:
    """The alpha of a method, also where the recipe leaves it open."""
    auto = 2.0 * (math.sqrt(method.rank) if method.rank_stabilized else method.rank)
    return auto if method.alpha == "auto" else method.alpha


def check_targets(recipe: Recipe, method: LowRank | AdaLoRA, model: ModelFacts) -> Iterator[Diagnostic]:
    """Every pattern names a linear module; there are some where the recipe leaves it open; none is saved besides."""
    patterns = method.target_modules
    if not isinstance(patterns, str):
        linear = model.linear_modules
        yield from check_patterns(recipe, "/method/target_modules", patterns, linear, "linear module")
    elif not model.linear_modules:
        message = f"the model has no linear modules ({model.model_type}), beside which updates stand"
        yield recipe.finding("R205", "/method", message, 'use the method "full", "freeze" or "head"')
    elif patterns == "auto" and not inside_layers(model.linear_modules):
        message = "no linear module was found inside numbered layers of the model"
        yield recipe.finding("R205", "/method/target_modules", message, 'name target_modules, or write "all-linear"')
    yield from check_saved(recipe, method.modules_to_save, updated(method, model), model.shapes)


def _chosen(method: LowRank | AdaLoRA, modules: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """The patterns of target modules among all linear ones, and why; no reason where the recipe names them."""
    inside = inside_layers(modules)
    if not isinstance(method.target_modules, str):
        return method.target_modules, ""
    if method.target_modules == "auto":
        return inside, "every linear module inside the layers"
    reached = set(meant(inside, modules))
    return (*inside, *(name for name in modules if name not in reached)), "every linear module outside of heads"


def updated(method: LowRank | AdaLoRA, model: ModelFacts) -> tuple[str, ...]:
    """The linear modules beside which there are updates."""
    return meant(_chosen(method, model.linear_modules)[0], model.linear_modules)


U = TypeVar("U", bound="LowRank | AdaLoRA")


def with_targets(method: U, model: ModelFacts) -> tuple[U, tuple[Choice, ...]]:
    """The method with its target modules named, and why these."""
    patterns, reason = _chosen(method, model.linear_modules)
    if not reason:
        return method, ()
    choice = Choice(pointer="/method/target_modules", value=patterns, reason=reason)
    return replace(method, target_modules=patterns), (choice,)


def resolve(method: M, model: ModelFacts) -> tuple[M, tuple[Choice, ...]]:
    """The method as it runs, and what was chosen for it."""
    choices: list[Choice] = []
    if method.alpha == "auto":
        reason = "twice the root of the rank" if method.rank_stabilized else "twice the rank"
        choices.append(Choice(pointer="/method/alpha", value=scale(method), reason=reason))
        method = replace(method, alpha=scale(method))
    method, targeted = with_targets(method, model)
    return method, (*choices, *targeted)


def tuned(method: LowRank, model: ModelFacts) -> Tuned:
    """The linear modules with an update: `rank` times their inputs and outputs each; and the modules to save."""
    modules = updated(method, model)
    sides = sum(sum(model.sides(name)) for name in modules)
    return targets.tuned(model, modules, method.rank * sides, method.modules_to_save)
