"""Tasks: one module each, with its part of the language, its columns, its metrics and its checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast, get_args

from compiler.tasks import (
    continued_pretraining,
    image_classification,
    masking,
    question_answering,
    sequence_to_sequence,
    summarization,
    text_classification,
    text_generation,
    text_regression,
    text_to_text,
    token_classification,
    translation,
)
from compiler.tasks.continued_pretraining import ContinuedPretraining
from compiler.tasks.image_classification import ImageClassification
from compiler.tasks.interface import Architecture, Example, Kind, Reads, ResolvedTask, RowReader, TaskModule
from compiler.tasks.question_answering import QuestionAnswering
from compiler.tasks.sequence_to_sequence import SequenceToSequence
from compiler.tasks.summarization import Summarization
from compiler.tasks.text_classification import TextClassification
from compiler.tasks.text_generation import TextGeneration
from compiler.tasks.text_regression import TextRegression
from compiler.tasks.text_to_text import TextToText
from compiler.tasks.token_classification import TokenClassification
from compiler.tasks.translation import Translation
from compiler.templates import OWN

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

    from compiler.facts import ModelFacts

__all__ = [
    "COLUMNS",
    "TASKS",
    "ContinuedPretraining",
    "Example",
    "ImageClassification",
    "Kind",
    "QuestionAnswering",
    "Reads",
    "ResolvedTask",
    "RowReader",
    "SequenceToSequence",
    "Summarization",
    "Task",
    "TaskModule",
    "TextClassification",
    "TextGeneration",
    "TextRegression",
    "TextToText",
    "TokenClassification",
    "Translation",
    "answer_of",
    "asked_roles",
    "bind",
    "check_prompt",
    "columns_of",
    "head_names",
    "image_column",
    "is_started",
    "left_by",
    "longest_written",
    "module_of",
    "own_template",
    "pointer_of",
    "reads",
    "reference_of",
    "roles_of",
    "takes_examples",
    "tells_next_token",
    "texts_of",
    "written_ids",
    "written_role",
]

Task = (
    TextClassification
    | TextRegression
    | TokenClassification
    | QuestionAnswering
    | TextGeneration
    | ContinuedPretraining
    | ImageClassification
    | Translation
    | Summarization
    | TextToText
)
TASKS: Mapping[str, Task] = {owner().type: owner() for owner in get_args(Task)}
"""Every task by its name, with its defaults."""
COLUMNS: Mapping[str, Kind] = {
    **text_generation.COLUMNS,
    **text_classification.COLUMNS,
    **text_regression.COLUMNS,
    **token_classification.COLUMNS,
    **continued_pretraining.COLUMNS,
    **question_answering.COLUMNS,
    **image_classification.COLUMNS,
    **sequence_to_sequence.COLUMNS,
}
"""Every role that some task reads a column for. What stands there is the task's to say: a target is a number or a text.
"""


_MODULES: Mapping[type[Task], Any] = {
    TextClassification: text_classification,
    TextRegression: text_regression,
    TokenClassification: token_classification,
    QuestionAnswering: question_answering,
    TextGeneration: text_generation,
    ContinuedPretraining: continued_pretraining,
    ImageClassification: image_classification,
    Translation: translation,
    Summarization: summarization,
    TextToText: text_to_text,
}


def module_of(task: Task) -> TaskModule:
    """The module of a task."""
    return cast(TaskModule, _MODULES[type(task)])


def bind(task: Task, reader_file: Path, before: Sequence[Task] = ()) -> Task:
    """The task with what it takes from a model's files, as tasks that tuned the model before it left them.

    Raises ValueError with what is wrong.
    """
    match task, [each for each in before if isinstance(each, TextGeneration)]:
        case TextGeneration(), [*_, last]:
            return text_generation.bind_after(task, last, reader_file)
        case _:
            return module_of(task).bind(task, reader_file)


def left_by(task: Task, model: ModelFacts) -> ModelFacts:
    """The facts of a model that a resolved task has tuned: it is saved in float32, with the head of the task."""
    bare = replace(model, dtype="float32", architectures=(), labels=None, token_labels=None)
    match task:
        case TextClassification(labels=(*names,)) | ImageClassification(labels=(*names,)):
            return replace(bare, labels=tuple(names))
        case TokenClassification(labels=(*names,)):
            return replace(bare, token_labels=tuple(names))
        case QuestionAnswering():
            return replace(bare, architectures=(question_answering.HEAD,))
        case ContinuedPretraining(objective="masked"):
            return replace(bare, architectures=(masking.HEAD,))
        case _:
            return bare


def head_names(task: Task) -> tuple[str, ...] | None:
    """What a resolved task calls the outputs of its head, in order; None where it has no names for them."""
    match task:
        case TextClassification(labels=(*names,)) | ImageClassification(labels=(*names,)):
            return tuple(names)
        case TokenClassification(labels=(*names,)):
            return tuple(names)
        case TextRegression(targets=targets):
            return targets or ("LABEL_0",)  # transformers' own word
        case _:
            return None


def tells_next_token(task: Task, model: ModelFacts) -> bool:
    """Whether a task answers by the head with which a decoder tells the next token, and which comes with the model."""
    return model.architecture == "decoder" and isinstance(task, (TextGeneration, ContinuedPretraining))


def texts_of(task: Task, row: Mapping[str, Any]) -> tuple[str, ...]:
    """What of a row, given by role, is tokenized together: one text, or a pair."""
    return module_of(task).texts(task, row)


def roles_of(task: Task) -> Mapping[str, Kind]:
    """The roles of the columns that a task reads, each with what stands there. Named targets are roles of their own."""
    match task:
        case TextRegression(targets=(_, *_)):
            return text_regression.roles(task)
        case _:
            return module_of(task).COLUMNS


def pointer_of(task: Task, role: str) -> str:
    """Where a recipe names the column of a role."""
    match task:
        case TextRegression(targets=targets) if role in targets:
            return f"/task/targets/{targets.index(role)}"
        case _:
            return f"/dataset/columns/{role}"


def columns_of(task: Task, named: Mapping[str, str]) -> dict[str, str]:
    """From each role that is read to the name of its column: the one that the recipe gives, or else the role itself."""
    optional = module_of(task).NAMED
    return {role: named.get(role, role) for role in roles_of(task) if role in named or role not in optional}


def asked_roles(task: Task, columns: Mapping[str, str]) -> tuple[str, ...]:
    """The roles that a row must have to be answered, the chief one first. `columns`: from role to the column's name."""
    module = module_of(task)
    required = {*module.INPUTS} - {*module.OPTIONAL} | {*module.NAMED}
    return tuple(role for role in module.INPUTS if role in columns and role in required) or module.INPUTS[:1]


def reads(task: Task) -> Reads:
    """What the model of a task is given."""
    module = module_of(task)
    return "image" if any(module.COLUMNS[role] == "image" for role in module.INPUTS) else "text"


def is_language_model(task: Task, architecture: Architecture | None = None) -> bool:
    """Whether the model of a task tells token after token from those before them, without an encoder.

    `architecture`: the model's, where it is known; it decides where the objective is open.
    """
    if module_of(task).ARCHITECTURES[0] != "decoder":
        return False
    objective = getattr(task, "objective", "causal")
    return objective == "causal" or (objective == "auto" and architecture != "encoder")


def image_column(task: Task, columns: Mapping[str, str]) -> str | None:
    """The name of the column that holds images; None where a task reads none."""
    return next((columns[role] for role, kind in roles_of(task).items() if kind == "image"), None)


def answer_of(task: Task) -> str | None:
    """The role of what the model is to answer: of the column that it does not read. None where it reads all."""
    inputs = module_of(task).INPUTS
    return next((role for role in roles_of(task) if role not in inputs), None)


def written_role(task: Task) -> str | None:
    """The role of a text that the model is to write after it has read the others; None where it writes none."""
    role = answer_of(task)
    return role if role is not None and roles_of(task)[role] == "text" else None


def reference_of(task: Task, row: Mapping[str, Any]) -> str:
    """The text that a row should be answered with; "" where it is answered with something else."""
    match task:
        case TextGeneration():
            return text_generation.reference(row)
        case _:
            role = written_role(task)
            return "" if role is None else str(row[role])


def takes_examples(task: Task) -> bool:
    """Whether solved rows can stand before a row that is asked."""
    match task:
        case TextGeneration():
            return text_generation.takes_examples(task)
        case _:
            return False


def check_prompt(task: Task, row: Mapping[str, Any], tokenizer: Callable[[], Tokenizer]) -> None:
    """Nothing when a row, given by role, has something to begin a text from. Raises BadValueError."""
    match task:
        case TextGeneration():
            text_generation.check_prompt(task, row, tokenizer)
        case _:
            pass  # it writes none, or a decoder has a token of its own to begin with


def is_started(task: Task, row: Mapping[str, Any]) -> bool:
    """Whether what the tokenizer puts in front of every text is put in front of a row of a task that leaves it out."""
    match task:
        case TextGeneration():
            return text_generation.is_started(task, row)
        case _:
            return False


def longest_written(task: Task) -> int | None:
    """Tokens of the longest text that a resolved task learns to write from another one; None where it writes on."""
    match task:
        case SequenceToSequence(max_target_length=int(most)):
            return most
        case _:
            return None


def own_template(task: Task) -> str | None:
    """The source of the chat template that rows are written by, where it is the tokenizer's own."""
    match task:
        case TextGeneration(template=template) if template.name == OWN:
            return template.template().source
        case _:
            return None


def written_ids(task: Task, ids: Sequence[int]) -> Sequence[int]:
    """What the model is to write of the tokens that the tokenizer makes of such a text."""
    match task:
        case SequenceToSequence():
            return sequence_to_sequence.written_ids(task, ids)
        case _:
            return ids
