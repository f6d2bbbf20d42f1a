"""The plan: steps with every parameter explicit, each with a key made of what changes its result and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

from compiler.auto import Choice
from compiler.balance import Draw
from compiler.functions import Shapes
from compiler.generation import Generation
from compiler.methods import Method, Tuned
from compiler.metrics import Metric
from compiler.origin import NO_ORIGIN, Origin
from compiler.packing import Packing
from compiler.recipe import NAME, Excluded, Export, Loss, Onnx, Optimizer
from compiler.tasks import Task
from compiler.typed import About, ShapeError, read, to_json, written_fields

# Raised by hand when the meaning of a kind of step changes, so that old results are not taken for new ones.
SEMANTICS: Mapping[str, int] = {
    "prepare": 2,
    "train": 2,
    "train-together": 1,
    "evaluate": 2,
    "merge": 1,
    "export": 2,
    "quantize": 3,
    "export-together": 2,
    "verify": 3,
    "package": 3,
    "package-together": 2,
}
_NO_KEY: Mapping[str, bool] = {"key": False}
_LATER: Mapping[str, bool] = {"later": True}  # not in plans, nor in keys, where it has its default
_STAGE: Mapping[str, bool] = {"key": False, "later": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file that a step reads: its path from the recipe's folder (not part of a key) and its content."""

    path: str = field(metadata=_NO_KEY)
    format: Literal["jsonl", "json", "csv", "tsv", "parquet", "folder"]
    sha256: str  # of a folder: over the names of its files
    images: str = ""  # sha256 over the images that its rows name; empty where they name none


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRows:
    """The rows of a split: all of its files' rows, or a `fraction` of train's, taken out of it; then at most `rows`."""

    split: Literal["train", "validation", "test"]
    files: tuple[File, ...]
    dataset: str | None = field(metadata=_NO_KEY)  # the hub dataset that the paths belong to
    revision: str | None = field(metadata=_NO_KEY)
    fraction: float  # 0: all rows that no other split takes
    stratify: bool
    seed: int
    rows: int  # 0: all
    num_rows: int  # after all this


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """The pretrained model: where it is looked up (not part of a key) and the sha256 of each file that is read."""

    id: str = field(metadata=_NO_KEY)
    revision: str | None = field(metadata=_NO_KEY)
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Rows -> arrays, one set a split."""

    step: Literal["prepare"] = "prepare"
    id: str = field(default="prepare", metadata=_NO_KEY)
    stage: str = field(default="", metadata=_STAGE)  # that it is of; empty in a recipe without stages
    inputs: tuple[str, ...] = field(default=(), metadata=_NO_KEY)
    task: Task
    splits: tuple[SplitRows, ...]
    columns: Mapping[str, str]
    tokenizer: ModelFiles  # what rows are read with; of a model of images its image processor
    max_length: int  # tokens; 1 where the model reads none
    packing: Packing  # of the train rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The learning rate over the steps: rises in a line over the warm-up, then follows its shape to the last step."""

    shape: Literal["constant", "linear", "cosine"]
    warmup_steps: int
    num_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """How validation rows choose the model. Evaluation cadence is here because it changes the result."""

    metric: str  # a metric's name, or loss
    positive: str = ""  # the class that the metric scores, where it scores one
    greater_is_better: bool
    evaluate_every: int  # steps
    patience: int  # evaluations without a gain before the end; 0: never
    min_delta: float
    keep_best: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Token arrays and a pretrained model -> a tuned one."""

    step: Literal["train"] = "train"
    id: str = field(default="train", metadata=_NO_KEY)
    stage: str = field(default="", metadata=_STAGE)  # that it is of; empty in a recipe without stages
    inputs: tuple[str, ...] = field(default=("prepare",), metadata=_NO_KEY)  # (prepare, what has the model before it)
    task: Task
    keep_head: bool  # the model's own head answers the task
    model: ModelFiles  # of a stage after another: the name of the model that this one left, and no files
    adapter: ModelFiles | None = field(default=None, metadata=_LATER)  # that the training begins with
    keep_adapter_head: bool = field(default=True, metadata=_LATER)  # the adapter's own head answers the task
    method: Method
    tuned: Tuned = field(metadata=_NO_KEY)  # for people: what the method trains below the task's head
    loss: Loss
    label_smoothing: float
    epochs: int
    num_steps: int  # at most; the last epoch may be cut
    batch_size: int  # sequences, where rows are packed
    packing: Packing
    draw: Draw  # which of the train rows make up an epoch
    lengths: tuple[int, ...]  # the lengths in tokens to which batches are padded
    learning_rate: float
    schedule: Schedule
    optimizer: Optimizer
    weight_decay: float
    max_grad_norm: float | None
    seed: int
    precision: Literal["fp32", "bf16"]
    selection: Selection | None
    metrics: tuple[Metric, ...] = field(metadata=_NO_KEY)
    evaluate_every: int = field(metadata=_NO_KEY)  # steps; 0: never
    checkpoint_every: int = field(metadata=_NO_KEY)  # steps
    decay_excludes: tuple[Excluded, ...] = field(default=("vectors",), metadata=_LATER)
    layer_decay: float = field(default=1.0, metadata=_LATER)  # of the rate, from a layer to the one below it
    head_lr_multiplier: float = field(default=1.0, metadata=_LATER)
    unfreeze_every: int = field(default=0, metadata=_LATER)  # steps; 0: all is trained from the start
    neftune_alpha: float = field(default=0.0, metadata=_LATER)  # 0: no noise
    ema_decay: float = field(default=0.0, metadata=_LATER)  # 0: the weights themselves are the model


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTurns:
    """How often one of several tasks has its turn, and how its loss counts."""

    steps: int  # of an epoch
    weight: float  # of its loss
    share: float  # of its loss beside half its log-variance: 1/2 of squared errors, else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTogether:
    """Token arrays of several tasks and a pretrained model -> one with a head for each. Each step is of one task."""

    step: Literal["train-together"] = "train-together"
    id: str = field(default="train", metadata=_NO_KEY)
    inputs: tuple[str, ...] = field(metadata=_NO_KEY)  # the prepare steps, in the order of the parts
    parts: Mapping[str, Train]  # each as it would be trained alone, but for what follows here
    turns: Mapping[str, TaskTurns]
    rotates: bool  # the tasks take turns; else their order is drawn in each epoch
    variance_rate: float  # of the log-variances, which are learnt; 0: none are

    @property
    def first(self) -> Train:
        """The first part: in what is not a task's own, all are alike."""
        return next(iter(self.parts.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """The tuned model's and the untuned baseline's metrics on the held-out rows."""

    step: Literal["evaluate"] = "evaluate"
    id: str = field(default="evaluate", metadata=_NO_KEY)
    stage: str = field(default="", metadata=_STAGE)  # that it is of; empty in a recipe without stages
    inputs: tuple[str, ...] = field(default=("prepare", "train"), metadata=_NO_KEY)
    task: Task
    split: Literal["validation", "test"]
    metrics: tuple[Metric, ...]
    generation: Generation | None  # how texts are written, where a metric is measured on some
    baseline_model: ModelFiles | None  # the model before tuning, where its own head answers the task
    part: str = field(default="", metadata=_LATER)  # of several tasks that were trained together, which


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """An adapter and its base -> one model."""

    step: Literal["merge"] = "merge"
    id: str = field(default="merge", metadata=_NO_KEY)
    stage: str = field(default="", metadata=_STAGE)  # that it is of; empty in a recipe without stages
    inputs: tuple[str, ...] = field(default=("train",), metadata=_NO_KEY)
    model: ModelFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportModel:
    """A model -> the graph of one format."""

    step: Literal["export"] = "export"
    id: str = field(metadata=_NO_KEY)
    inputs: tuple[str, ...] = field(metadata=_NO_KEY)  # (the step that has the model, [train, where it was merged])
    task: Task
    export: Export
    model: ModelFiles
    shapes: Shapes | None = field(default=None, metadata=_LATER)  # of a function for MLX, or a Core ML package


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportTogether:
    """A model of several tasks -> one graph, with an output named after each."""

    step: Literal["export-together"] = "export-together"
    id: str = field(metadata=_NO_KEY)
    inputs: tuple[str, ...] = field(metadata=_NO_KEY)  # (the step that has the model,)
    parts: Mapping[str, ExportModel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantize:
    """A graph in float32 -> one with its weights, or all that is multiplied, in fewer bits."""

    step: Literal["quantize"] = "quantize"
    id: str = field(metadata=_NO_KEY)
    inputs: tuple[str, ...] = field(metadata=_NO_KEY)  # (export, [prepare, where ranges are seen on its rows])
    task: Task
    export: Onnx
    calibration: str = field(default="", metadata=_LATER)  # sha256 of the rows of ranges, where no step prepares them


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyExport:
    """Every edge from the trained model to the exported graph, compared on the held-out rows."""

    step: Literal["verify"] = "verify"
    id: str = field(metadata=_NO_KEY)
    inputs: tuple[str, ...] = field(metadata=_NO_KEY)  # (prepare, train, [merge,] export, [quantize])
    task: Task
    split: Literal["validation", "test"]
    metrics: tuple[Metric, ...]
    rows: int  # 0: all
    tolerance_factor: float
    max_excused: float
    generation: Generation | None  # of the texts that the source writes; None where it writes none
    max_metric_drop: float  # over an edge that rounds; no other may lose anything
    export: Export
    model: ModelFiles
    part: str = field(default="", metadata=_LATER)  # of several tasks that were trained together, which


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """The graph, tokenizer, labels, golden rows and manifest in one folder."""

    step: Literal["package"] = "package"
    id: str = field(metadata=_NO_KEY)
    inputs: tuple[str, ...] = field(
        metadata=_NO_KEY
    )  # (prepare, the step that has the model, evaluate, export or quantize, verify)
    name: str
    task: Task
    tokenizer: ModelFiles  # what rows are read with; of a model of images its image processor
    max_length: int
    columns: Mapping[str, str]
    generation: Generation | None
    origin: Origin = field(default=NO_ORIGIN, metadata=_LATER)  # for the card


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageTogether:
    """The graph and tokenizer of several tasks, and a folder for each with its labels, golden rows and manifest."""

    step: Literal["package-together"] = "package-together"
    id: str = field(metadata=_NO_KEY)
    inputs: tuple[str, ...] = field(metadata=_NO_KEY)  # those of the parts, each once
    parts: Mapping[str, Package]


Step = (
    Prepare
    | Train
    | TrainTogether
    | Evaluate
    | Merge
    | ExportModel
    | ExportTogether
    | Quantize
    | VerifyExport
    | Package
    | PackageTogether
)


def trainings(step: Step) -> tuple[Train, ...]:
    """What a step trains: nothing, or one model; of several tasks that of each."""
    match step:
        case Train():
            return (step,)
        case TrainTogether(parts=parts):
            return tuple(parts.values())
        case _:
            return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps of a recipe in an order in which they can run, and the choices that were made for it."""

    plan: Annotated[Literal[1], About("The version of the plan format.")] = 1
    name: str
    target: Literal["cpu", "cuda", "mps"]
    steps: tuple[Step, ...]
    choices: tuple[Choice, ...]

    def step(self, step_id: str) -> Step:
        """The step with an id."""
        [found] = [step for step in self.steps if step.id == step_id]
        return found

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of its stages in order; one without a name where its recipe has none."""
        of_stages = (Prepare, Train, Evaluate, Merge)
        return tuple(dict.fromkeys(step.stage for step in self.steps if isinstance(step, of_stages))) or ("",)

    def stage_of(self, step: Step) -> str:
        """The name of the stage that a step is of; exports are of the last one."""
        return step.stage if isinstance(step, (Prepare, Train, Evaluate, Merge)) else self.stages[-1]

    def keys(self) -> dict[str, str]:
        """The key of every step by its id: sha256 over its parameters and its inputs' keys."""
        keys: dict[str, str] = {}
        for step in self.steps:
            keys[step.id] = key_of(step, tuple(keys[name] for name in step.inputs))
        return keys

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON; every step carries its key."""
        keys = self.keys()
        value: dict[str, Any] = to_json(self)
        for step in value["steps"]:
            step["key"] = keys[step["id"]]
        return value

    def text(self) -> str:
        """The plan as its file holds it: equal plans give equal bytes."""
        return json.dumps(self.to_json(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(value: Any) -> Plan:
        """The plan in a JSON value. Raises ValueError when it is not one, or when a key does not fit its step."""
        if not isinstance(value, Mapping) or not isinstance(value.get("steps"), list):
            raise ValueError("a plan is an object with a list of steps")
        steps = [dict(step) if isinstance(step, Mapping) else step for step in value["steps"]]
        written = [step.pop("key", None) if isinstance(step, dict) else None for step in steps]
        try:
            plan = read(Plan, {**value, "steps": steps})
        except ShapeError as error:
            raise ValueError(f"{_named(error.pointer, steps)} {error.wrong}") from None
        _check_names(plan)
        _check_paths(plan)
        for (step_id, key), found in zip(plan.keys().items(), written, strict=True):
            if key != found:
                raise ValueError(f"the key of the step {step_id} is not that of its parameters: the plan was edited")
        return plan


def _named(pointer: str, steps: list[Any]) -> str:
    """What a JSON Pointer into a plan points at, in words."""
    match pointer.split("/")[1:]:
        case []:
            return "the plan"
        case ["steps", number, *inside]:
            step = steps[int(number)]
            name = step.get("id", step.get("step", number)) if isinstance(step, dict) else number
            return f"{'/'.join(inside)} of the step {name}" if inside else f"the step {name}"
        case inside:
            return f"{'/'.join(inside)} of the plan"


def _check_names(plan: Plan) -> None:
    """Raises ValueError where a name could not be a folder's, stands twice, or is of a step that comes later."""
    seen: set[str] = set()
    for name in (plan.name, *(step.id for step in plan.steps)):
        if not re.fullmatch(NAME, name):
            raise ValueError(f"{json.dumps(name)} is not a name of letters, digits, dot, dash and underscore")
    for step in plan.steps:
        later = [name for name in step.inputs if name not in seen]
        if later or step.id in seen:
            raise ValueError(f"the step {step.id} " + (f"needs {later[0]} before it" if later else "stands twice"))
        seen.add(step.id)


def _check_paths(plan: Plan) -> None:
    """Raises ValueError where a data file's path does not start from the recipe's folder."""
    for step in plan.steps:
        for file in [file for split in step.splits for file in split.files] if isinstance(step, Prepare) else ():
            if PurePosixPath(file.path).is_absolute() or PureWindowsPath(file.path).is_absolute():
                raise ValueError(
                    f"{json.dumps(file.path)} is an absolute path; a plan's paths start from the recipe's folder"
                )


def key_of(step: Step, input_keys: tuple[str, ...]) -> str:
    """The key of a step: 64 hexadecimal digits."""
    value = {"semantics": SEMANTICS[step.step], "inputs": list(input_keys), "parameters": identity(step)}
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def identity(value: Any) -> Any:
    """The part of a value that changes the result: JSON without the fields marked as outside the key."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = {f.name for f in dataclasses.fields(value) if f.metadata.get("key", True)}
        return {f.name: identity(getattr(value, f.attribute)) for f in written_fields(value) if f.attribute in kept}
    if isinstance(value, tuple):
        return [identity(item) for item in value]
    if isinstance(value, Mapping):
        return {key: identity(item) for key, item in value.items()}
    return value


def changed_steps(before: Plan, after: Plan) -> Iterator[tuple[str, str]]:
    """The steps of `after` that would be done again, each with what differs from `before`."""
    old, new = before.keys(), after.keys()
    for step in after.steps:
        if step.id not in old:
            yield step.id, "new"
        elif old[step.id] != new[step.id]:
            yield step.id, _difference(before.step(step.id), step, old, new)


def _difference(before: Step, after: Step, old: Mapping[str, str], new: Mapping[str, str]) -> str:
    ours, theirs = identity(before), identity(after)
    changed = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    inputs = [name for name in after.inputs if old.get(name) != new[name]]
    return ", ".join([*changed, *(f"input {name}" for name in inputs)])
