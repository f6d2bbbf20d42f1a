"""Options of training that change how parameters are updated: which of them nothing would read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from compiler import methods, tasks
from compiler.diagnostics import Diagnostic
from compiler.groups import is_in_layer
from compiler.recipe import AdamW

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe
    from compiler.tasks import Task


def check_options(recipe: Recipe) -> Iterator[Diagnostic]:
    """Every finding about the options that needs no model."""
    yield from check_decay(recipe)
    yield from check_head(recipe)
    yield from check_noise(recipe)


def _written(recipe: Recipe, *keys: str) -> Iterator[str]:
    """Those of some options that a recipe asks for."""
    for key in keys:
        if recipe.wrote(f"/training/{key}") is not None and getattr(recipe.training, key) is not None:
            yield key


def check_decay(recipe: Recipe) -> Iterator[Diagnostic]:
    """What does not decay is told apart where something decays; vectors have the biases and norms among them."""
    training = recipe.training
    if recipe.wrote("/training/decay_excludes") is None:
        return
    decay = training.weight_decay
    if decay == 0 or (decay == "auto" and not isinstance(training.optimizer, AdamW)):
        yield recipe.unread("/training/decay_excludes", "without weight_decay", "add a weight_decay, or remove it")
    for index, kind in enumerate(training.decay_excludes):
        pointer = f"/training/decay_excludes/{index}"
        if kind in training.decay_excludes[:index]:
            yield recipe.finding("R203", pointer, f'"{kind}" is listed twice', "remove one")
        elif kind in ("biases", "norms") and "vectors" in training.decay_excludes:
            message = f'nothing reads "{kind}" beside "vectors", which has them among it'
            yield recipe.finding("R202", pointer, message, "remove one of them")


def check_head(recipe: Recipe) -> Iterator[Diagnostic]:
    """A head of its own is what a task puts on a model; language models answer by an output layer that they have."""
    if has_new_head(recipe.task):
        return
    for key in _written(recipe, "head_lr_multiplier", "unfreeze_every"):
        reason = f'with the task "{recipe.task.type}"'
        yield recipe.unread(
            f"/training/{key}", reason, "remove it: the model's own output layer is no head of the task"
        )


def check_noise(recipe: Recipe) -> Iterator[Diagnostic]:
    """Noise is put on the embeddings of tokens."""
    if recipe.training.neftune_alpha is not None and tasks.reads(recipe.task) == "image":
        reason = f'with the task "{recipe.task.type}"'
        yield recipe.unread("/training/neftune_alpha", reason, "remove it: its noise is for embeddings of tokens")


def check_rates(recipe: Recipe, model: ModelFacts) -> Iterator[Diagnostic]:
    """Layers have rates of their own, and come one after another, where the method trains some of them."""
    module = methods.module_of(recipe.method)
    if any(module.check(recipe, recipe.method, model)):
        return  # it can't be said what it trains
    method, _ = module.resolve(recipe.method, model)
    tuned = module.tuned(method, model)
    no_layers = model.has_shapes and not model.num_layers
    if tuned.parameters == 0:
        for key in _written(recipe, "layer_decay", "unfreeze_every", "head_lr_multiplier"):
            reason = f'with the method "{recipe.method.type}"'
            yield recipe.unread(f"/training/{key}", reason, "remove it: the head alone is trained, at learning_rate")
    elif no_layers or (tuned.modules and not any(is_in_layer(f"{name}.") for name in tuned.modules)):
        for key in _written(recipe, "layer_decay", "unfreeze_every"):
            yield recipe.unread(f"/training/{key}", "where no numbered layer is trained", "remove it")


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


def has_new_head(task: Task) -> bool:
    """Whether a task puts a head on the model: language tasks take the model's own output layer."""
    module = tasks.module_of(task)
    return not module.WRITES and module.PACKING == "none"
