"""Norm tuning: the scales and biases of norms are trained, all else stays (Zhao et al. 2023, arXiv:2312.11420)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

from compiler.auto import Auto, Choice
from compiler.diagnostics import Diagnostic
from compiler.methods import targets
from compiler.methods.beginning import BEGUN, FROM, check_beginning
from compiler.methods.interface import Tuned, num_parameters, unknown_shapes
from compiler.methods.targets import PATTERNS, SavedModules, check_patterns, check_saved, every, meant
from compiler.placement import EVERY_RUNTIME
from compiler.typed import About

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNorm:
    """The norms of the model are trained, also those without a bias; the task head is trained in full."""

    type: Annotated[Literal["layer-norm"], About("Train the norms of the model.")] = "layer-norm"
    target_modules: Annotated[
        tuple[str, ...] | Literal["auto"],
        About(f"Norms to train, {PATTERNS}. auto: all outside of heads.", nonempty=True),
    ] = "auto"
    modules_to_save: SavedModules = ()
    from_: Annotated[str | None, About(FROM)] = field(default=None, metadata=BEGUN)


LEARNING_RATE = Auto(1e-3, "method layer-norm: few numbers stand higher rates than whole layers")
MERGES = True  # whether what it trains is merged into its base before an export
SAVES: Literal["model", "adapter"] = "adapter"
RUNTIMES = EVERY_RUNTIME


def check(recipe: Recipe, method: LayerNorm, model: ModelFacts) -> Iterator[Diagnostic]:
    """Every pattern must name a norm of the model."""
    if not model.has_shapes:
        yield unknown_shapes(recipe)
        return
    norms = model.norm_modules
    known = norms
    if method.target_modules != "auto":
        known = meant(method.target_modules, norms)
        yield from check_patterns(recipe, "/method/target_modules", method.target_modules, norms, "norm")
    elif not norms:
        message = f"the model has no norms of single rows ({model.model_type}); those over batches are not tuned so"
        yield recipe.finding("R205", "/method", message, 'use the method "full", "freeze" or "head"')
    yield from check_saved(recipe, method.modules_to_save, known, model.shapes)
    parts = {name: _copy(model, name) for name in known}
    yield from check_beginning(recipe, model, {"peft_type": "LN_TUNING"}, parts)


def _copy(model: ModelFacts, name: str) -> dict[str, tuple[int, ...]]:
    """The trained copy of a norm, as PEFT saves it; old files call scales gamma and biases beta."""
    stored = {"weight": ("weight", "gamma"), "bias": ("bias", "beta")}
    shapes = {
        own: next((model.shapes[f"{name}.{old}"] for old in names if f"{name}.{old}" in model.shapes), None)
        for own, names in stored.items()
    }
    return {f"ln_tuning_layers.{own}": shape for own, shape in shapes.items() if shape is not None}


def resolve(method: LayerNorm, model: ModelFacts) -> tuple[LayerNorm, tuple[Choice, ...]]:
    """The method as it runs, and what was chosen for it."""
    if method.target_modules != "auto":
        return method, ()
    patterns = every(model.norm_modules)
    choice = Choice(pointer="/method/target_modules", value=patterns, reason="every norm outside of heads")
    return replace(method, target_modules=patterns), (choice,)


def tuned(method: LayerNorm, model: ModelFacts) -> Tuned:
    """The norms, with their biases where they have some."""
    modules = meant(method.target_modules, model.norm_modules)
    own = set(modules)
    count = num_parameters(model.shapes, (name for name in model.shapes if name.rpartition(".")[0] in own))
    return targets.tuned(model, modules, count, method.modules_to_save)
