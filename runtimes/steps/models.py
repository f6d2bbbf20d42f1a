"""The models of a plan's steps: which training stands behind a step, what it began with, and what it left."""

from __future__ import annotations

from pathlib import Path

from compiler.hub import fetch_model
from compiler.plan import Evaluate, Merge, Package, Plan, Prepare, Train, VerifyExport
from runtimes.saved import SavedModel, trained_model
from runtimes.steps import Context


def prepared_for(step: Train | Evaluate | VerifyExport | Package, context: Context) -> Path:
    """The folder with the arrays of a step's rows."""
    [found] = [name for name in step.inputs if isinstance(context.plan.step(name), Prepare)]
    return context.inputs[found]


def train_of(plan: Plan, step_id: str) -> Train:
    """The train step that a step is, or that the first of its inputs to come from one goes back to."""
    step = plan.step(step_id)
    if isinstance(step, Train):
        return step
    [train, *_] = [found for name in step.inputs if isinstance(found := plan.step(name), (Train, Merge))]
    return train_of(plan, train.id)


def base_of(train: Train, context: Context) -> Path:
    """The folder of the model that a train step begins with: a pretrained one, or what the stage before it left."""
    before = [name for name in train.inputs if isinstance(context.plan.step(name), (Train, Merge))]
    if not before:
        return fetch_model(train.model, context.root, context.sources)
    [left] = before
    return context.inputs[left] / "model"


def saved_by(step_id: str, context: Context) -> SavedModel:
    """The model that a train or merge step left, which is among the inputs of the context."""
    folder, step = context.inputs[step_id], context.plan.step(step_id)
    if isinstance(step, Train):
        return trained_model(step, folder, base_of(step, context))
    [train_id] = step.inputs
    known = train_id in context.inputs
    return SavedModel(folder / "model", before=saved_by(train_id, context) if known else None)
