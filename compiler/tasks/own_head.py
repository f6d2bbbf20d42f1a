"""The task that a model answers as it is: by its own head, as its config.json describes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from compiler import tasks
from compiler.diagnostics import did_you_mean
from compiler.facts import ModelFacts
from compiler.hub import SourceError
from compiler.json_text import object_in
from compiler.lengths import LONGEST, NO_TOKENS
from compiler.metrics import Metric
from compiler.tasks import (
    TASKS,
    ImageClassification,
    QuestionAnswering,
    SequenceToSequence,
    Task,
    TextClassification,
    TextRegression,
    TokenClassification,
    labels,
    masking,
)
from compiler.typed import ShapeError, read

# Task -> how the architectures end whose head answers it; the first task of a head is the usual one.
_HEADS: Mapping[str, tuple[str, ...]] = {
    "text-classification": ("ForSequenceClassification",),
    "text-regression": ("ForSequenceClassification",),
    "token-classification": ("ForTokenClassification",),
    "question-answering": ("ForQuestionAnswering", "ForQuestionAnsweringSimple"),
    "image-classification": ("ForImageClassification", "ForImageClassificationWithTeacher"),
    "text-generation": ("ForCausalLM", "LMHeadModel"),
    "text-to-text": ("ForConditionalGeneration", "EncoderDecoderModel", "MTModel"),
    "translation": ("ForConditionalGeneration", "EncoderDecoderModel", "MTModel"),
    "summarization": ("ForConditionalGeneration", "EncoderDecoderModel", "MTModel"),
    "continued-pretraining": ("ForCausalLM", "LMHeadModel", masking.HEAD),
}
_REGRESSION, _SETS = "regression", "multi_label_classification"
_TUNE = "tune it first (`recipe init rows.jsonl` writes a recipe), or name a model that has one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a model answers as it is, with nothing left open."""

    task: Task
    metrics: tuple[Metric, ...]  # that rows with answers are measured by
    max_length: int  # tokens of a row that are read


def written_task(text: str) -> Task:
    """The task that a command line names: its word, or an object as a recipe has it. Raises ValueError."""
    if not text.lstrip().startswith("{"):
        if text not in TASKS:
            raise ValueError(f'no task "{text}": {did_you_mean(text, TASKS, noun="tasks")}')
        return TASKS[text]
    try:
        return read(Task, json.loads(text))  # type: ignore[arg-type]  # a union is no class to mypy
    except ShapeError as error:
        raise ValueError(f"the task{error.pointer and ' at '}{error.pointer} {error.wrong}") from None
    except ValueError as error:
        raise ValueError(f"the task is not JSON: {error}") from None


def answered_by(model: ModelFacts, config: Mapping[str, Any], asked: Task | None, most: int | None = None) -> Answered:
    """What a model answers by its own head. `asked`: the task, where it is named; `most`: the tokens of a row.

    Raises SourceError R252 where the head is another, R253 where nothing says which task it is.
    """
    task = asked or TASKS[_usual(model, config)]
    _check_head(model, task)
    _check_kind(model, task, config)
    module = tasks.module_of(task)
    if model.architecture not in module.ARCHITECTURES:
        takes = " or ".join(module.ARCHITECTURES)
        message = f'{model.id} is of the kind "{model.architecture}" ({model.model_type})'
        raise SourceError("R252", f'{message}, and the task "{task.type}" takes {takes}', "name another model")
    task = _resolved(_bound(task, model), model, config)
    names = tasks.head_names(task)
    metrics = tuple(labels.with_positive(metric, names) if names else metric for metric in module.DEFAULT_METRICS)
    metrics = tuple(metric for metric in metrics if metric.type not in module.WRITTEN)
    return Answered(task=task, metrics=metrics, max_length=_length(model, task, most))


def answerable(model: ModelFacts) -> tuple[str, ...]:
    """The tasks that the head of a model answers, the usual one first; none where it has no head that is known."""
    found = [name for name, ends in _HEADS.items() if any(each.endswith(ends) for each in model.architectures)]
    if not found and masking.has_head(model):
        found = ["continued-pretraining"]
    return tuple(name for name in found if model.architecture in tasks.module_of(TASKS[name]).ARCHITECTURES)


def _usual(model: ModelFacts, config: Mapping[str, Any]) -> str:
    """The task that a model's configuration speaks of. Raises SourceError."""
    if not model.architectures:
        message = f"config.json of {model.id} names no architecture, so nothing says what its head answers"
        raise SourceError("R253", message, f"name the task: --task {', '.join(TASKS)}")
    found = answerable(model)
    if not found:
        raise _no_head(model, "head that answers a task")
    measures = config.get("problem_type") == _REGRESSION or (model.labels is not None and len(model.labels) == 1)
    return "text-regression" if measures and "text-regression" in found else found[0]


def _check_head(model: ModelFacts, task: Task) -> None:
    """Raises SourceError R252 where the architectures of a model have another head than the task needs."""
    found = answerable(model)
    if not model.architectures or task.type in found:
        return
    if not found:
        raise _no_head(model, f'head for the task "{task.type}"')
    message = f'{model.id} has no head for the task "{task.type}": its architecture is {", ".join(model.architectures)}'
    raise SourceError("R252", message, f"its head answers {' or '.join(found)}: --task {found[0]}")


def _check_kind(model: ModelFacts, task: Task, config: Mapping[str, Any]) -> None:
    """Raises SourceError R252 where a head says that it tells labels, and numbers are asked for, or the other way."""
    kind = config.get("problem_type")
    if isinstance(task, TextRegression) and kind in ("single_label_classification", _SETS):
        message = f'the head of {model.id} tells labels ("problem_type": "{kind}")'
        raise SourceError("R252", message, "its task is text-classification")
    if isinstance(task, TextClassification) and kind == _REGRESSION:
        message = f'the head of {model.id} tells numbers ("problem_type": "{kind}")'
        raise SourceError("R252", message, "its task is text-regression")


def _no_head(model: ModelFacts, what: str) -> SourceError:
    return SourceError("R252", f"{model.id} has no {what}: its architecture is {', '.join(model.architectures)}", _TUNE)


def _bound(task: Task, model: ModelFacts) -> Task:
    """The task with what it takes from the model's files. Raises SourceError R407 or R411."""
    reads = tasks.reads(task)
    file = model.processor_file if reads == "image" else model.tokenizer_file
    if file is None:
        name = "preprocessor_config.json" if reads == "image" else "tokenizer.json"
        hint = "save it beside the model, with save_pretrained of the image processor or the fast tokenizer"
        raise SourceError("R407", f"{model.id} has no {name}, which rows are read with", hint)
    if model.architecture == "decoder" and isinstance(task, (TextClassification, TextRegression)):
        _check_padding(model)
    try:
        return tasks.bind(task, file)
    except ValueError as error:
        raise SourceError("R411", str(error), "name another model, or say it in --task, as a recipe does") from None


def _check_padding(model: ModelFacts) -> None:
    if model.padding is None:
        message = f"{model.id} is a decoder ({model.model_type}) without a pad_token_id, by which it finds a row's end"
        raise SourceError("R410", message, "name its padding token in config.json")


def _resolved(task: Task, model: ModelFacts, config: Mapping[str, Any]) -> Task:
    """The task with the labels and numbers of the model's head."""
    match task:
        case TextClassification():
            sets = task.multi_label or config.get("problem_type") == _SETS
            threshold = 0.5 if task.threshold == "auto" else task.threshold
            names = _named(task.labels, model.labels, model)
            return replace(task, labels=names, multi_label=sets, threshold=threshold)
        case ImageClassification():
            return replace(task, labels=_named(task.labels, model.labels, model))
        case TokenClassification():
            return replace(task, labels=_named(task.labels, model.token_labels, model))
        case TextRegression():
            return _measured(task, _named(task.targets or "auto", model.labels, model))
        case QuestionAnswering():
            return replace(task, no_answer=False if task.no_answer == "auto" else task.no_answer)
        case SequenceToSequence():
            most = min(LONGEST, model.max_target_positions or LONGEST)
            return replace(task, max_target_length=most) if task.max_target_length == "auto" else task
        case _:
            return task


def _measured(task: TextRegression, names: tuple[str, ...]) -> TextRegression:
    """Outputs are in the rows' units already: what a tuning put on them is in the weights."""
    several = names if task.targets or len(names) > 1 else ()
    mean = 0.0 if task.mean == "auto" else task.mean
    return replace(task, targets=several, mean=mean, deviation=1.0 if task.deviation == "auto" else task.deviation)


def _named(said: labels.Labels, own: tuple[str, ...] | None, model: ModelFacts) -> tuple[str, ...]:
    """The names of a head's outputs in order: those that --task says, or the model's own. Raises SourceError."""
    if own is None:
        message = f"the weights of {model.id} have no head whose outputs could be counted"
        raise SourceError("R252", message, _TUNE)
    if said == "auto":
        return own
    if len(said) != len(own):
        message = f"--task names {len(said)} outputs, and the head of {model.id} has {len(own)}: {', '.join(own[:8])}"
        raise SourceError("R252", message, "name each of them, in order")
    return said


def _length(model: ModelFacts, task: Task, most: int | None) -> int:
    """Tokens of a row that are read: `most`, or what the tokenizer cuts at, within what the model takes."""
    if tasks.reads(task) == "image":
        return NO_TOKENS
    limit = min(model.max_positions or LONGEST, _cut(model) or LONGEST, LONGEST)
    if most is None:
        return limit
    if model.max_positions and most > model.max_positions:
        message = f"{model.id} takes at most {model.max_positions} tokens, --max-length is {most}"
        raise SourceError("R408", message, f"at most {model.max_positions}")
    return most


def _cut(model: ModelFacts) -> int | None:
    """The length at which a tokenizer_config.json says that texts are cut, where it says one."""
    file = model.tokenizer_file and model.tokenizer_file.with_name("tokenizer_config.json")
    if file is None:
        return None
    try:
        length = object_in(file).get("model_max_length")
    except ValueError as error:
        hint = "save the model again with save_pretrained"
        raise SourceError("R406", f"of the model {model.id}: {error}", hint) from None
    return length if isinstance(length, int) and not isinstance(length, bool) and 1 < length < 1_000_000 else None
