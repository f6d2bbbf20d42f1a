"""The models of a plan's steps: which training stands behind a step, what it began with, and what it left."""

from __future__ import annotations

from pathlib import Path

from compiler.hub import fetch_model
from compiler.plan import Merge, Plan, Train, TrainTogether
from runtimes.saved import SavedModel, trained_model
from runtimes.steps import Context


def train_of(plan: Plan, step_id: str, part: str = "") -> Train:
    """The train step that a step is, or that the first of its inputs to come from one goes back to.

    `part`: of several tasks that were trained together, which.
    """
    step = plan.step(step_id)
    if isinstance(step, Train):
        return step
    if isinstance(step, TrainTogether):
        return step.parts[part]
    kinds = (Train, TrainTogether, Merge)
    [train, *_] = [found for name in step.inputs if isinstance(found := plan.step(name), kinds)]
    return train_of(plan, train.id, part)


def base_of(train: Train, context: Context) -> Path:
    """The folder of the model that a train step begins with."""
    return fetch_model(train.model, context.root, context.sources)


def saved_by(step_id: str, context: Context, part: str = "") -> SavedModel:
    """The model that a train or merge step left, which is among the inputs of the context; of a part, that task's."""
    folder = context.inputs[step_id]
    if isinstance(context.plan.step(step_id), Merge):
        return SavedModel(folder / "model" / part)
    train = train_of(context.plan, step_id, part)
    return trained_model(train, folder, base_of(train, context), part)
