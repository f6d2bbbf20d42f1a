"""What is known about a recipe's model and rows: the values, and where they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from compiler import weights
from compiler.diagnostics import Diagnostic, Place, RecipeError, errors, in_order, stop_on_error
from compiler.origin import NO_LICENCE, Licence

if TYPE_CHECKING:
    from compiler.hub import Sources
    from compiler.plan import SplitRows
    from compiler.recipe import Recipe
    from compiler.scripts import Tokenization
    from compiler.tasks import Task
    from compiler.tasks.interface import Architecture

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFacts:
    """A PEFT adapter that a training begins with, from its adapter_config.json and the header of its weights."""

    id: str  # a path from the recipe's folder
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)  # of its weights, by their names in the file
    files: Mapping[str, str]  # name -> sha256
    labels: tuple[str, ...] | None = None  # of its head in order; None where no config.json beside it says

    @property
    def has_head(self) -> bool:
        """Whether it brings a head beside what it tunes."""
        return any(map(weights.is_in_head, self.shapes))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFacts:
    """The heads of a model's attention, from its config.json."""

    size: int  # numbers of a head
    rope: str = "default"  # how positions turn them
    partial: bool = False  # whether positions turn only a part of each


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A pretrained model, from its config.json and the headers of its weights."""

    id: str  # a hub id, or a path from the recipe's folder
    revision: str | None  # the commit; None for paths and mirrors
    model_type: str
    architectures: tuple[str, ...]  # that its weights are of
    num_layers: int
    hidden_size: int
    vocab_size: int
    max_positions: int | None  # tokens that a row can have; None without a limit
    num_parameters: int | None  # None where its shapes are not known
    dtype: str  # of most parameters: float32, bfloat16
    shapes: Mapping[str, tuple[int, ...]]  # of each weight, by its name in the files; empty where they are not known
    labels: tuple[str, ...] | None  # of its own classification head, in order
    files: Mapping[str, str]  # name -> sha256
    has_tokenizer: bool  # a tokenizer.json
    batch_norms: tuple[str, ...] = ()  # modules that normalise over batches, by their names in the files
    token_labels: tuple[str, ...] | None = None  # of its own head for each token, in order
    architecture: Architecture = "encoder"
    max_target_positions: int | None = None  # tokens that an encoder-decoder can write; None without a limit
    packs: bool = False  # whether its attention keeps packed rows apart
    padding: int | None = 0  # the token that fills rows up, where config.json names one
    heads: HeadFacts | None = None  # None where config.json does not say how many there are
    adapter: AdapterFacts | None = None  # that the recipe's method begins with
    on_hub: bool = False  # whether its id is one of the hub
    licence: Licence = NO_LICENCE  # as its own files say it
    tokenizer_file: Path | None = field(default=None, compare=False, repr=False)  # on this machine
    processor_file: Path | None = field(default=None, compare=False, repr=False)  # of images, on this machine

    @property
    def has_shapes(self) -> bool:
        """Whether the shapes of its weights are known: of weights that are drawn anew they may not be."""
        return self.num_parameters is not None

    @property
    def linear_modules(self) -> tuple[str, ...]:
        """Modules with a matrix, by their names in the weight files; without embeddings and heads."""
        return weights.linear_modules(self.shapes)

    @property
    def norm_modules(self) -> tuple[str, ...]:
        """Modules that normalise single rows, by their names in the weight files; without heads."""
        return weights.norm_modules(self.shapes, self.batch_norms)

    def sides(self, name: str) -> tuple[int, int]:
        """The outputs and the inputs of a linear module."""
        first, second = self.shapes[f"{name}.weight"]
        return (second, first) if self.model_type in weights.TRANSPOSED else (first, second)

    @property
    def linear_inputs(self) -> Mapping[str, int]:
        """The inputs of each linear module."""
        return {name: self.sides(name)[1] for name in self.linear_modules}

    @property
    def head_has_bias(self) -> bool:
        """Whether a task head of this architecture has a bias."""
        return self.architecture == "encoder"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueFacts:
    """How the numbers lie that the rows of a split have as their answers."""

    mean: float
    deviation: float  # standard deviation
    minimum: float
    maximum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFacts:
    """The rows of one split."""

    rows: SplitRows
    label_counts: Mapping[str, int]  # empty where the answers are no labels
    lengths: tuple[int, ...] | None  # lengths[n]: how many rows have n tokens; None without a tokenizer
    values: tuple[ValueFacts, ...] = ()  # of each number that a row is answered with; none where it is with others
    target_lengths: tuple[int, ...] | None = None  # of texts to write, as of rows; None where there are none
    digests: bytes = field(default=b"", compare=False, repr=False)  # of the rows' texts or images, 8 each

    def num_in(self, other: SplitFacts) -> int:
        """How many rows have a text or an image that a row of another split has."""
        import numpy as np

        own, theirs = (np.frombuffer(split.digests, np.uint64) for split in (self, other))
        return int(np.isin(own, theirs).sum())

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row, special tokens included; 0 when they were not counted."""
        return len(self.lengths) - 1 if self.lengths else 0

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows; 0 when they were not counted."""
        return sum(length * count for length, count in enumerate(self.lengths or ()))

    def rows_over(self, length: int) -> int:
        """How many rows have more tokens than `length`."""
        return sum((self.lengths or ())[length + 1 :])

    @property
    def longest_target(self) -> int:
        """Tokens of the longest text to write; 0 when there are none, or they were not counted."""
        return len(self.target_lengths) - 1 if self.target_lengths else 0

    @property
    def num_target_tokens(self) -> int:
        """Tokens of all texts to write."""
        return sum(length * count for length, count in enumerate(self.target_lengths or ()))

    def targets_over(self, length: int) -> int:
        """How many texts to write have more tokens than `length`."""
        return sum((self.target_lengths or ())[length + 1 :])


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlace:
    """Where a row stands: its line (from 1; 0 in a file without lines), and its number in the file (from 0)."""

    file: str
    line: int
    row: int

    @property
    def at(self) -> Place:
        """The row's line, or else the beginning of its file."""
        return Place(file=self.file, line=max(self.line, 1))

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else f"{self.file} row {self.row}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Rows of a split whose text or image stands in train as well (for train: in an earlier row)."""

    split: SplitName
    num_rows: int
    first: tuple[tuple[RowPlace, RowPlace], ...]  # the first few: (the row, its twin in train)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """The rows of a recipe."""

    splits: tuple[SplitFacts, ...]
    labels: tuple[str, ...]  # as declared, or else those found, sorted; none where the answers are no labels
    overlaps: tuple[Overlap, ...] = ()
    references: Tokenization | None = None  # how BLEU parts the texts of held-out rows; None where nothing measures any

    @property
    def split_rows(self) -> tuple[SplitRows, ...]:
        """The rows of each split as the plan names them."""
        return tuple(split.rows for split in self.splits)

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row of all splits; 0 when they were not counted."""
        return max((split.longest_row for split in self.splits), default=0)

    @property
    def longest_target(self) -> int:
        """Tokens of the longest text to write; 0 when there are none, or they were not counted."""
        return max((split.longest_target for split in self.splits), default=0)

    def split(self, name: SplitName) -> SplitFacts | None:
        """A split by its name, or None when the recipe has none of that name."""
        return next((split for split in self.splits if split.rows.split == name), None)

    def num_rows(self, name: SplitName) -> int:
        """How many rows a split has."""
        split = self.split(name)
        return split.rows.num_rows if split else 0

    def label_counts(self, name: SplitName) -> Mapping[str, int]:
        """How many rows of a split have each label."""
        split = self.split(name)
        return split.label_counts if split else {}

    def values(self, name: SplitName) -> tuple[ValueFacts, ...]:
        """How each number lies that a split's rows have as their answers; nothing where these are no numbers."""
        split = self.split(name)
        return split.values if split else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was found, with the warnings and notes about it."""

    task: Task  # the recipe's, bound to the model's files
    model: ModelFacts
    data: DataFacts
    findings: tuple[Diagnostic, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What stages leave to the next one: a model, and the tasks that it was tuned for, in order."""

    model: ModelFacts
    tasks: tuple[Task, ...]


class FactSource(Protocol):
    """Where facts come from."""

    def gather(self, recipe: Recipe, before: Left | None = None) -> Facts:
        """The facts of a recipe, or of a stage that starts from a model which stages before it left.

        Raises RecipeError with every finding about model and data.
        """


def check_revision(recipe: Recipe, model: ModelFacts) -> Iterator[Diagnostic]:
    """A mirror folder has one state of a model: a pinned revision can't be looked up in it."""
    if recipe.model.revision is not None and model.revision is None:
        message = f'the mirror is taken as it is: it does not say whether it is "{recipe.model.revision}"'
        hint = "the plan pins the files by their hashes all the same"
        yield recipe.finding("R202", "/model/revision", message, hint, severity="warning", key=True)


def bound(recipe: Recipe, model: ModelFacts, before: tuple[Task, ...] = ()) -> Recipe:
    """The recipe, its task with what it takes from the model's files, and from tasks before. Raises RecipeError."""
    from compiler import tasks

    file = model.processor_file if tasks.reads(recipe.task) == "image" else model.tokenizer_file
    if file is None:
        return recipe
    try:
        return replace(recipe, task=tasks.bind(recipe.task, file, before))
    except ValueError as error:
        pointer = "/task/template" if recipe.wrote("/task/template") is not None else "/task"
        hint = "name another model, or say it in /task"
        raise RecipeError([recipe.finding("R411", pointer, str(error), hint)]) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFacts:
    """Facts from files here, in the mirror, in the hub's cache and on the hub.

    `cache`: a folder that remembers hashes and row lengths. `allowed`: folders outside of the project that a recipe may
    read.
    """

    mirror: Path | None = None
    cache: Path | None = None
    allowed: tuple[Path, ...] = ()
    offline: bool = False
    endpoint: str | None = None
    hub_cache: Path | None = None

    @property
    def sources(self) -> Sources:
        """Where models and hub datasets are looked up."""
        from compiler.hub import Sources

        return Sources(
            mirror=self.mirror,
            cache=self.cache,
            offline=self.offline,
            endpoint=self.endpoint,
            hub_cache=self.hub_cache,
        )

    def model(self, recipe: Recipe) -> ModelFacts:
        """The facts of the recipe's model. Raises RecipeError."""
        from compiler.hub import SourceError, open_model
        from compiler.methods import reads_weights
        from compiler.model_facts import model_facts
        from compiler.project import Project, folder_of, path_from_recipe, recipe_folder

        pointer = "/model/id"
        stop_on_error(Project.of(recipe_folder(recipe), self.allowed).check_model_path(recipe))
        try:
            files = open_model(recipe.model.id, recipe.model.revision, folder_of(recipe, pointer), self.sources)
            facts = model_facts(files, reads_weights=reads_weights(recipe.method))
        except SourceError as error:
            raise RecipeError([recipe.finding(error.code, pointer, error.message, error.hint)]) from None
        if files.source.folder is None or files.source.kind != "path":
            return facts
        if recipe.model.revision is not None:
            message, hint = 'nothing reads "revision" with a folder', "remove it, or name a model of the hub"
            raise RecipeError([recipe.finding("R202", "/model/revision", message, hint, key=True)])
        return replace(facts, id=path_from_recipe(recipe, files.source.folder))

    def adapter(self, recipe: Recipe) -> AdapterFacts | None:
        """The facts of the adapter that the recipe's method begins with, if with one. Raises RecipeError."""
        from compiler.hub import SourceError, open_adapter
        from compiler.model_facts import adapter_facts
        from compiler.project import Project, folder_of, path_from_recipe, recipe_folder

        pointer, written = "/method/from", getattr(recipe.method, "from_", None)
        if written is None:
            return None
        folder, project = folder_of(recipe, pointer), Project.of(recipe_folder(recipe), self.allowed)
        stop_on_error(project.check_path(folder, written, recipe.at(pointer), pointer))
        try:
            place = open_adapter(written, folder, self.sources)
            return adapter_facts(place, path_from_recipe(recipe, place.folder))
        except SourceError as error:
            raise RecipeError([recipe.finding(error.code, pointer, error.message, error.hint)]) from None

    def data(self, recipe: Recipe, model: ModelFacts | None) -> DataFacts:
        """The facts of the recipe's rows; tokens are counted with the model's tokenizer. Raises RecipeError."""
        from compiler.data.survey import survey

        return survey(recipe, model.tokenizer_file if model else None, self.sources, self.allowed)

    def gather(self, recipe: Recipe, before: Left | None = None) -> Facts:
        """The facts of a recipe, or of a stage that starts from a model which stages before it left.

        Raises RecipeError with every finding about model and data.
        """
        from compiler.data.checks import check_data
        from compiler.methods.virtual import beside_rows
        from compiler.templates import TemplateError

        found: list[Diagnostic] = []
        model, data = None, None
        try:
            model = self.model(recipe) if before is None else before.model
            found += check_revision(recipe, model) if before is None else ()
            model = beside_rows(recipe.method, replace(model, adapter=self.adapter(recipe)))
            recipe = bound(recipe, model, () if before is None else before.tasks)
        except RecipeError as error:
            found += error.diagnostics
        try:
            data = self.data(recipe, model)
            found += check_data(recipe, model, data)
        except RecipeError as error:
            found += error.diagnostics
        except TemplateError as error:
            hint = "a template is given the messages of a row; see /task/template in the reference"
            known = any(other.code == "R411" for other in found)  # from binding the task to its template
            found += [] if known else [recipe.finding("R411", "/task/template", str(error), hint)]
        if model is None or data is None or errors(found):
            raise RecipeError(in_order(found))
        return Facts(task=recipe.task, model=model, data=data, findings=in_order(found))
