"""Full tuning: every parameter of the model is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from compiler.auto import Auto, Choice
from compiler.diagnostics import Diagnostic
from compiler.methods.interface import Tuned
from compiler.placement import EVERY_RUNTIME
from compiler.typed import About

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Full:
    """Every parameter is trained."""

    type: Annotated[Literal["full"], About("Train every parameter.")] = "full"


LEARNING_RATE = Auto(5e-5, "method full: usual for tuning every weight of an encoder")
MERGES = False  # whether what it trains is merged into its base before an export
SAVES: Literal["model", "adapter"] = "model"
RUNTIMES = EVERY_RUNTIME


def check(recipe: Recipe, method: Full, model: ModelFacts) -> Iterator[Diagnostic]:
    """No findings: full tuning fits every model."""
    return iter(())


def resolve(method: Full, model: ModelFacts) -> tuple[Full, tuple[Choice, ...]]:
    """The method as it runs, and what was chosen for it."""
    return method, ()


def tuned(method: Full, model: ModelFacts) -> Tuned:
    """All of the model."""
    return Tuned(modules=(), parameters=model.num_parameters, total=model.num_parameters)
