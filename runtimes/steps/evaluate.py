"""evaluate: the tuned model's metrics on the held-out rows, beside what needs no tuning."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from compiler import tasks as compiler_tasks
from compiler.files import write_json
from compiler.hub import fetch_model
from compiler.metrics import name_of
from compiler.plan import Evaluate, Train
from compiler.windows import Windowed
from runtimes import tasks, windows
from runtimes.answers import writing_of
from runtimes.backends import backend
from runtimes.batches import answered, collate, evaluation_batches, in_order
from runtimes.comparison import rows_at_once
from runtimes.decoding import Decoder
from runtimes.evaluation import mean_loss
from runtimes.events import Progress, Said
from runtimes.features import Features, Ragged
from runtimes.gate import ScoreFunction
from runtimes.golden import spread
from runtimes.learnt import learnt
from runtimes.metrics.texts import score_texts
from runtimes.steps import Context
from runtimes.steps.prepare import read_prepared
from runtimes.tokens import open_encoder

_BATCH_SIZE = 32
_SHOWN = 5  # texts in the report


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
    texts = _texts(step, context, train, partial(back.trained_decoder, train, context.inputs["train"], base, device))
    metrics |= _text_metrics(step, texts)
    unlearnt = _unlearnt(step, Features(context.inputs["prepare"] / "train").targets, features.targets)
    details = module.details(step.task, features.targets, outputs, next(iter(unlearnt.values()), None))
    baseline = {
        name: module.score(step.task, step.metrics, features.targets, found) for name, found in unlearnt.items()
    }
    if step.baseline_model is not None:
        before = yield from _outputs(back.model_scores(step.task, base, device), features, train, step.id)
        baseline["untuned"] = _metrics(step, train, features, before)
        untuned = _texts(step, context, train, partial(back.model_decoder, base, device))
        baseline["untuned"] |= _text_metrics(step, untuned)
        texts = [{**text, "untuned": other["answer"]} for text, other in zip(texts, untuned, strict=True)]
    windowed = isinstance(step.task, Windowed)
    num_rows = windows.num_rows(read_prepared(context.inputs["prepare"] / step.split)) if windowed else len(features)
    described = {"task": step.task.type, "split": step.split, "rows": num_rows}
    result = {**described, "metrics": _ordered(step, metrics), **details, "baseline": baseline}
    if texts:
        result["texts"] = texts[:_SHOWN]
    write_json(context.folder / "evaluation.json", result)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    yield Said(step=step.id, message=f"{num_rows:,} {step.split} rows: {shown}")


def _texts(step: Evaluate, context: Context, train: Train, opened: Callable[[], Decoder[Any]]) -> list[dict[str, str]]:
    """What a model writes for some held-out rows, and what it should; nothing where no metric asks for it."""
    if step.generation is None:
        return []
    prepared = context.inputs["prepare"] / step.split
    facts, rows = Features(prepared).facts, read_prepared(prepared)
    numbers = spread(len(rows), step.generation.rows).tolist()
    base = fetch_model(train.model, context.root, context.sources)
    encoder = open_encoder(base / "tokenizer.json", max_length=facts.max_length, pad_id=facts.pad_token_id)
    writing = writing_of(step.task, encoder, step.generation, base)
    chosen = [rows[number] for number in numbers]
    module = tasks.writing_module_of(step.task)
    return [
        {"reference": module.reference(step.task, row), "answer": text}
        for row, text in zip(chosen, writing.written(opened(), chosen, numbers), strict=True)
    ]


def _text_metrics(step: Evaluate, texts: Sequence[Mapping[str, str]]) -> dict[str, float]:
    if not texts:
        return {}
    written = compiler_tasks.module_of(step.task).WRITTEN
    metrics = [metric for metric in step.metrics if metric.type in written]
    return score_texts(metrics, [text["reference"] for text in texts], [text["answer"] for text in texts])


def _ordered(step: Evaluate, metrics: Mapping[str, float]) -> dict[str, float]:
    """As the recipe lists them, then the rest."""
    names = [name_of(metric) for metric in step.metrics if name_of(metric) in metrics]
    return {name: metrics[name] for name in dict.fromkeys([*names, *metrics])}


def _unlearnt(step: Evaluate, train: Ragged, targets: Ragged) -> dict[str, Ragged]:
    """What can be answered without looking at a row, by its name; nothing where nothing can."""
    found = tasks.module_of(step.task).baseline(step.task, train.values, len(targets.values))
    if found is None:
        return {}
    name, outputs = found
    return {name: Ragged(outputs, targets.offsets)}


def _outputs(
    function: ScoreFunction, features: Features, train: Train, step_id: str
) -> Generator[Progress, None, Ragged]:
    """Yields progress; returns the outputs [P, C] of every row, in the split's order."""
    head = tasks.module_of(train.task).head(train.task)
    batches = evaluation_batches(features.lengths, rows_at_once(head, _BATCH_SIZE))
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
