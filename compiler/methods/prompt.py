"""Prompt tuning: vectors before the tokens of each row (Lester et al. 2021, arXiv:2104.08691)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from compiler.auto import Auto, Choice
from compiler.diagnostics import Diagnostic
from compiler.methods import virtual
from compiler.methods.interface import Tuned
from compiler.methods.virtual import VirtualTokens, check_virtual, check_whole_texts, embedding_size
from compiler.placement import EVERY_RUNTIME
from compiler.typed import About

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt(VirtualTokens):
    """The vectors of virtual tokens before each row; the task head is trained in full."""

    type: Annotated[Literal["prompt"], About("Train the vectors of virtual tokens before each row.")] = "prompt"


LEARNING_RATE = Auto(1e-2, "method prompt: few numbers, far from the loss, stand rates far above those of full tuning")
MERGES = False  # it is exported with what it adds inside the graph, or before its cache
SAVES: Literal["model", "adapter"] = "adapter"
RUNTIMES = EVERY_RUNTIME


def check(recipe: Recipe, method: Prompt, model: ModelFacts) -> Iterator[Diagnostic]:
    """Virtual tokens stand before texts, and leave them room."""
    yield from check_virtual(recipe, method, model)
    yield from check_whole_texts(recipe, method, model)


def resolve(method: Prompt, model: ModelFacts) -> tuple[Prompt, tuple[Choice, ...]]:
    """The method as it runs, and what was chosen for it."""
    return method, ()


def tuned(method: Prompt, model: ModelFacts) -> Tuned:
    """A vector for each virtual token, beside the model."""
    count = method.num_virtual_tokens * embedding_size(model)
    return virtual.tuned(model, count)
