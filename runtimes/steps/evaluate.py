"""evaluate: the tuned model's metrics on the held-out rows, beside what needs no tuning."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.files import write_json
from compiler.hub import fetch_model
from compiler.plan import Evaluate, Train
from runtimes import tasks
from runtimes.backends import backend
from runtimes.batches import collate, evaluation_batches
from runtimes.events import Progress, Said
from runtimes.features import Features
from runtimes.gate import ScoreFunction, Scores
from runtimes.steps import Context

_BATCH_SIZE = 32


def execute(step: Evaluate, context: Context) -> Iterator[Any]:
    """Scores the tuned model, what needs no model, and the model before tuning where its own head answers the task."""
    train = context.plan.step("train")
    assert isinstance(train, Train)
    module, features = tasks.module_of(step.task), Features(context.inputs["prepare"] / step.split)
    base = fetch_model(train.model, context.root, context.sources)
    back, device = backend(context.placement.engine), context.placement.device
    tuned = back.trained_scores(train, context.inputs["train"], base, device)
    outputs = yield from _outputs(tuned, features, train, step.id)
    metrics = _metrics(step, train, features, outputs)
    details = module.details(step.task, features.targets, outputs)
    train_targets = Features(context.inputs["prepare"] / "train").targets
    name, unseen = module.baseline(step.task, train_targets, len(features))
    baseline = {name: module.score(step.task, step.metrics, features.targets, unseen)}
    if step.baseline_model is not None:
        before = yield from _outputs(back.model_scores(step.task, base, device), features, train, step.id)
        baseline["untuned"] = _metrics(step, train, features, before)
    described = {"task": step.task.type, "split": step.split, "rows": len(features)}
    result = {**described, "metrics": metrics, **details, "baseline": baseline}
    write_json(context.folder / "evaluation.json", result)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    yield Said(step=step.id, message=f"{len(features):,} {step.split} rows: {shown}")


def _outputs(
    function: ScoreFunction, features: Features, train: Train, step_id: str
) -> Generator[Progress, None, npt.NDArray[np.float32]]:
    """Yields progress; returns the outputs [N, C] of every row, in the split's order."""
    batches = evaluation_batches(features.lengths, _BATCH_SIZE)
    found: list[Scores] = []
    for rows in batches:
        found.append(function(collate(features, rows, grid=train.lengths)))
        yield Progress(step=step_id, done=len(found), total=len(batches), unit="batches")
    return np.concatenate(found)[np.argsort(np.concatenate(batches))].astype(np.float32)


def _metrics(step: Evaluate, train: Train, features: Features, outputs: Scores) -> dict[str, float]:
    module, targets = tasks.module_of(step.task), features.targets
    loss = float(module.losses(train.loss, step.task, targets, outputs).mean())
    return {**module.score(step.task, step.metrics, targets, outputs), "loss": loss}
