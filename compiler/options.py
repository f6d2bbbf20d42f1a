"""Options of training that change how parameters are updated: which of them nothing would read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from compiler import methods, tasks
from compiler.diagnostics import Diagnostic
from compiler.recipe import AdamW

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe
    from compiler.tasks import Task


def check_options(recipe: Recipe) -> Iterator[Diagnostic]:
    """Every finding about the options that needs no model."""
    yield from check_decay(recipe)
    yield from check_rates(recipe)
    yield from check_head(recipe)
    yield from check_noise(recipe)


def _unread(recipe: Recipe, key: str, reason: str, hint: str) -> Diagnostic:
    name = key.rpartition("/")[2]
    return recipe.finding("R202", f"/training/{key}", f'nothing reads "{name}" {reason}', hint, key=True)


def check_decay(recipe: Recipe) -> Iterator[Diagnostic]:
    """What does not decay is told apart where something decays; vectors have the biases and norms among them."""
    training = recipe.training
    if recipe.wrote("/training/decay_excludes") is None:
        return
    decay = training.weight_decay
    if decay == 0 or (decay == "auto" and not isinstance(training.optimizer, AdamW)):
        yield _unread(recipe, "decay_excludes", "without weight_decay", "add a weight_decay, or remove it")
    for index, kind in enumerate(training.decay_excludes):
        pointer = f"/training/decay_excludes/{index}"
        if kind in training.decay_excludes[:index]:
            yield recipe.finding("R203", pointer, f'"{kind}" is listed twice', "remove one")
        elif kind in ("biases", "norms") and "vectors" in training.decay_excludes:
            message = f'nothing reads "{kind}" beside "vectors", which has them among it'
            yield recipe.finding("R202", pointer, message, "remove one of them")


def check_rates(recipe: Recipe) -> Iterator[Diagnostic]:
    """Layers have rates of their own, and come one after another, where the method trains layers."""
    if trains_layers(recipe):
        return
    for key in ("layer_decay", "head_lr_multiplier", "unfreeze_every"):
        if recipe.wrote(f"/training/{key}") is not None and getattr(recipe.training, key) is not None:
            reason = f'with the method "{recipe.method.type}"'
            yield _unread(recipe, key, reason, "remove it: learning_rate is of all that is trained")


def check_head(recipe: Recipe) -> Iterator[Diagnostic]:
    """A head of its own is what a task puts on a model; language models answer by an output layer that they have."""
    if has_new_head(recipe.task) or not trains_layers(recipe):
        return
    for key in ("head_lr_multiplier", "unfreeze_every"):
        if recipe.wrote(f"/training/{key}") is not None and getattr(recipe.training, key) is not None:
            reason = f'with the task "{recipe.task.type}"'
            yield _unread(recipe, key, reason, "remove it: the model's own output layer is no head of the task")


def check_noise(recipe: Recipe) -> Iterator[Diagnostic]:
    """Noise is put on the embeddings of tokens."""
    if recipe.training.neftune_alpha is not None and tasks.reads(recipe.task) == "image":
        reason = f'with the task "{recipe.task.type}"'
        yield _unread(recipe, "neftune_alpha", reason, "remove it: its noise is for embeddings of tokens")


def check_layers(recipe: Recipe, model: ModelFacts) -> Iterator[Diagnostic]:
    """A decay over layers, and unfreezing, need layers."""
    if model.num_layers or not trains_layers(recipe):
        return
    for key in ("layer_decay", "unfreeze_every"):
        if recipe.wrote(f"/training/{key}") is not None and getattr(recipe.training, key) is not None:
            yield _unread(recipe, key, "with a model without numbered layers", "remove it")


def check_unfreezing(recipe: Recipe, per_epoch: int, num_steps: int) -> Iterator[Diagnostic]:
    """The first layer below the head is trained before the training ends."""
    every = recipe.training.unfreeze_every
    if every is None:
        return
    steps = per_epoch if every == "epoch" else every
    if steps >= num_steps:
        message = f"the first layer would be trained after step {steps}, and the training has {num_steps}"
        hint = f'at most {num_steps - 1}, or use the method "head"' if num_steps > 1 else "train for longer"
        yield recipe.finding("R221", "/training/unfreeze_every", message, hint)


def trains_layers(recipe: Recipe) -> bool:
    """Whether the method of a recipe trains anything inside the layers of its model."""
    return bool(getattr(methods.module_of(recipe.method), "IN_LAYERS", True))


def has_new_head(task: Task) -> bool:
    """Whether a task puts a head on the model: language tasks take the model's own output layer."""
    module = tasks.module_of(task)
    return not module.WRITES and module.PACKING == "none"
