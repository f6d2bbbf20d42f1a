"""Head tuning: only the task head is trained, the encoder stays as it is."""

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
class Head:
    """Only the task head is trained."""

    type: Annotated[Literal["head"], About("Train only the task head; the encoder is frozen.")] = "head"


LEARNING_RATE = Auto(1e-3, "method head: a fresh linear head stands higher rates than an encoder")
MERGES = False  # whether what it trains is merged into its base before an export
SAVES: Literal["model", "adapter"] = "model"
RUNTIMES = EVERY_RUNTIME


def check(recipe: Recipe, method: Head, model: ModelFacts) -> Iterator[Diagnostic]:
    """No findings: a head fits every model."""
    return iter(())


def resolve(method: Head, model: ModelFacts) -> tuple[Head, tuple[Choice, ...]]:
    """The method as it runs, and what was chosen for it."""
    return method, ()


def tuned(method: Head, model: ModelFacts) -> Tuned:
    """Nothing below the head."""
    return Tuned(modules=(), parameters=0, total=model.num_parameters)
