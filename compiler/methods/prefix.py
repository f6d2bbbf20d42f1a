"""Prefix tuning: keys and values before those of each row, in every layer (Li and Liang 2021, arXiv:2101.00190)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from compiler import tasks
from compiler.auto import Auto, Choice
from compiler.diagnostics import Diagnostic
from compiler.methods import virtual
from compiler.methods.interface import Tuned, unknown_shapes
from compiler.methods.virtual import VirtualTokens, check_virtual
from compiler.placement import EVERY_RUNTIME
from compiler.typed import About
from compiler.windows import Windowed

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe

_ENCODERS = frozenset(
    ["bert", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "roberta", "xlm-roberta"]
)
"""Encoders that take keys and values from outside. XLM-RoBERTa is RoBERTa's code; tests run the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix(VirtualTokens):
    """Keys and values of virtual tokens in every layer; the task head is trained in full."""

    type: Annotated[Literal["prefix"], About("Train keys and values of virtual tokens in every layer.")] = "prefix"
    projection: Annotated[bool, About("Make them by a network of two layers, which is not saved.")] = False
    hidden_size: Annotated[
        int | Literal["auto"], About("Width of the network. auto: the size of a layer's keys.", minimum=1)
    ] = "auto"


LEARNING_RATE = Auto(1e-2, "method prefix: few numbers, each layer's own, stand rates far above those of full tuning")
MERGES = False  # it is exported with what it adds inside the graph, or before its cache
SAVES: Literal["model", "adapter"] = "adapter"
RUNTIMES = EVERY_RUNTIME


def check(recipe: Recipe, method: Prefix, model: ModelFacts) -> Iterator[Diagnostic]:
    """Virtual tokens stand before texts and leave them room; the model takes keys and values."""
    yield from check_virtual(recipe, method, model, vectors=False)
    if model.architecture == "encoder":
        yield from _check_encoder(recipe, model)
    if recipe.training.gradient_checkpointing:
        message = "a layer that is computed again is given no cache, and would not see the prefix"
        yield recipe.finding("R250", "/training/gradient_checkpointing", message, "leave it out")
    if method.projection and method.hidden_size == "auto" and not model.has_shapes:
        yield unknown_shapes(recipe, "say hidden_size")
    if not method.projection and recipe.wrote("/method/hidden_size") is not None:
        message = 'nothing reads "hidden_size" without projection'
        yield recipe.finding("R202", "/method/hidden_size", message, 'add "projection": true, or remove it', key=True)


def _check_encoder(recipe: Recipe, model: ModelFacts) -> Iterator[Diagnostic]:
    hint = 'use the method "prompt" or "p-tuning"'
    if model.model_type not in _ENCODERS:
        message = f"the encoder {model.model_type} takes no keys and values from outside"
        yield recipe.finding("R250", "/method", message, f"{hint}, or one of {', '.join(sorted(_ENCODERS))}")
    elif isinstance(recipe.task, Windowed) or tasks.module_of(recipe.task).PACKING != "none":
        message = "PEFT gives a prefix to encoders that answer for a text or for each token with a classifier"
        yield recipe.finding("R250", "/method", f"{message}, not to those of this task", hint)


def resolve(method: Prefix, model: ModelFacts) -> tuple[Prefix, tuple[Choice, ...]]:
    """The method as it runs, and what was chosen for it."""
    if method.hidden_size != "auto" or not method.projection:
        return method, ()
    size = keys_size(model)
    choice = Choice(pointer="/method/hidden_size", value=size, reason="the size of a layer's keys")
    return replace(method, hidden_size=size), (choice,)


def tuned(method: Prefix, model: ModelFacts) -> Tuned:
    """Keys and values of each layer for each virtual token; or what they are made of, and the network."""
    size = keys_size(model)
    made = model.num_layers * 2 * size
    count = method.num_virtual_tokens * made
    if method.projection:
        assert method.hidden_size != "auto", "resolved"
        network = size * method.hidden_size + method.hidden_size + method.hidden_size * made + made
        count = method.num_virtual_tokens * size + network
    return virtual.tuned(model, count)


def keys_size(model: ModelFacts) -> int:
    """The size of a layer's keys of a token: of fewer heads than there are queries, where heads are grouped."""
    ends = ("k_proj.weight", "self.key.weight")
    return next((shape[0] for name, shape in model.shapes.items() if name.endswith(ends)), model.hidden_size)
