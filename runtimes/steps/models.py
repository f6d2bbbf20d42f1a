"""The models of a plan's steps: which training stands behind a step, what it began with, and what it left."""

from __future__ import annotations

from pathlib import Path

from compiler.hub import fetch_model
from compiler.plan import Evaluate, Merge, Package, Plan, Prepare, Train, TrainTogether, VerifyExport
from runtimes.saved import SavedModel, trained_model
from runtimes.steps import Context


def prepared_for(step: Train | Evaluate | VerifyExport | Package, context: Context) -> Path:
    """The folder with the arrays of a step's rows."""
    [found] = [name for name in step.inputs if isinstance(context.plan.step(name), Prepare)]
    return context.inputs[found]


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
    """The folder of the model that a train step begins with: a pretrained one, or what the stage before it left."""
    before = [name for name in train.inputs if isinstance(context.plan.step(name), (Train, Merge))]
    if not before:
        return fetch_model(train.model, context.root, context.sources)
    [left] = before
    return context.inputs[left] / "model"


def saved_by(step_id: str, context: Context, part: str = "") -> SavedModel:
    """The model that a train or merge step left, which the context's own comes after; of a part, that task's."""
    folder, step = context.inputs[step_id], context.plan.step(step_id)
    if isinstance(step, Merge):
        [train_id] = step.inputs
        return SavedModel(folder / "model" / part, before=saved_by(train_id, context, part))
    train = train_of(context.plan, step_id, part)
    return trained_model(train, folder, base_of(train, context), part)
