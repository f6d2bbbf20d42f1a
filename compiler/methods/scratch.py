"""Training from nothing: the model's architecture with weights that are drawn anew."""

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
class Scratch:
    """Every parameter is trained, from first values that the seed draws; config.json and tokenizer are the model's."""

    type: Annotated[Literal["scratch"], About("Draw every weight anew and train it; the tokenizer stays.")] = "scratch"


LEARNING_RATE = Auto(5e-4, "method scratch: weights without a past stand ten times the rate of full tuning")
MERGES = False  # whether what it trains is merged into its base before an export
SAVES: Literal["model", "adapter"] = "model"
RUNTIMES = EVERY_RUNTIME


def check(recipe: Recipe, method: Scratch, model: ModelFacts) -> Iterator[Diagnostic]:
    """No findings: every architecture can be drawn."""
    return iter(())


def resolve(method: Scratch, model: ModelFacts) -> tuple[Scratch, tuple[Choice, ...]]:
    """The method as it runs, and what was chosen for it."""
    return method, ()


def tuned(method: Scratch, model: ModelFacts) -> Tuned:
    """All of the model; how many parameters that are is known when it is built."""
    return Tuned(modules=(), parameters=None, total=None)
