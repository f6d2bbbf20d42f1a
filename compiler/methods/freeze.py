"""Partial tuning: the first layers stay as they are, the rest and the head are trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from compiler.auto import Auto, Choice
from compiler.diagnostics import Diagnostic
from compiler.groups import LAYER
from compiler.methods.interface import Tuned, num_parameters
from compiler.placement import EVERY_RUNTIME
from compiler.typed import About
from compiler.weights import is_embedding, is_in_head

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """The embeddings and the first `layers` layers are frozen."""

    type: Annotated[Literal["freeze"], About("Freeze the first layers, train the rest.")] = "freeze"
    layers: Annotated[int, About("How many layers to freeze, counted from the input.", minimum=0)]
    embeddings: Annotated[bool, About("Freeze the embeddings as well.")] = True


LEARNING_RATE = Auto(5e-5, "method freeze: as for full tuning, the trained layers are the same")
MERGES = False  # whether what it trains is merged into its base before an export
SAVES: Literal["model", "adapter"] = "model"
RUNTIMES = EVERY_RUNTIME


def check(recipe: Recipe, method: Freeze, model: ModelFacts) -> Iterator[Diagnostic]:
    """Freezing must leave a layer to tune."""
    if method.layers >= model.num_layers:
        message = f"freezes {method.layers} of {model.num_layers} layers, none is left to tune"
        hint = f'at most {model.num_layers - 1}, or use the method "head"'
        yield recipe.finding("R204", "/method/layers", message, hint)


def resolve(method: Freeze, model: ModelFacts) -> tuple[Freeze, tuple[Choice, ...]]:
    """The method as it runs, and what was chosen for it."""
    return method, ()


def tuned(method: Freeze, model: ModelFacts) -> Tuned:
    """The layers from `layers` on, and what stands beside the layers."""
    names = [name for name in model.shapes if not is_in_head(name) and _is_trained(name, method)]
    modules = dict.fromkeys(name.rpartition(".")[0] for name in names)
    count = num_parameters(model.shapes, names)
    return Tuned(modules=tuple(modules), parameters=count, total=model.num_parameters)


def _is_trained(name: str, method: Freeze) -> bool:
    found = LAYER.search(name)
    if found is None:
        return not (method.embeddings and is_embedding(name))
    return int(found[0].strip(".")) >= method.layers
