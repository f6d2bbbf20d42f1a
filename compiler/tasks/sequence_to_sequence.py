"""What the tasks have in common that write a text from another one: an encoder reads it, a decoder writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from compiler.auto import Choice
from compiler.data.texts import text_of
from compiler.diagnostics import Diagnostic
from compiler.json_text import object_in
from compiler.lengths import auto_target_length
from compiler.tasks.interface import Example, Kind, ResolvedTask
from compiler.tasks.language import check_language, loss_of
from compiler.tasks.pieces import read_and_answered
from compiler.typed import About

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from compiler.facts import DataFacts, ModelFacts
    from compiler.metrics import Metric
    from compiler.packing import Packing
    from compiler.recipe import Recipe
    from compiler.supervision import Segment
    from compiler.tasks.interface import Architecture, Targets

COLUMNS: Mapping[str, Kind] = {"source": "text", "target": "text"}
INPUTS = ("source",)
OPTIONAL: frozenset[str] = frozenset()
NAMED: frozenset[str] = frozenset()
ARCHITECTURES: tuple[Architecture, ...] = ("encoder-decoder",)
PACKING: Packing = "none"
SPECIAL_TOKENS = True
WRITTEN = ("exact-match", "rouge", "bleu", "chrf", "wer", "cer", "json-validity", "distinct", "mean-length")
WRITES = True
METRICS = ("perplexity", "token-accuracy", *WRITTEN)
LOSSES = ("cross-entropy",)
STRATIFIES = False
_CONFIGS = ("generation_config.json", "config.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceToSequence:
    """What is said of each of these tasks."""

    type: str
    prefix: Annotated[
        str, About("Put in front of every source, as T5 reads which task is meant: translate English to German: ")
    ] = ""
    max_target_length: Annotated[
        int | Literal["auto"],
        About(
            "Tokens of a target, its end included; longer ones are cut. auto: the longest target, up to 512.", minimum=2
        ),
    ] = "auto"
    start_id: Annotated[
        int | Literal["auto"],
        About("The token that the decoder reads first. auto: decoder_start_token_id of the model.", minimum=0),
    ] = "auto"
    end_id: Annotated[
        int | Literal["auto"],
        About("The token that ends a target, and is learnt as well. auto: eos_token_id of the model.", minimum=0),
    ] = "auto"


T = TypeVar("T", bound=SequenceToSequence)


class Reader:
    """Reads a text and what is to be written for it."""

    labels: tuple[str, ...] = ()

    def __init__(self, columns: Mapping[str, str]) -> None:
        self.columns = columns

    def read(self, values: Mapping[str, object]) -> Example:
        """A row. Raises BadValueError."""
        return Example(row={role: text_of(values, self.columns[role]) for role in COLUMNS})

    def given(self, values: Mapping[str, object]) -> Mapping[str, Any]:
        """The source, and the target where there is one. Raises BadValueError."""
        there = [role for role in COLUMNS if role in INPUTS or values.get(self.columns[role]) is not None]
        return {role: text_of(values, self.columns[role]) for role in there}

    def classes(self, targets: Targets) -> npt.NDArray[np.int64]:
        """[N] zeros: the rows have no classes."""
        import numpy as np

        return np.zeros(len(targets), np.int64)

    def label_counts(self, targets: Targets) -> Mapping[str, int]:
        """None: nothing is labelled."""
        return {}

    def values(self, targets: Targets) -> tuple[()]:
        """Nothing: the answers are texts."""
        return ()


def bind(task: T, tokenizer_file: Path) -> T:
    """The task with the tokens that the model's files name. Raises ValueError."""
    configs = [object_in(tokenizer_file.with_name(name)) for name in _CONFIGS]
    start, end = task.start_id, task.end_id
    if start == "auto":
        start = _token(configs, ("decoder_start_token_id",), "the token that the decoder reads first")
    if end == "auto":
        end = _token(configs, ("eos_token_id",), "the token that ends a target")
    return replace(task, start_id=start, end_id=end)


def _token(configs: Sequence[Mapping[str, Any]], keys: tuple[str, ...], what: str) -> int:
    """The first token that some configurations name, their decoder's own after theirs. Raises ValueError."""
    decoders = [config["decoder"] for config in configs if isinstance(config.get("decoder"), dict)]
    for config in (*configs, *decoders):
        for key in keys:
            named = config.get(key)
            first = named[0] if isinstance(named, list) and named else named
            if type(first) is int and first >= 0:
                return first
    raise ValueError(f"neither {' nor '.join(_CONFIGS)} of the model has {keys[0]}, {what}")


def texts(task: SequenceToSequence, row: Mapping[str, Any]) -> tuple[str, ...]:
    """The source."""
    return (task.prefix + row["source"],)


def pieces(task: SequenceToSequence, row: Mapping[str, Any]) -> tuple[Segment, ...]:
    """The source and the target."""
    return read_and_answered(texts(task, row), row["target"])


def written_ids(task: SequenceToSequence, ids: Sequence[int]) -> tuple[int, ...]:
    """What the decoder is to write: a tokenizer's ids of a target with one end, and without the start before them."""
    end = task.end_id
    own = ids[1:] if ids and ids[0] == task.start_id != end else ids
    own = own[:-1] if own and own[-1] == end else own
    return (*own, *([] if end == "auto" else [end]))


def reader(task: SequenceToSequence, columns: Mapping[str, str]) -> Reader:
    """The reader of rows."""
    return Reader(columns)


def check(recipe: Recipe) -> Iterator[Diagnostic]:
    """Classes have no weights here."""
    return check_language(recipe)


def check_data(recipe: Recipe, data: DataFacts) -> Iterator[Diagnostic]:
    """Targets fit into max_target_length."""
    written = _task(recipe).max_target_length
    limit = auto_target_length(None, data).value if written == "auto" else written
    over = sum(split.targets_over(limit) for split in data.splits)
    if over:
        total, longest = sum(split.rows.num_rows for split in data.splits), data.longest_target
        share = f"{over:,} of {total:,} targets ({over / total:.1%})"
        message = f"{share} are cut at {limit} tokens; the longest has {longest}"
        hint = f"{longest} learns all"
        yield recipe.finding("R309", "/task/max_target_length", message, hint, severity="warning")


def check_facts(recipe: Recipe, model: ModelFacts, data: DataFacts) -> Iterator[Diagnostic]:
    """Targets fit into the decoder's positions, and their tokens are the model's."""
    task, most = _task(recipe), model.max_target_positions
    if task.max_target_length != "auto" and most is not None and task.max_target_length > most:
        message = f"the decoder writes at most {most} tokens, max_target_length is {task.max_target_length}"
        yield recipe.finding("R408", "/task/max_target_length", message, f"at most {most}")
    for key in ("start_id", "end_id"):
        number = getattr(task, key)
        if number != "auto" and model.vocab_size and number >= model.vocab_size:
            message = f"the model has {model.vocab_size} tokens, and none of number {number}"
            yield recipe.finding("R411", f"/task/{key}", message, f"at most {model.vocab_size - 1}")


def resolved(recipe: Recipe, model: ModelFacts, data: DataFacts, metrics: tuple[Metric, ...]) -> ResolvedTask:
    """The task as it runs: the length of its targets is chosen, the model's own head is kept."""
    task = _task(recipe)
    length = auto_target_length(model, data)
    chosen = [
        Choice(pointer="/task/max_target_length", value=length.value, reason=length.reason),
        Choice(pointer="/task/start_id", value=task.start_id, reason="the model's decoder_start_token_id"),
        Choice(pointer="/task/end_id", value=task.end_id, reason="the model's eos_token_id"),
    ]
    if task.max_target_length == "auto":
        task = replace(task, max_target_length=length.value)
    return ResolvedTask(
        task=task,  # type: ignore[arg-type]  # one of the tasks that this is the base of
        loss=loss_of(recipe),
        metrics=recipe.metrics or metrics,
        keep_head=True,
        choices=tuple(choice for choice in chosen if recipe.wrote(choice.pointer) is None),
    )


def summary(data: DataFacts) -> str:
    """How many tokens are to be written."""
    train = data.split("train")
    written = train.num_target_tokens if train else 0
    return f"{written:,} tokens to write" if written else "pairs of texts"


def _task(recipe: Recipe) -> SequenceToSequence:
    assert isinstance(recipe.task, SequenceToSequence), "the module is the task's"
    return recipe.task
