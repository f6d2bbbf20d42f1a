"""continued-pretraining: every token of a text from those before it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from compiler.auto import Choice
from compiler.data.texts import text_of
from compiler.diagnostics import Diagnostic
from compiler.metrics import Perplexity, TokenAccuracy
from compiler.supervision import Segment
from compiler.tasks.interface import Example, Kind, ResolvedTask
from compiler.tasks.language import check_language, loss_of
from compiler.typed import About

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from compiler.facts import DataFacts, ModelFacts
    from compiler.packing import Packing
    from compiler.recipe import Recipe
    from compiler.tasks.interface import Architecture, Targets

COLUMNS: Mapping[str, Kind] = {"text": "text"}
INPUTS = ("text",)
OPTIONAL: frozenset[str] = frozenset()
NAMED: frozenset[str] = frozenset()
ARCHITECTURES: tuple[Architecture, ...] = ("decoder",)
PACKING: Packing = "fill"
SPECIAL_TOKENS = True
METRICS = ("perplexity", "token-accuracy")
DEFAULT_METRICS = (Perplexity(), TokenAccuracy())
WRITTEN: tuple[str, ...] = ()
WRITES = False
LOSSES = ("cross-entropy",)
STRATIFIES = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuedPretraining:
    """Every token of a text from those before it. Column: text."""

    type: Annotated[
        Literal["continued-pretraining"], About("Every token of a text from those before it. Column: text.")
    ] = "continued-pretraining"
    end: Annotated[
        str, About("The token that ends a text, and is learnt as well. auto: the tokenizer's eos_token.")
    ] = "auto"


class Reader:
    """Reads a text."""

    labels: tuple[str, ...] = ()

    def __init__(self, columns: Mapping[str, str]) -> None:
        self.columns = columns

    def read(self, values: Mapping[str, object]) -> Example:
        """A row. Raises BadValueError."""
        return Example(row=self.given(values))

    def given(self, values: Mapping[str, object]) -> Mapping[str, Any]:
        """The text. Raises BadValueError."""
        return {"text": text_of(values, self.columns["text"])}

    def classes(self, targets: Targets) -> npt.NDArray[np.int64]:
        """[N] zeros: the rows have no classes."""
        import numpy as np

        return np.zeros(len(targets), np.int64)

    def label_counts(self, targets: Targets) -> Mapping[str, int]:
        """None: nothing is labelled."""
        return {}

    def values(self, targets: Targets) -> tuple[()]:
        """Nothing: the answers are the texts themselves."""
        return ()


def bind(task: ContinuedPretraining, tokenizer_file: Path) -> ContinuedPretraining:
    """The task with the token that ends a text. Raises ValueError."""
    return task if task.end != "auto" else replace(task, end=_end(tokenizer_file.with_name("tokenizer_config.json")))


def _end(file: Path) -> str:
    """The eos_token of a tokenizer_config.json: a string, or an object with its content."""
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get("eos_token")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{file.name} can't be read, so nothing says which token ends a text: {error}") from error
    token = found.get("content") if isinstance(found, dict) else found
    if not isinstance(token, str) or not token:
        raise ValueError(f"{file.name} names no eos_token, the token that ends a text")
    return token


def texts(task: ContinuedPretraining, row: Mapping[str, Any]) -> tuple[str, ...]:
    """The text and its end."""
    return (row["text"] + task.end,)


def pieces(task: ContinuedPretraining, row: Mapping[str, Any]) -> tuple[Segment, ...]:
    """The text and its end, all of which is learnt."""
    return (Segment(texts(task, row)[0], supervised=True),)


def reader(task: ContinuedPretraining, columns: Mapping[str, str]) -> Reader:
    """The reader of rows."""
    return Reader(columns)


def check(recipe: Recipe) -> Iterator[Diagnostic]:
    """Classes have no weights here."""
    return check_language(recipe)


def check_data(recipe: Recipe, data: DataFacts) -> Iterator[Diagnostic]:
    """No findings: any text will do."""
    return iter(())


def check_facts(recipe: Recipe, model: ModelFacts, data: DataFacts) -> Iterator[Diagnostic]:
    """No findings: what the task needs of a model's files, it took when it was bound."""
    return iter(())


def resolve(recipe: Recipe, model: ModelFacts, data: DataFacts) -> ResolvedTask:
    """The task as it is bound; the model's own head is kept."""
    task = _task(recipe)
    said = Choice(pointer="/task/end", value=task.end, reason="the tokenizer's eos_token")
    wrote = recipe.wrote("/task/end") is not None
    return ResolvedTask(
        task=task,
        loss=loss_of(recipe),
        metrics=recipe.metrics or DEFAULT_METRICS,
        keep_head=True,
        choices=() if wrote else (said,),
    )


def summary(data: DataFacts) -> str:
    """How many tokens there are."""
    train = data.split("train")
    return f"{train.num_tokens:,} tokens to train on" if train and train.num_tokens else "texts"


def _task(recipe: Recipe) -> ContinuedPretraining:
    assert isinstance(recipe.task, ContinuedPretraining), "the module is the task's"
    return recipe.task
