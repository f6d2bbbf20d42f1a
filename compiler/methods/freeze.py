"""Partial tuning: the first layers stay as they are, the rest and the head are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from compiler.auto import Auto, Choice
from compiler.diagnostics import Diagnostic
from compiler.layers import layers_of
from compiler.methods.interface import Tuned, num_parameters
from compiler.placement import EVERY_RUNTIME
from compiler.typed import About
from compiler.weights import is_above_layers, is_embedding, is_in_head

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """The embeddings and the first layers are frozen: `layers` of them, or all but the `last`."""

    type: Annotated[Literal["freeze"], About("Freeze the first layers, train the rest.")] = "freeze"
    layers: Annotated[
        int | None,
        About("How many layers to freeze, from the input; an encoder's come before its decoder's.", minimum=0),
    ] = None
    last: Annotated[int | None, About("How many layers to train, from the output; in place of layers.", minimum=1)] = (
        None
    )
    embeddings: Annotated[bool, About("Freeze the embeddings as well.")] = True


LEARNING_RATE = Auto(5e-5, "method freeze: as for full tuning, the trained layers are the same")
MERGES = False  # whether what it trains is merged into its base before an export
SAVES: Literal["model", "adapter"] = "model"
RUNTIMES = EVERY_RUNTIME


def check(recipe: Recipe, method: Freeze, model: ModelFacts) -> Iterator[Diagnostic]:
    """One of layers and last is said; the model has so many layers, and one is left to tune."""
    total = model.num_layers
    if method.layers is None and method.last is None:
        message = "it is not said how many layers are frozen"
        yield recipe.finding("R105", "/method", message, 'add "layers", or "last" for how many are trained')
    elif method.layers is not None and method.last is not None:
        message = 'nothing reads "last" with layers'
        yield recipe.finding("R202", "/method/last", message, "keep one of layers and last", key=True)
    elif method.layers is not None and method.layers >= total:
        message = f"freezes {method.layers} of {total} layers, none is left to tune"
        yield recipe.finding("R204", "/method/layers", message, f'at most {total - 1}, or use the method "head"')
    elif method.last is not None and method.last > total:
        message = f"trains the last {method.last} of {total} layers"
        yield recipe.finding("R204", "/method/last", message, f"at most {total}")


def resolve(method: Freeze, model: ModelFacts) -> tuple[Freeze, tuple[Choice, ...]]:
    """The method as it runs, and what was chosen for it."""
    if method.last is None:
        return method, ()
    layers = model.num_layers - method.last
    choice = Choice(
        pointer="/method/layers", value=layers, reason=f"all but the last {method.last} of {model.num_layers}"
    )
    return replace(method, layers=layers, last=None), (choice,)


def tuned(method: Freeze, model: ModelFacts) -> Tuned:
    """The layers from `layers` on, and what stands beside the layers."""
    if not model.has_shapes:
        return Tuned(modules=(), parameters=None, total=None)
    numbers = layers_of(model.shapes)
    left_out = {name for name, number in numbers.items() if number >= model.num_layers}  # layers that nothing loads
    unread = frozen(method, model.shapes) | left_out
    names = [name for name in model.shapes if not is_above_layers(name) and name not in unread]
    modules = dict.fromkeys(name.rpartition(".")[0] for name in names)
    count = num_parameters(model.shapes, names)
    return Tuned(modules=tuple(modules), parameters=count, total=model.num_parameters)


def frozen(method: Freeze, shapes: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """The parameters of a model that a resolved method freezes, by their names in it or in its files."""
    assert method.layers is not None, "resolved"
    numbers = layers_of(shapes)
    below = {name for name, number in numbers.items() if number < method.layers}
    beside = {name for name in shapes if name not in numbers and is_embedding(name) and not is_in_head(name)}
    return frozenset(below | beside if method.embeddings else below)
