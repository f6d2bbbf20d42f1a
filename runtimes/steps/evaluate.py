"""evaluate: the tuned model's metrics on the held-out rows, beside what needs no tuning."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from compiler import tasks as compiler_tasks
from compiler.files import write_json
from compiler.metrics import name_of
from compiler.model_facts import keeps_rows_apart
from compiler.plan import Evaluate, Train
from compiler.windows import Windowed
from runtimes import tasks
from runtimes.backends import backend
from runtimes.bundles.golden import spread
from runtimes.errors import unreadable
from runtimes.evaluation import mean_loss
from runtimes.events import Progress, Said
from runtimes.generation.answers import cut_prompts, writing_of
from runtimes.generation.few_shot import written_after_examples
from runtimes.learnt import learnt
from runtimes.metrics.texts import score_texts
from runtimes.rows import windows
from runtimes.rows.batches import answered, collate, evaluation_batches, in_order
from runtimes.rows.features import Features, Ragged
from runtimes.rows.tokens import open_encoder
from runtimes.saved import SavedModel
from runtimes.steps import Context
from runtimes.steps.models import base_of, prepared_for, saved_by, train_of
from runtimes.steps.prepare import ROWS, read_prepared
from runtimes.together import part_folder
from runtimes.verification.comparison import rows_at_once
from runtimes.verification.gate import ScoreFunction

_BATCH_SIZE = 32
_SHOWN = 5  # texts in the report


def execute(step: Evaluate, context: Context) -> Iterator[Any]:
    """Scores the tuned model, what needs no model, and the model before tuning where its own head answers the task."""
    _, train_id = step.inputs
    train, prepared = train_of(context.plan, train_id, step.part), prepared_for(step, context)
    step = replace(step, task=learnt(step.task, part_folder(context.inputs[train_id], step.part)))
    saved = saved_by(train_id, context, step.part)
    module, features = tasks.module_of(step.task), Features(prepared / step.split)
    base = base_of(train, context)
    back, device = backend(context.placement.engine), context.placement.device
    tuned = back.scores(step.task, saved, device)
    outputs = yield from _outputs(tuned, features, train, step.id)
    metrics = _metrics(step, train, features, outputs)
    written = _written(step, context, saved, base)
    metrics |= _text_metrics(step, written, "answer")
    unlearnt = _unlearnt(step, Features(prepared / "train").targets, features.targets)
    details = module.details(step.task, features.targets, outputs, next(iter(unlearnt.values()), None))
    baseline = {
        name: module.score(step.task, step.metrics, features.targets, found) for name, found in unlearnt.items()
    }
    if step.baseline_model is not None:
        before = yield from _outputs(back.scores(step.task, SavedModel(base), device), features, train, step.id)
        baseline["untuned"] = _metrics(step, train, features, before) | _text_metrics(step, written, "untuned")
    if "few_shot" in written.texts:
        baseline["few_shot"] = _text_metrics(step, written, "few_shot")
    windowed = isinstance(step.task, Windowed)
    num_rows = windows.num_rows(read_prepared(prepared / step.split)) if windowed else len(features)
    described = {"task": step.task.type, "split": step.split, "rows": num_rows}
    result = {**described, "metrics": _ordered(step, metrics), **details, "baseline": baseline, **written.details}
    if written.texts:
        result["texts"] = written.rows()[:_SHOWN]
    write_json(context.folder / "evaluation.json", result)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    yield Said(step=step.id, message=f"{num_rows:,} {step.split} rows: {shown}")


@dataclass(frozen=True, slots=True)
class _Written:
    """What was written for some held-out rows, by who wrote it, the rows' own references first; and what of it is told.

    Nothing where no metric asks for texts.
    """

    texts: Mapping[str, Sequence[str]]
    details: Mapping[str, Any]
    told: Sequence[Mapping[str, str]] = ()  # of each row what a reader of the tuned model's text has to know besides

    def rows(self) -> list[dict[str, str]]:
        """The texts of each row, by who wrote them, and what has to be known."""
        each = zip(*self.texts.values(), strict=True)
        return [{**dict(zip(self.texts, row, strict=True)), **told} for row, told in zip(each, self.told, strict=True)]


def _written(step: Evaluate, context: Context, saved: SavedModel, base: Path) -> _Written:
    """What the tuned model writes for some held-out rows, and the untuned one: alone, and after solved train rows."""
    if step.generation is None:
        return _Written({}, {})
    back, device = backend(context.placement.engine), context.placement.device
    prepared = prepared_for(step, context)
    facts, rows = Features(prepared / step.split).facts, read_prepared(prepared / step.split)
    numbers = spread(len(rows), step.generation.rows).tolist()
    chosen = [rows[number] for number in numbers]
    encoder = open_encoder(base / "tokenizer.json", max_length=facts.max_length, pad_id=facts.pad_token_id)
    try:
        writing = writing_of(step.task, encoder, step.generation, base)
    except ValueError as error:
        raise unreadable(base, error) from error
    module = tasks.writing_module_of(step.task)
    tuned = writing.written(back.decoder(step.task, saved, device), chosen, numbers)
    texts: dict[str, Sequence[str]] = {
        "reference": [module.reference(step.task, row) for row in chosen],
        "answer": [text.text for text in tuned],
    }
    told = [text.told for text in tuned]
    details: dict[str, Any] = {"prompts_cut": cut_prompts(told)}
    if step.baseline_model is None:
        return _Written(texts, details, told)
    untuned = back.decoder(step.task, SavedModel(base), device)
    texts["untuned"] = [text.text for text in writing.written(untuned, chosen, numbers)]
    if not step.generation.few_shot:
        return _Written(texts, details, told)
    train_rows = prepared / "train" / ROWS
    shared = keeps_rows_apart(json.loads((base / "config.json").read_text(encoding="utf-8")))
    shown = written_after_examples(writing, untuned, chosen, numbers, train_rows, shared=shared)
    if shown.texts:
        texts["few_shot"] = shown.texts
    return _Written(texts, {**details, "few_shot": shown.as_json(writing.generation)}, told)


def _text_metrics(step: Evaluate, written: _Written, name: str) -> dict[str, float]:
    """The metrics of the texts that one of them wrote."""
    if not written.texts:
        return {}
    known = compiler_tasks.module_of(step.task).WRITTEN
    metrics = [metric for metric in step.metrics if metric.type in known]
    said = partial(tasks.writing_module_of(step.task).said, step.task)
    return score_texts(metrics, [*map(said, written.texts["reference"])], [*map(said, written.texts[name])])


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
