"""P-tuning: a small network makes the vectors before each row (Liu et al. 2021, arXiv:2103.10385)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from compiler.auto import Auto, Choice
from compiler.diagnostics import Diagnostic
from compiler.methods import virtual
from compiler.methods.interface import Tuned, unknown_shapes
from compiler.methods.virtual import VirtualTokens, check_virtual, check_whole_texts, embedding_size
from compiler.placement import EVERY_RUNTIME
from compiler.typed import About

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class PTuning(VirtualTokens):
    """As prompt, the vectors made of others by an MLP while it trains; what it makes is saved, and the MLP is not."""

    type: Annotated[Literal["p-tuning"], About("As prompt, the vectors made by a small network.")] = "p-tuning"
    hidden_size: Annotated[
        int | Literal["auto"], About("Width of the network. auto: the size of a token's vector.", minimum=1)
    ] = "auto"


LEARNING_RATE = Auto(3e-3, "method p-tuning: a small network from scratch, far from the loss, stands high rates")
MERGES = False  # it is exported with what it adds inside the graph, or before its cache
SAVES: Literal["model", "adapter"] = "adapter"
RUNTIMES = EVERY_RUNTIME


def check(recipe: Recipe, method: PTuning, model: ModelFacts) -> Iterator[Diagnostic]:
    """Virtual tokens stand before texts, and leave them room."""
    yield from check_virtual(recipe, method, model)
    yield from check_whole_texts(recipe, method, model)
    if method.hidden_size == "auto" and not model.has_shapes:
        yield unknown_shapes(recipe, "say hidden_size")


def resolve(method: PTuning, model: ModelFacts) -> tuple[PTuning, tuple[Choice, ...]]:
    """The method as it runs, and what was chosen for it."""
    if method.hidden_size != "auto":
        return method, ()
    size = embedding_size(model)
    choice = Choice(pointer="/method/hidden_size", value=size, reason="the size of a token's vector")
    return replace(method, hidden_size=size), (choice,)


def tuned(method: PTuning, model: ModelFacts) -> Tuned:
    """A vector for each virtual token, and an MLP of three layers."""
    assert method.hidden_size != "auto", "resolved"
    size, hidden = embedding_size(model), method.hidden_size
    network = size * hidden + hidden + hidden * hidden + hidden + hidden * size + size
    count = method.num_virtual_tokens * size + network
    return virtual.tuned(model, count)
