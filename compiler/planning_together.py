"""The plans of several tasks, each as if it were alone -> one plan, in which they are trained together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from compiler.auto import Choice
from compiler.plan import (
    Evaluate,
    ExportModel,
    ExportTogether,
    Merge,
    Package,
    PackageTogether,
    Plan,
    Prepare,
    Quantize,
    Selection,
    Step,
    TaskTurns,
    Train,
    TrainTogether,
    VerifyExport,
)
from compiler.recipe import Loss, MeanSquaredError, Recipe
from compiler.tasks.multi_task import MultiRecipe, RoundRobin, Uncertainty
from compiler.together import SharedTraining

S = TypeVar("S", Prepare, Train, Evaluate, Merge, ExportModel, Quantize, VerifyExport, Package)
Alone = Mapping[str, tuple[Recipe, Plan]]
"""By task its recipe and its plan as if it were alone."""


def plan_together(whole: MultiRecipe, alone: Alone, shared: SharedTraining) -> Plan:
    """The plan of several tasks; equal recipes give equal plans."""
    first = next(iter(alone.values()))[1]
    choices = [choice for recipe, plan in alone.values() for choice in _choices(recipe, plan)]
    return replace(
        first,
        steps=tuple(_steps(whole, {name: plan for name, (_, plan) in alone.items()}, shared)),
        choices=tuple(dict.fromkeys([*shared.choices, *choices])),
    )


def _choices(recipe: Recipe, plan: Plan) -> Iterator[Choice]:
    """A task's choices, with pointers into the file. What is said of the model is said of the task's head."""
    for choice in plan.choices:
        pointer = recipe.within if choice.pointer == "/model" else recipe.pointer(choice.pointer)
        yield replace(choice, pointer=pointer)


def _steps(whole: MultiRecipe, plans: Mapping[str, Plan], shared: SharedTraining) -> Iterator[Step]:
    for name, plan in plans.items():
        yield from (_renamed(step, name) for step in _of(Prepare, plan))
    yield _train(whole, plans, shared)
    for name, plan in plans.items():
        yield from (replace(_renamed(step, name), part=name) for step in _of(Evaluate, plan))
    first = next(iter(plans.values()))
    yield from _of(Merge, first)
    for export in _of(ExportModel, first):
        suffix = export.id.removeprefix("export")
        yield ExportTogether(
            id=export.id,
            inputs=export.inputs,
            parts={name: _the(ExportModel, plan, export.id) for name, plan in plans.items()},
        )
        yield from _rounding(plans, suffix)
        for name, plan in plans.items():
            yield replace(_renamed(_the(VerifyExport, plan, f"verify{suffix}"), name), part=name)
        yield _package(plans, suffix)


def _rounding(plans: Mapping[str, Plan], suffix: str) -> Iterator[Step]:
    """What rounds a graph, with the rows of the first task where it needs some."""
    name, first = next(iter(plans.items()))
    for step in _of(Quantize, first):
        if step.id == f"quantize{suffix}":
            yield replace(step, inputs=_renamed(step, name).inputs)


def _of(kind: type[S], plan: Plan) -> Iterator[S]:
    return (step for step in plan.steps if isinstance(step, kind))


def _the(kind: type[S], plan: Plan, step_id: str) -> S:
    [found] = [step for step in _of(kind, plan) if step.id == step_id]
    return found


def _renamed(step: S, name: str) -> S:
    """A step of one task among those of others: of its inputs too, those that each task has for itself."""
    return replace(step, id=f"{step.id}-{name}", inputs=tuple(_input(word, name) for word in step.inputs))


def _input(word: str, name: str) -> str:
    own = word.startswith(("prepare", "evaluate", "verify"))
    return f"{word}-{name}" if own else word


def _train(whole: MultiRecipe, plans: Mapping[str, Plan], shared: SharedTraining) -> TrainTogether:
    alone = {name: _the(Train, plan, "train") for name, plan in plans.items()}
    parts = {
        name: _together(whole, replace(train, inputs=_renamed(train, name).inputs)) for name, train in alone.items()
    }
    weights = whole.task.loss_weights
    return TrainTogether(
        inputs=tuple(f"prepare-{name}" for name in plans),
        parts=parts,
        turns={
            name: TaskTurns(steps=shared.turns[name], weight=whole.task.tasks[name].weight, share=_share(part.loss))
            for name, part in parts.items()
        },
        rotates=isinstance(whole.task.sampling, RoundRobin),
        variance_rate=weights.learning_rate if isinstance(weights, Uncertainty) else 0.0,
    )


def _together(whole: MultiRecipe, train: Train) -> Train:
    """A part, whose checkpoints are chosen by the sum of the tasks' losses."""
    stopping = whole.training.early_stopping
    keeps = train.selection is not None and train.selection.keep_best
    if not keeps and stopping is None:
        return replace(train, selection=None)
    selection = Selection(
        metric="loss",
        greater_is_better=False,
        evaluate_every=train.evaluate_every,
        patience=stopping.patience if stopping else 0,
        min_delta=stopping.min_delta if stopping else 0.0,
        keep_best=keeps,
    )
    return replace(train, selection=selection)


def _share(loss: Loss) -> float:
    """What a loss is multiplied by beside half a log-variance, so that it is a likelihood's (Kendall et al. 2018)."""
    return 0.5 if isinstance(loss, MeanSquaredError) else 1.0


def _package(plans: Mapping[str, Plan], suffix: str) -> PackageTogether:
    alone = {name: _the(Package, plan, f"package{suffix}") for name, plan in plans.items()}
    parts = {name: replace(step, inputs=_renamed(step, name).inputs) for name, step in alone.items()}
    inputs = dict.fromkeys(word for step in parts.values() for word in step.inputs)
    return PackageTogether(id=f"package{suffix}", inputs=tuple(inputs), parts=parts)
