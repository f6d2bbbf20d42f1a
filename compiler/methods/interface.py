"""What the module of a tuning method holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from compiler.auto import Auto, Choice
from compiler.diagnostics import Diagnostic
from compiler.placement import Runtime

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What a method trains of a model, its task head apart: modules by their names in the files; none for all."""

    modules: tuple[str, ...]
    parameters: int | None  # that are trained; None where the model's shapes are not known
    total: int | None  # parameters of the model as it is stored


class MethodModule(Protocol):
    """One module a method; its class of the language is beside these."""

    LEARNING_RATE: Auto[float]
    MERGES: bool
    """Whether what it trains is merged into its base before an export."""
    SAVES: Literal["model", "adapter"]
    """What training leaves: a whole model, or a PEFT adapter beside it."""
    RUNTIMES: tuple[Runtime, ...]

    def check(self, recipe: Recipe, method: Any, model: ModelFacts) -> Iterator[Diagnostic]:
        """What does not fit between the method and the model."""
        ...

    def resolve(self, method: Any, model: ModelFacts) -> tuple[Any, tuple[Choice, ...]]:
        """The method as it runs, and what was chosen for it."""
        ...

    def tuned(self, method: Any, model: ModelFacts) -> Tuned:
        """What a resolved method trains of the model."""
        ...


def unknown_shapes(recipe: Recipe, fitting: str = 'use the method "full", "freeze" or "head"') -> Diagnostic:
    """What is said of a method that is planned by the shapes of weights, after a stage that draws others.

    `fitting`: what to do where the weights have no files.
    """
    message = (
        f'the method "{recipe.method.type}" is planned by the shapes of weights: an earlier stage draws them anew, and '
        "beside its config.json are none that fit it"
    )
    hint = f"{fitting}, or begin with a folder that has weights of its configuration"
    return recipe.finding("R240", "/method", message, hint)


def num_parameters(shapes: Mapping[str, tuple[int, ...]], names: Iterable[str]) -> int:
    """The parameters of some weights."""
    return sum(math.prod(shapes[name]) for name in names)
