"""token-classification: a tag for each word of a text, and with them its entities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from compiler.data.texts import BadValueError, UnknownLabelError, spans_of, tags_of, text_of, tokens_of
from compiler.data.words import (
    OUTSIDE,
    Range,
    are_prefixed,
    bio_tags,
    covered,
    in_order,
    is_prefixed,
    kind_of,
    shared_word,
    tagged,
    tags_of_spans,
    text_of_row,
    words_of,
)
from compiler.diagnostics import Diagnostic, short
from compiler.metrics import EntityF1, EntityPrecision, EntityRecall
from compiler.supervision import Segment
from compiler.tasks import labels
from compiler.tasks.interface import Example, Kind, ResolvedTask
from compiler.typed import About

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from compiler.facts import DataFacts, ModelFacts
    from compiler.packing import Packing
    from compiler.recipe import Recipe
    from compiler.tasks.interface import Architecture, Targets

COLUMNS: Mapping[str, Kind] = {"tokens": "tokens", "tags": "tags", "text": "text", "spans": "spans"}
INPUTS = ("text", "tokens")
OPTIONAL = frozenset(COLUMNS)
NAMED: frozenset[str] = frozenset()
ARCHITECTURES: tuple[Architecture, ...] = ("encoder",)
PACKING: Packing = "none"
SPECIAL_TOKENS = True
METRICS = ("entity-f1", "entity-precision", "entity-recall", "token-accuracy")
DEFAULT_METRICS = (EntityF1(), EntityPrecision(), EntityRecall())
WRITTEN: tuple[str, ...] = ()
WRITES = False
LOSSES = ("cross-entropy",)
STRATIFIES = False
_FEW_TAGS = 50  # so many may stand in however few rows
_ABOUT = "A tag for each word. Columns: tokens and tags, or text and spans."


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenClassification:
    """A tag for each word. Columns: tokens and tags, or text and spans of it: start, end and label.

    Spans become tags of their words, B- for the first one and I- for the others; a span that ends inside a word has
    the whole word.
    """

    type: Annotated[Literal["token-classification"], About(_ABOUT)] = "token-classification"
    labels: Annotated[
        tuple[str, ...] | Literal["auto"],
        About(
            "Tags in order; a whole number in the data counts into them. With spans also their labels, which become "
            "O, B- and I- tags. auto: what is in the data."
        ),
    ] = "auto"
    read: Annotated[
        Literal["auto", "tokens", "text"],
        About("Which columns are read where a row has both. auto: tokens and tags."),
    ] = "auto"


class Reader:
    """Reads tokens with tags, and texts with spans."""

    def __init__(self, task: TokenClassification, columns: Mapping[str, str]) -> None:
        self.read_as, self.columns = task.read, columns
        self.declared = None if task.labels == "auto" else task.labels
        self.numbers: dict[str, int] = {}  # of tags
        self.bags: dict[tuple[tuple[str, int], ...], int] = {}  # of the tags that a row has, each with how often

    def read(self, values: Mapping[str, object]) -> Example:
        """A row, its answer the number of the bag of its tags. Raises BadValueError."""
        if self._has_tokens(values, self.columns["text"] not in values):
            tokens = tokens_of(values, self.columns["tokens"])
            tags = tags_of(values, self.columns["tags"], len(tokens), self.declared)
            return self._example({"tokens": list(tokens), "tags": tags}, tags)
        text = text_of(values, self.columns["text"])
        words = words_of(text)
        if not words:
            raise BadValueError(self.columns["text"], "expected a text with a word in it")
        spans = self._spans(values, text, words)
        if self.declared is None:
            self._name(bio_tags(span["label"] for span in spans))
        return self._example({"text": text, "spans": spans}, self._tags(words, spans))

    def given(self, values: Mapping[str, object]) -> Mapping[str, Any]:
        """The tokens, or else the text. Raises BadValueError."""
        if self._has_tokens(values, otherwise=False):
            return {"tokens": list(tokens_of(values, self.columns["tokens"]))}
        return {"text": text_of(values, self.columns["text"])}

    def _has_tokens(self, values: Mapping[str, object], otherwise: bool) -> bool:
        """Whether the tokens of a row are read. `otherwise`: where it has none, and the task does not say."""
        if self.read_as != "auto":
            return self.read_as == "tokens"
        return values.get(self.columns["tokens"]) is not None or otherwise

    def _spans(self, values: Mapping[str, object], text: str, words: Sequence[Range]) -> list[dict[str, Any]]:
        column = self.columns["spans"]
        spans = spans_of(values, column, len(text))
        for span in spans:
            if not covered(words, span["start"], span["end"]):
                raise BadValueError(column, f"there is no word from {span['start']} to {span['end']}")
        if shared := shared_word(words, spans):
            raise BadValueError(column, f'two spans have a part of the word "{short(text[slice(*shared)])}"')
        return spans

    def _tags(self, words: Sequence[Range], spans: list[dict[str, Any]]) -> tuple[str, ...]:
        tags = tags_of_spans(words, spans)
        for tag in tags:
            if self.declared is not None and tag not in _tags_for(self.declared):
                kinds = dict.fromkeys(kind_of(label) for label in self.declared if label != OUTSIDE)
                name = tag if kind_of(tag) in kinds or tag == OUTSIDE else kind_of(tag)
                raise UnknownLabelError(self.columns["spans"], name, tuple(kinds))
        return tags

    def _example(self, row: Mapping[str, Any], tags: Sequence[str]) -> Example:
        self._name(tags)
        bag = tuple(sorted(Counter(tags).items()))
        return Example(row=row, target=float(self.bags.setdefault(bag, len(self.bags))))

    def _name(self, tags: Iterable[str]) -> None:
        for tag in tags:
            self.numbers.setdefault(tag, len(self.numbers))

    @property
    def labels(self) -> tuple[str, ...]:
        """The tags in order: as declared, or those found, O first."""
        if self.declared is None:
            return in_order(self.numbers)
        # Plain tags look as labels of spans do: which they are shows in the rows.
        return _tags_for(self.declared) if set(self.numbers) - set(self.declared) else self.declared

    def classes(self, targets: Targets) -> npt.NDArray[np.int64]:
        """[N] zeros: a row has many tags."""
        import numpy as np

        return np.zeros(len(targets), np.int64)

    def label_counts(self, targets: Targets) -> Mapping[str, int]:
        """How many words of the rows have each tag."""
        import numpy as np

        counts = dict.fromkeys(self.labels, 0)
        rows = np.bincount(targets.astype(np.int64), minlength=len(self.bags)).tolist()
        for bag, num_rows in zip(self.bags, rows, strict=True):
            for tag, count in bag:
                counts[tag] += num_rows * count
        return counts

    def values(self, targets: Targets) -> tuple[()]:
        """Nothing: the answers are tags."""
        return ()


def _are_kinds(declared: tuple[str, ...]) -> bool:
    """Whether labels may be those of spans: none says that it is a tag."""
    return not any(label == OUTSIDE or is_prefixed(label) for label in declared)


def _tags_for(declared: tuple[str, ...]) -> tuple[str, ...]:
    """The tags of texts with spans: those that are declared, or of the labels that are."""
    return bio_tags(declared) if _are_kinds(declared) else declared


def bind(task: TokenClassification, tokenizer_file: Path) -> TokenClassification:
    """The task as it is."""
    return task


def texts(task: TokenClassification, row: Mapping[str, Any]) -> tuple[str, ...]:
    """The text, or the tokens with spaces between them."""
    return (text_of_row(row),)


def pieces(task: TokenClassification, row: Mapping[str, Any]) -> tuple[Segment, ...]:
    """The words, each with its tag, which is learnt; those outside of every kind stand for themselves."""
    found = tagged(row)
    pieces: list[Segment] = []
    for (start, end), tag in zip(found.words, found.tags, strict=True):
        word, inside = found.text[start:end], tag != OUTSIDE
        pieces += [Segment(f"{word}/{tag}" if inside else word, supervised=inside), Segment(" ", supervised=False)]
    return tuple(pieces)


def reader(task: TokenClassification, columns: Mapping[str, str]) -> Reader:
    """The reader of rows."""
    return Reader(task, columns)


def check(recipe: Recipe) -> Iterator[Diagnostic]:
    """Findings about declared labels; those of spans stand for their tags too."""
    declared = _task(recipe).labels
    if declared != "auto" and declared and _are_kinds(declared):
        declared = (*declared, *(tag for tag in bio_tags(declared) if tag not in declared))
    return labels.check_labels(recipe, declared)


def check_data(recipe: Recipe, data: DataFacts) -> Iterator[Diagnostic]:
    """Train has words of every kind that is declared, or that held-out rows have."""
    odd = tuple(_check_tags(recipe, data))
    yield from odd
    if not odd:
        yield from labels.check_held_out_labels(recipe, _task(recipe).labels, _by_kind(data))


def _check_tags(recipe: Recipe, data: DataFacts) -> Iterator[Diagnostic]:
    """There are two tags or more, and train has words of each kind that is declared."""
    if len(data.labels) < 2:
        found = f'all words have the tag "{short(data.labels[0])}"' if data.labels else "the rows have no tag"
        hint = "there is nothing to learn; are these the right columns?"
        yield recipe.finding("R308", "/dataset/columns", found, hint)
        return
    declared, train = _task(recipe).labels, _by_kind(data).label_counts("train")
    if declared == "auto":
        yield from _check_count(recipe, data)
        return
    missing = {kind for kind in map(kind_of, data.labels) if not train.get(kind)}
    places = {kind_of(label): place for place, label in reversed([*enumerate(declared)])}
    for kind in [kind for kind in places if kind in missing][: labels.LISTED]:
        message = f'no train row has a word of "{short(kind)}"'
        yield recipe.finding(
            "R308", f"/task/labels/{places[kind]}", message, "add rows of it, or remove it from the labels"
        )


def _check_count(recipe: Recipe, data: DataFacts) -> Iterator[Diagnostic]:
    """Tags that are not declared are few: words are not."""
    num_rows = sum(split.rows.num_rows for split in data.splits)
    if not are_prefixed(data.labels) and len(data.labels) > _FEW_TAGS and 2 * len(data.labels) > num_rows:
        column = recipe.dataset.columns.get("tags", "tags")
        message = f'{len(data.labels):,} tags for {num_rows:,} rows: is "{column}" the right column?'
        hint = "tags repeat; if these are all there are, declare them in /task/labels"
        yield recipe.finding("R317", "/dataset/columns/tags", message, hint)


def _by_kind(data: DataFacts) -> DataFacts:
    """The facts with kinds for labels: whether an entity of two words is in a split says nothing about its kind."""

    def counts(found: Mapping[str, int]) -> Mapping[str, int]:
        kinds: Counter[str] = Counter()
        for tag, count in found.items():
            kinds[kind_of(tag)] += count
        return kinds

    splits = tuple(replace(split, label_counts=counts(split.label_counts)) for split in data.splits)
    return replace(data, splits=splits, labels=tuple(dict.fromkeys(map(kind_of, data.labels))))


def check_facts(recipe: Recipe, model: ModelFacts, data: DataFacts) -> Iterator[Diagnostic]:
    """What names a tag that there is not."""
    return labels.check_found_labels(recipe, "auto", data)


def resolve(recipe: Recipe, model: ModelFacts, data: DataFacts) -> ResolvedTask:
    """The task with its tags, and the head and weights that follow from them."""
    from compiler.recipe import CrossEntropy

    declared: labels.Labels = data.labels if _task(recipe).labels != "auto" else "auto"
    own = replace(model, labels=model.token_labels)
    names, keep_head, choices = labels.choose_labels(declared, own, data)
    loss = recipe.training.loss or CrossEntropy()
    assert isinstance(loss, CrossEntropy), "checked by check_loss"
    return ResolvedTask(
        task=replace(_task(recipe), labels=names),
        loss=labels.weighted(loss, names, data),
        metrics=recipe.metrics or DEFAULT_METRICS,
        keep_head=keep_head,
        choices=choices,
    )


def summary(data: DataFacts) -> str:
    """How many tags there are, and of how many kinds of entities."""
    kinds = {kind_of(tag) for tag in data.labels if tag != OUTSIDE}
    return f"{len(data.labels)} tags" + (f" of {len(kinds)} kinds" if are_prefixed(data.labels) else "")


def _task(recipe: Recipe) -> TokenClassification:
    assert isinstance(recipe.task, TokenClassification), "the module is the task's"
    return recipe.task
