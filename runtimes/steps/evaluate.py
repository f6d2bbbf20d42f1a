"""evaluate: the tuned model's metrics on the held-out rows, beside what needs no tuning."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

from compiler.files import write_json
from compiler.hub import fetch_model
from compiler.plan import Evaluate, Train
from runtimes import tasks
from runtimes.backends import backend
from runtimes.batches import answered, collate, evaluation_batches, in_order
from runtimes.evaluation import mean_loss
from runtimes.events import Progress, Said
from runtimes.features import Features, Ragged
from runtimes.gate import ScoreFunction
from runtimes.learnt import learnt
from runtimes.steps import Context

_BATCH_SIZE = 32


def execute(step: Evaluate, context: Context) -> Iterator[Any]:
    """Scores the tuned model, what needs no model, and the model before tuning where its own head answers the task."""
    step = replace(step, task=learnt(step.task, context.inputs["train"]))
    train = context.plan.step("train")
    assert isinstance(train, Train)
    module, features = tasks.module_of(step.task), Features(context.inputs["prepare"] / step.split)
    base = fetch_model(train.model, context.root, context.sources)
    back, device = backend(context.placement.engine), context.placement.device
    tuned = back.trained_scores(train, context.inputs["train"], base, device)
    outputs = yield from _outputs(tuned, features, train, step.id)
    metrics = _metrics(step, train, features, outputs)
    details = module.details(step.task, features.targets, outputs)
    baseline = _unlearnt(step, Features(context.inputs["prepare"] / "train").targets, features.targets)
    if step.baseline_model is not None:
        before = yield from _outputs(back.model_scores(step.task, base, device), features, train, step.id)
        baseline["untuned"] = _metrics(step, train, features, before)
    described = {"task": step.task.type, "split": step.split, "rows": len(features)}
    result = {**described, "metrics": metrics, **details, "baseline": baseline}
    write_json(context.folder / "evaluation.json", result)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    yield Said(step=step.id, message=f"{len(features):,} {step.split} rows: {shown}")


def _unlearnt(step: Evaluate, train: Ragged, targets: Ragged) -> dict[str, dict[str, float]]:
    """The metrics of what can be answered without looking at a row, by its name; none where nothing can."""
    module = tasks.module_of(step.task)
    found = module.baseline(step.task, train.values, len(targets.values))
    if found is None:
        return {}
    name, outputs = found
    return {name: module.score(step.task, step.metrics, targets, Ragged(outputs, targets.offsets))}


def _outputs(
    function: ScoreFunction, features: Features, train: Train, step_id: str
) -> Generator[Progress, None, Ragged]:
    """Yields progress; returns the outputs [P, C] of every row, in the split's order."""
    batches = evaluation_batches(features.lengths, _BATCH_SIZE)
    found: list[Ragged] = []
    for rows in batches:
        batch = collate(features, rows, grid=train.lengths)
        found.append(answered(batch, function(batch)))
        yield Progress(step=step_id, done=len(found), total=len(batches), unit="batches")
    return in_order(batches, found)


def _metrics(step: Evaluate, train: Train, features: Features, outputs: Ragged) -> dict[str, float]:
    module, targets = tasks.module_of(step.task), features.targets
    losses = Ragged(module.losses(train.loss, step.task, targets.values, outputs.values), targets.offsets)
    return {**module.score(step.task, step.metrics, targets, outputs), "loss": mean_loss(losses, targets)}
