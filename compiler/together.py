"""Several tasks on one model: each as a recipe of its own, and what they must agree on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import TypeVar

from compiler.auto import Choice
from compiler.checks import check_recipe
from compiler.diagnostics import Diagnostic, RecipeError, counted, in_order
from compiler.document import Document, Node, escape
from compiler.facts import Facts, FactSource
from compiler.leaks import check_leaks
from compiler.lengths import auto_length
from compiler.moments import wanted
from compiler.recipe import NAME, AdamW, Recipe, Training
from compiler.resolve import DEFAULT_EPOCHS
from compiler.stages import ONE_FOLDER
from compiler.tasks.multi_task import METHODS, MultiRecipe, Proportional, RoundRobin, Sampling, Temperature
from compiler.typed import read_record

TASKS = "/task/tasks"
# Keys of training that nothing reads with several tasks, each with what to do.
_UNREAD = {
    "loss": f'write it in a task: {TASKS}/NAME has a "loss"',
    "label_smoothing": "remove it: not every task has labels",
    "balance": 'let the loss of a task have "class_weights": "balanced"',
    "packing": "remove it: each of its rows is a sequence of its own",
    "unfreeze_every": "remove it: all is trained from the start",
    "neftune_alpha": "remove it",
    "ema_decay": "remove it: the weights themselves are the model",
}
_OF_ONE = (*_UNREAD, "early_stopping")
_TAKEN = ("input_ids", "attention_mask", "token_type_ids", "loss")
T = TypeVar("T")


# --- several tasks -> several recipes


def projected(whole: MultiRecipe) -> dict[str, Recipe]:
    """The recipe of each task, in the order of their names, as a plan's file has them."""
    return {name: _recipe_of(whole, name) for name in sorted(whole.task.tasks)}


def _recipe_of(whole: MultiRecipe, name: str) -> Recipe:
    within = f"{TASKS}/{escape(name)}"
    own = whole.document.find(within)
    assert own is not None, "the names are those of the document"
    root = _projected(whole.document.root, own)
    plain = root.plain()
    assert isinstance(plain, dict), "an object"
    return read_record(Recipe, plain, document=Document(root, whole.document.file), within=within)


def _projected(root: Node, own: Node) -> Node:
    """The root of a recipe of one task: what the tasks share, and its own, each where it was written."""
    shared, of_task = root.without("$schema", "task", "training").members, own.without("loss", "weight").members
    training = root.get("training") or Node({}, own.at, own.folder)
    settings, keys = dict(training.without(*_OF_ONE).members), dict(training.keys)
    if (loss := own.get("loss")) is not None:
        settings["loss"], keys["loss"] = loss, own.keys.get("loss", loss.at)
    own_training = Node(settings, training.at, training.folder, keys)
    return Node({**shared, **of_task, "training": own_training}, root.at, root.folder, {**root.keys, **own.keys})


# --- findings about the recipe alone


def check_several(whole: MultiRecipe) -> Iterator[Diagnostic]:
    """Every finding about a recipe of several tasks alone: about what they share, then about each."""
    own = tuple(check_names(whole))
    yield from own
    yield from check_method(whole)
    yield from check_unread(whole)
    yield from check_validation(whole)
    yield from check_formats(whole)
    if not own:
        yield from dict.fromkeys(found for recipe in projected(whole).values() for found in check_recipe(recipe))


def _finding(
    whole: MultiRecipe, code: str, pointer: str, message: str, hint: str = "", *, key: bool = False
) -> Diagnostic:
    at = whole.document.key_at(pointer) if key else whole.document.at(pointer)
    return Diagnostic(code=code, at=at, pointer=pointer, message=message, hint=hint)


def check_names(whole: MultiRecipe) -> Iterator[Diagnostic]:
    """There are two tasks or more, each under a name that a folder and an output of a graph can have."""
    names = tuple(whole.task.tasks)
    if len(names) < 2:
        message = f"several tasks are at least two, found {len(names)}"
        yield _finding(whole, "R260", TASKS, message, "add a task, or write the one as /task itself")
    seen: dict[str, str] = {}
    for name in names:
        pointer = f"{TASKS}/{escape(name)}"
        if (first := seen.setdefault(name.casefold(), name)) != name:
            message = f'the tasks "{first}" and "{name}" differ only in case: {ONE_FOLDER}'
            yield _finding(whole, "R203", pointer, message, "give it another name", key=True)
        if not re.fullmatch(NAME, name):
            message = "a task's name has other characters than letters, digits, dot, dash, underscore"
            yield _finding(whole, "R260", pointer, message, "rename it: its folder is called so", key=True)
        elif name in _TAKEN:
            message = f'"{name}" is what the model calls an input, or the loss, so no task can have this name'
            yield _finding(whole, "R260", pointer, message, "rename the task", key=True)


def check_formats(whole: MultiRecipe) -> Iterator[Diagnostic]:
    """The format has a place for several heads."""
    for index, export in enumerate(whole.export):
        if export.format != "onnx":
            message = f"the format {export.format} holds one task, not several"
            yield _finding(
                whole,
                "R218" if export.format == "mlx" else "R243",
                f"/export/{index}",
                message,
                'write {"format": "onnx"}',
            )


def check_method(whole: MultiRecipe) -> Iterator[Diagnostic]:
    """What the method trains is in the model, which the tasks share, or in their heads."""
    if getattr(whole.method, "from_", None) is not None:
        message = "several tasks start from the model alone, not from an adapter"
        yield _finding(whole, "R260", "/method/from", message, "remove it", key=True)
    if whole.method.type not in METHODS:
        message = f'several tasks are not trained with the method "{whole.method.type}"'
        yield _finding(whole, "R260", "/method", message, f"choose from: {', '.join(METHODS)}")


def check_unread(whole: MultiRecipe) -> Iterator[Diagnostic]:
    """What is a task's own stands in the task."""
    for key, hint in _UNREAD.items():
        pointer = f"/training/{key}"
        if whole.document.find(pointer) is not None:
            yield _finding(whole, "R202", pointer, f'nothing reads "{key}" with several tasks', hint, key=True)
    optimizer = whole.training.optimizer
    for key in ("state", "paged") if isinstance(optimizer, AdamW) and wanted(optimizer) else ():
        pointer = f"/training/optimizer/{key}"
        if whole.document.find(pointer) is not None:
            yield _finding(whole, "R202", pointer, f'nothing reads "{key}" with several tasks', "remove it", key=True)
    stopping, pointer = whole.training.early_stopping, "/training/early_stopping/metric"
    if stopping is not None and stopping.metric not in ("auto", "loss"):
        message = f'"{stopping.metric}" is not measured of several tasks as one'
        yield _finding(whole, "R201", pointer, message, 'write "loss": the sum of their validation losses')


def check_validation(whole: MultiRecipe) -> Iterator[Diagnostic]:
    """Either all tasks have validation rows or none: what chooses between checkpoints is a sum over them."""
    lacking = [name for name, one in whole.task.tasks.items() if one.dataset.validation is None]
    if lacking and len(lacking) < len(whole.task.tasks):
        message = f"checkpoints are chosen by the validation rows of all tasks, and {lacking[0]} has none"
        pointer = f"{TASKS}/{escape(lacking[0])}/dataset/validation"
        yield _finding(whole, "R260", pointer, message, "add some, or let no task have any: null")
    elif lacking and whole.training.early_stopping is not None:
        message = 'nothing reads "early_stopping" without validation rows'
        yield _finding(whole, "R202", "/training/early_stopping", message, "add /dataset/validation", key=True)


# --- with facts


def gathered(recipes: Mapping[str, Recipe], facts: FactSource) -> dict[str, Facts]:
    """The facts of each task. Raises RecipeError with the findings about all of them."""

    def gathers(recipe: Recipe) -> Callable[[], Facts]:
        return lambda: facts.gather(recipe)

    return collected({name: gathers(recipe) for name, recipe in recipes.items()})


def collected(passes: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """What a pass makes of each task. Raises RecipeError with the findings about all of them."""
    found: dict[str, T] = {}
    failed: list[Diagnostic] = []
    for name, run in passes.items():
        try:
            found[name] = run()
        except RecipeError as error:
            failed += error.diagnostics
    if failed:
        raise RecipeError(in_order(failed))
    return found


def check_models(whole: MultiRecipe, found: Mapping[str, Facts]) -> Iterator[Diagnostic]:
    """The model is an encoder."""
    model = next(iter(found.values())).model
    if model.architecture != "encoder":
        message = f"the model is a {model.architecture} ({model.model_type}), and several tasks share an encoder"
        yield _finding(whole, "R410", "/model/id", message, "choose an encoder: bert, roberta, distilbert, ...")


def check_leaks_between(recipes: Mapping[str, Recipe], found: Mapping[str, Facts]) -> Iterator[Diagnostic]:
    """The held-out rows of a task are not among those that another one is trained on."""
    for name, recipe in recipes.items():
        others = {other: facts.data for other, facts in found.items() if other != name}
        yield from check_leaks(recipe, found[name].data, name, others)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTraining:
    """What follows from the rows of all tasks: how often each has its turn, how long they train, what they read."""

    turns: Mapping[str, int]  # steps of an epoch by task
    num_steps: int
    max_length: int
    choices: tuple[Choice, ...]

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return sum(self.turns.values())

    def of(self, training: Training) -> Training:
        """A training with this in it."""
        evaluate, save = training.evaluate_every, training.checkpoint_every
        return replace(
            training,
            epochs=None,
            max_steps=self.num_steps,
            max_length=self.max_length,
            evaluate_every=self.per_epoch if evaluate == "epoch" else evaluate,
            checkpoint_every=self.per_epoch if save == "epoch" else save,
        )


def shared_training(whole: MultiRecipe, found: Mapping[str, Facts]) -> SharedTraining:
    """What the tasks have in common, from the facts of each."""
    training = whole.training
    filled = {name: ceil(facts.data.num_rows("train") / training.batch_size) for name, facts in found.items()}
    turns = turns_of(whole.task.sampling, filled)
    longest = max(auto_length(facts.model, facts.data).value for facts in found.values())
    reason = "what the longest row of all tasks asks for, within what the model takes"
    length = Choice(pointer="/training/max_length", value=longest, reason=reason)
    written = training.max_length
    shares = ", ".join(f"{name} {counted(steps, 'step')}" for name, steps in turns.items())
    said = Choice(pointer="/task/sampling", value=whole.task.sampling.type, reason=f"an epoch has of {shares}")
    return SharedTraining(
        turns=turns,
        num_steps=training.max_steps or (training.epochs or DEFAULT_EPOCHS) * sum(turns.values()),
        max_length=longest if written == "auto" else written,
        choices=(said, *([length] if written == "auto" else [])),
    )


def turns_of(sampling: Sampling, filled: Mapping[str, int]) -> dict[str, int]:
    """The steps of an epoch by task. `filled`: how many batches its rows fill."""
    match sampling:
        case Proportional():
            return dict(filled)
        case RoundRobin():
            return dict.fromkeys(filled, ceil(sum(filled.values()) / len(filled)))
        case Temperature(temperature=temperature):
            return apportioned(
                sum(filled.values()), {name: count ** (1 / temperature) for name, count in filled.items()}
            )


def apportioned(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """A total in whole numbers, at least one each, by largest remainders; of equal ones the first."""
    whole = sum(weights.values())
    exact = {name: max(1.0, total * weight / whole) for name, weight in weights.items()}
    found = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: found[name] - exact[name])
    for name in by_remainder[: max(0, total - sum(found.values()))]:
        found[name] += 1
    return found
