"""continued-pretraining: tokens of a text, each from those before it, or hidden ones from those around them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from compiler import methods
from compiler.auto import Choice
from compiler.data.texts import text_of
from compiler.diagnostics import Diagnostic
from compiler.metrics import Perplexity, TokenAccuracy
from compiler.supervision import Segment
from compiler.tasks import masking
from compiler.tasks.interface import Example, Kind, ResolvedTask
from compiler.tasks.language import check_language, loss_of
from compiler.tasks.masking import Masking
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
ARCHITECTURES: tuple[Architecture, ...] = ("decoder", "encoder")
PACKING: Packing = "fill"
SPECIAL_TOKENS = True
METRICS = ("perplexity", "token-accuracy")
DEFAULT_METRICS = (Perplexity(), TokenAccuracy())
WRITTEN: tuple[str, ...] = ()
WRITES = False
LOSSES = ("cross-entropy",)
STRATIFIES = False


Objective = Literal["causal", "masked"]
_OBJECTIVES: Mapping[str, Objective] = {"decoder": "causal", "encoder": "masked"}
_LEARNS = {"decoder": "a decoder sees none of the tokens after one", "encoder": "an encoder sees the token after one"}
_INSTEAD = {
    "causal": "a decoder: llama, qwen3, smollm3, gpt2, ...",
    "masked": "an encoder: bert, roberta, distilbert, modernbert, ...",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuedPretraining:
    """A decoder learns each token from those before it, an encoder hidden ones from the rest. Column: text."""

    type: Annotated[
        Literal["continued-pretraining"],
        About("A decoder learns each token of a text from those before it, an encoder hidden ones from the rest."),
    ] = "continued-pretraining"
    objective: Annotated[
        Literal["auto", "causal", "masked"],
        About("causal: each token, from those before it. masked: hidden ones. auto: masked for encoders, else causal."),
    ] = "auto"
    end: Annotated[
        str,
        About("Causal: the token that ends a text, and is learnt as well. auto: the tokenizer's eos_token."),
    ] = "auto"
    masking: Annotated[
        Masking | None,
        About(
            "Masked: which tokens are hidden, anew in each epoch. Where a text is measured they are always the same: "
            "metrics are comparable, and `predict` says how likely these are. null: as BERT was trained."
        ),
    ] = None


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
    """The task as the model reads, with the tokens that it needs. Raises ValueError.

    As it is where the model can't serve the objective: `check_facts` says so.
    """
    fits = _OBJECTIVES.get(_architecture(tokenizer_file.with_name("config.json")))
    if fits is None or task.objective not in ("auto", fits):
        return task
    task = replace(task, objective=fits)
    match fits:
        case "causal" if task.end == "auto":
            return replace(task, end=_end(tokenizer_file.with_name("tokenizer_config.json")))
        case "masked":
            return replace(task, end="", masking=masking.bound(task.masking or Masking(), tokenizer_file))
        case _:
            return task


def _architecture(file: Path) -> Architecture:
    """What kind of model a config.json is of, which was read before the task is bound."""
    from compiler.model_facts import architecture_of

    return architecture_of(json.loads(file.read_text(encoding="utf-8")))


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
    """The text, with its end where that is learnt."""
    return (row["text"] + ("" if task.end == "auto" else task.end),)


def pieces(task: ContinuedPretraining, row: Mapping[str, Any]) -> tuple[Segment, ...]:
    """The text and its end, all of which is learnt; of a masked text, any of its tokens may be."""
    return (Segment(texts(task, row)[0], supervised=True),)


def reader(task: ContinuedPretraining, columns: Mapping[str, str]) -> Reader:
    """The reader of rows."""
    return Reader(columns)


def check(recipe: Recipe) -> Iterator[Diagnostic]:
    """Classes have no weights here, and what is said of an objective is of the one that is written."""
    yield from check_language(recipe)
    yield from check_unread(recipe)


def check_unread(recipe: Recipe) -> Iterator[Diagnostic]:
    """Each objective has keys of its own."""
    task = _task(recipe)
    other = {"causal": "masking", "masked": "end"}.get(task.objective)
    if other is not None and recipe.wrote(f"/task/{other}") is not None:
        message = f'nothing reads "{other}" with the objective "{task.objective}"'
        yield recipe.finding("R202", f"/task/{other}", message, "remove it", key=True)


def check_data(recipe: Recipe, data: DataFacts) -> Iterator[Diagnostic]:
    """No findings: any text will do."""
    return iter(())


def check_facts(recipe: Recipe, model: ModelFacts, data: DataFacts) -> Iterator[Diagnostic]:
    """The model serves the objective, and nothing is said of the other one."""
    task, fits = _task(recipe), _OBJECTIVES.get(model.architecture)
    if fits is None:
        return  # no model for the task at all, which is said of every task
    if task.objective not in ("auto", fits):
        message = f'the objective is "{task.objective}", and {_LEARNS[model.architecture]} ({model.model_type})'
        hint = f'write "objective": "{fits}", or choose {_INSTEAD[task.objective]}'
        yield recipe.finding("R410", "/task/objective", message, hint)
        return
    if recipe.wrote("/task/objective") is None:
        yield from check_unread(recipe)
    if fits == "masked":
        yield from check_masked(recipe, model)


def check_masked(recipe: Recipe, model: ModelFacts) -> Iterator[Diagnostic]:
    """Tokens are the model's, and what is frozen under a method has been trained before."""
    found, most = _task(recipe).masking or Masking(), model.vocab_size
    for key, number, limit in (("mask_id", found.mask_id, most - 1), ("vocab_size", found.vocab_size, most)):
        if number != "auto" and most and number > limit:
            message = f"the model has {most} tokens, {key} is {number}"
            yield recipe.finding("R411", f"/task/masking/{key}", message, f"at most {limit}")
    written = recipe.wrote("/task/masking/special_ids") is not None
    numbers = () if found.special_ids == "auto" or not written else found.special_ids
    for place, number in enumerate(numbers):
        if most and not 0 <= number < most:
            message = f"the model has {most} tokens, there is no token {number}"
            yield recipe.finding("R411", f"/task/masking/special_ids/{place}", message, f"from 0 to {most - 1}")
    if methods.module_of(recipe.method).SAVES == "adapter" and not masking.has_head(model):
        message = f"the weights have no head for hidden tokens, which {recipe.method.type} would leave untrained"
        hint = 'use the method "full", "freeze" or "head", or a model that was saved with such a head'
        yield recipe.finding("R410", "/method", message, hint)


def resolve(recipe: Recipe, model: ModelFacts, data: DataFacts) -> ResolvedTask:
    """The task as it is bound, and how the model is to learn."""
    task = replace(_task(recipe), objective=_OBJECTIVES[model.architecture])
    keep_head = task.objective == "causal" or masking.has_head(model)
    return ResolvedTask(
        task=task,
        loss=loss_of(recipe),
        metrics=recipe.metrics or DEFAULT_METRICS,
        keep_head=keep_head,
        choices=(
            *(choice for choice in _choices(task, model) if recipe.wrote(choice.pointer) is None),
            *([_head_choice(keep=keep_head)] if task.objective == "masked" else []),
        ),
    )


def _choices(task: ContinuedPretraining, model: ModelFacts) -> Iterator[Choice]:
    """What may be open; of an encoder also why its rows are not packed."""
    yield Choice(pointer="/task/objective", value=task.objective, reason=_LEARNS[model.architecture])
    if task.objective == "causal":
        yield Choice(pointer="/task/end", value=task.end, reason="the tokenizer's eos_token")
        return
    found = task.masking
    assert found is not None and found.mask_id != "auto", "a masked task is bound before it is resolved"
    yield Choice(pointer="/task/masking/probability", value=found.probability, reason="as BERT was trained")
    yield Choice(pointer="/task/masking/mask_id", value=found.mask_id, reason="the tokenizer's mask_token")
    yield Choice(pointer="/training/packing", value="none", reason="an encoder's rows are sequences of their own")


def _head_choice(*, keep: bool) -> Choice:
    """Whether the model has learnt hidden tokens before."""
    if keep:
        return Choice(pointer="/model", value="head kept", reason="its own head tells hidden tokens")
    reason = "its weights have none for hidden tokens: a new one is learnt, beside its token embeddings"
    return Choice(pointer="/model", value="new head", reason=reason)


def summary(data: DataFacts) -> str:
    """How many tokens there are."""
    train = data.split("train")
    return f"{train.num_tokens:,} tokens to train on" if train and train.num_tokens else "texts"


def _task(recipe: Recipe) -> ContinuedPretraining:
    assert isinstance(recipe.task, ContinuedPretraining), "the module is the task's"
    return recipe.task
