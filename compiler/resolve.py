"""Recipe -> ResolvedRecipe: defaults, facts and "auto" values are written out, each choice with its reason."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Literal, get_args

from compiler import methods, tasks
from compiler.auto import Auto, Choice
from compiler.balance import Draw, rows_of_epoch
from compiler.checks import asks_for_texts, resolved_export, selectable
from compiler.coreml import check_encoder, coreml_choices
from compiler.diagnostics import Diagnostic, stop_on_error
from compiler.facts import AdapterFacts, DataFacts, ModelFacts, SplitFacts
from compiler.few_shot import auto_few_shot, num_fitting, share
from compiler.functions import function_choices
from compiler.genai import check_adapted, check_exported, exporter_choices, settled_export
from compiler.generation import MOST_EXAMPLES, Generation
from compiler.images import PROCESSOR
from compiler.lengths import NO_TOKENS, auto_length
from compiler.methods import Method, Tuned
from compiler.methods.beginning import choose_head
from compiler.methods.virtual import VirtualTokens
from compiler.metrics import UNRANKED, Metric, name_of
from compiler.metrics.units import settled
from compiler.options import check_rates, check_unfreezing
from compiler.origin import Origin
from compiler.packing import Packing, num_sequences
from compiler.placement import DeviceKind, Target
from compiler.plan import ModelFiles, SplitRows
from compiler.precisions import check_static, precision_choices
from compiler.recipe import AdamW, Excluded, Export, Loss, Optimizer, Oversample, Recipe, Undersample, Verify
from compiler.rounding import check_groups, group_choices
from compiler.tasks import ResolvedTask, Task
from compiler.windows import Windowed, num_windows_of

DEFAULT_EPOCHS = 3
_A = {
    "encoder": "an encoder",
    "decoder": "a decoder",
    "encoder-decoder": "an encoder-decoder",
    "vision": "a vision model",
}
_S = {
    "encoder": "encoders",
    "decoder": "decoders",
    "encoder-decoder": "encoder-decoders",
    "vision": "vision models",
}
_SUCH = {
    "vision": "choose a vision model: vit, resnet, convnext, swin, dinov2, ...",
    "encoder": "choose an encoder: bert, roberta, distilbert, modernbert, ...",
    "decoder": "choose a decoder: llama, qwen3, smollm3, gpt2, ...",
    "encoder-decoder": "choose an encoder-decoder: t5, bart, marian, two encoders saved as an EncoderDecoderModel, ...",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedTraining:
    """A training with nothing left open. Steps count optimizer steps."""

    epochs: int
    num_steps: int
    learning_rate: float
    schedule: Literal["constant", "linear", "cosine"]
    warmup_steps: int
    optimizer: Optimizer
    weight_decay: float
    batch_size: int
    micro_batch_size: int
    gradient_checkpointing: bool
    max_grad_norm: float | None
    max_length: int
    packing: Packing
    draw: Draw
    label_smoothing: float
    loss: Loss
    seed: int
    precision: Literal["fp32", "bf16"]
    evaluate_every: int
    checkpoint_every: int
    keep_best: bool
    patience: int
    min_delta: float
    selection_metric: str
    decay_excludes: tuple[Excluded, ...]
    layer_decay: float
    head_lr_multiplier: float
    unfreeze_every: int  # 0: all is trained from the start
    neftune_alpha: float  # 0: no noise
    ema_decay: float  # 0: no average


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRecipe:
    """A recipe with nothing left open, and the choices that were made."""

    name: str
    origin: Origin
    stage: str = ""  # its name, where the recipe has several
    target: DeviceKind
    task: Task
    columns: Mapping[str, str]
    splits: tuple[SplitRows, ...]
    held_out: Literal["validation", "test"] | None
    model: ModelFiles
    tokenizer: ModelFiles
    adapter: ModelFiles | None  # that the training begins with
    keep_adapter_head: bool  # as it is in the adapter
    keep_head: bool
    method: Method
    tuned: Tuned
    training: ResolvedTraining
    metrics: tuple[Metric, ...]
    exports: tuple[Export, ...]
    verify: Verify
    generation: Generation | None  # None where the task writes no text
    choices: tuple[Choice, ...]


def _origin(recipe: Recipe, model: ModelFacts) -> Origin:
    """What the tuned model's card says of what was there before; of a folder its name, not where it lies."""
    return Origin(
        description=recipe.description,
        base_model=model.id if model.on_hub else PurePath(model.id).name,
        on_hub=model.on_hub,
        licence=model.licence,
        datasets=(recipe.dataset.id,) if recipe.dataset.id else (),
    )


def resolve(recipe: Recipe, model: ModelFacts, data: DataFacts, target: Target) -> ResolvedRecipe:
    """The recipe with every open value chosen. Raises RecipeError where model and recipe don't fit."""
    stop_on_error(check_facts(recipe, model, data))
    method, method_choices = methods.module_of(recipe.method).resolve(recipe.method, model)
    task = tasks.module_of(recipe.task).resolve(recipe, model, data)
    training, training_choices = _training(recipe, model, data, task, target)
    metrics, metric_choices = settled(task.metrics, data.references)
    generation, generation_choices = _generation(recipe, model, data)
    keep_adapter_head, head_choices = _adapter_head(model.adapter, task.task)
    own_files = {name: digest for name, digest in model.files.items() if not name.endswith(".safetensors")}
    return ResolvedRecipe(
        name=recipe.name,
        origin=_origin(recipe, model),
        target=target.kind,
        task=task.task,
        columns=tasks.columns_of(recipe.task, recipe.dataset.columns),
        splits=data.split_rows,
        held_out="test" if recipe.dataset.test else "validation" if recipe.dataset.validation else None,
        model=ModelFiles(id=model.id, revision=model.revision, files=model.files),
        adapter=None if model.adapter is None else _adapter_files(model.adapter),
        keep_adapter_head=keep_adapter_head,
        tokenizer=ModelFiles(id=model.id, revision=model.revision, files=own_files),
        keep_head=task.keep_head,
        method=method,
        tuned=methods.module_of(method).tuned(method, model),
        training=training,
        metrics=metrics,
        exports=tuple(resolved_export(settled_export(export, recipe, model)) for export in recipe.export),
        verify=recipe.verify,
        generation=generation,
        choices=(
            *task.choices,
            *head_choices,
            *method_choices,
            *training_choices,
            *metric_choices,
            *generation_choices,
            *group_choices(recipe, model),
            *exporter_choices(recipe, model),
            *function_choices(recipe, task.task, training.max_length, generation),
            *precision_choices(recipe),
            *coreml_choices(recipe),
        ),
    )


def _adapter_head(adapter: AdapterFacts | None, task: Task) -> tuple[bool, tuple[Choice, ...]]:
    return (True, ()) if adapter is None else choose_head(adapter, tasks.head_names(task))


def _adapter_files(adapter: AdapterFacts) -> ModelFiles:
    return ModelFiles(id=adapter.id, revision=None, files=adapter.files)


def check_facts(recipe: Recipe, model: ModelFacts, data: DataFacts) -> Iterator[Diagnostic]:
    """What does not fit between the recipe, the model and the rows."""
    yield from check_model(recipe, model)
    yield from tasks.module_of(recipe.task).check_facts(recipe, model, data)
    yield from check_warmup(recipe, model, data)
    per_epoch = _steps_per_epoch(recipe, model, data)
    yield from check_unfreezing(recipe, per_epoch, _num_steps(recipe, per_epoch))
    yield from check_few_shot(recipe, model, data)
    yield from check_groups(recipe, model)
    yield from check_exported(recipe, model)
    yield from check_adapted(recipe, model)
    yield from check_static(recipe, model)
    yield from check_encoder(recipe, model)


def check_model(recipe: Recipe, model: ModelFacts) -> Iterator[Diagnostic]:
    """The method fits the model, and rows fit its positions."""
    yield from methods.module_of(recipe.method).check(recipe, recipe.method, model)
    yield from check_rates(recipe, model)
    if recipe.training.packing is True and not model.packs:
        message = f"the attention of {model.model_type} does not keep packed rows apart"
        if isinstance(recipe.method, VirtualTokens):
            message = f'the method "{recipe.method.type}" has virtual tokens before each row, which rows can\'t share'
        yield recipe.finding("R220", "/training/packing", message, "leave it out: each row is a sequence of its own")
    known = tasks.module_of(recipe.task).ARCHITECTURES
    if model.architecture in known:
        yield from check_reader(recipe, model)
    else:
        tuned = " and ".join(_S[each] for each in known)
        message = f"the model is {_A[model.architecture]} ({model.model_type}), and the task tunes {tuned}"
        yield recipe.finding("R410", "/model/id", message, _SUCH[known[0]])
    length = recipe.training.max_length
    if length != "auto" and model.max_positions and length > model.max_positions:
        message = f"the model takes at most {model.max_positions} tokens, max_length is {length}"
        yield recipe.finding("R408", "/training/max_length", message, f"at most {model.max_positions}")


def check_reader(recipe: Recipe, model: ModelFacts) -> Iterator[Diagnostic]:
    """The model has what rows are read with."""
    if tasks.reads(recipe.task) == "text" and not model.has_tokenizer:
        message = "the model has no tokenizer.json, which rows are read with"
        hint = "save it with a fast tokenizer: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        yield recipe.finding("R407", "/model/id", message, hint)
    if tasks.reads(recipe.task) == "image" and model.processor_file is None:
        message = f"the model has no {PROCESSOR}, which images are read with"
        hint = "save it beside the model: AutoImageProcessor.from_pretrained(...).save_pretrained(...)"
        yield recipe.finding("R407", "/model/id", message, hint)


def check_warmup(recipe: Recipe, model: ModelFacts, data: DataFacts) -> Iterator[Diagnostic]:
    """The warm-up ends before the training does."""
    warmup, steps = recipe.training.schedule.warmup_steps, _num_steps(recipe, _steps_per_epoch(recipe, model, data))
    if warmup != "auto" and warmup >= steps:
        message = f"the warm-up takes {warmup} steps, the whole training {steps}"
        yield recipe.finding("R212", "/training/schedule/warmup_steps", message, f"at most {steps - 1}")


def check_few_shot(recipe: Recipe, model: ModelFacts, data: DataFacts) -> Iterator[Diagnostic]:
    """As many solved rows as the recipe says can stand before a prompt."""
    count, train, pointer = recipe.generation.few_shot, data.split("train"), "/generation/few_shot"
    if count == "auto" or not count or train is None:
        return
    if not tasks.takes_examples(recipe.task):
        message = "the chat template does not take a question after one that was answered"
        yield recipe.finding("R411", pointer, message, "set it to 0, or choose another template")
        return
    most = share(recipe.generation.room(model.max_positions), _length(recipe, model, data), count)
    fitting = num_fitting(train, most)
    if fitting < count:
        message = f"a prompt leaves room for {count} solved rows of {most:,} tokens; train rows that short: {fitting:,}"
        yield recipe.finding(
            "R408", pointer, message, f'at most {most_that_fit(recipe, model, data, train)}, or "auto"'
        )


def most_that_fit(recipe: Recipe, model: ModelFacts, data: DataFacts, train: SplitFacts) -> int:
    """How many solved rows can stand before a prompt: the most for which as many train rows are short enough."""
    room, length = recipe.generation.room(model.max_positions), _length(recipe, model, data)
    counts = range(MOST_EXAMPLES, 0, -1)
    return next((count for count in counts if num_fitting(train, share(room, length, count)) >= count), 0)


def _packing(recipe: Recipe, model: ModelFacts) -> Packing:
    wanted = recipe.training.packing is not False and model.packs
    return tasks.module_of(recipe.task).PACKING if wanted else "none"


def _draw(recipe: Recipe) -> Draw:
    """Which of the train rows make up an epoch."""
    match recipe.training.balance:
        case Oversample():
            return "oversample"
        case Undersample():
            return "undersample"
        case _:
            return "every"


def _steps_per_epoch(recipe: Recipe, model: ModelFacts, data: DataFacts) -> int:
    train, packing = data.split("train"), _packing(recipe, model)
    if train is not None and (draw := _draw(recipe)) != "every":
        return max(1, math.ceil(rows_of_epoch(draw, train.label_counts.values()) / recipe.training.batch_size))
    windowed = isinstance(recipe.task, Windowed)
    if train is None or train.lengths is None or (packing == "none" and not windowed):
        return max(1, math.ceil(data.num_rows("train") / recipe.training.batch_size))
    capacity = _length(recipe, model, data)
    if isinstance(recipe.task, Windowed):
        count = num_windows_of(train.lengths, capacity, recipe.task.window_step(capacity))
        return max(1, math.ceil(count / recipe.training.batch_size))
    lengths = [length for length, count in enumerate(train.lengths) for _ in range(count)]
    return max(1, math.ceil(num_sequences(packing, lengths, capacity) / recipe.training.batch_size))


def _num_steps(recipe: Recipe, per_epoch: int) -> int:
    if recipe.training.max_steps is not None:
        return recipe.training.max_steps
    return (recipe.training.epochs or DEFAULT_EPOCHS) * per_epoch


def _training(
    recipe: Recipe, model: ModelFacts, data: DataFacts, task: ResolvedTask, target: Target
) -> tuple[ResolvedTraining, list[Choice]]:
    chosen = _Choices()
    training = recipe.training
    per_epoch = _steps_per_epoch(recipe, model, data)
    num_steps = _num_steps(recipe, per_epoch)
    rate = methods.module_of(recipe.method).LEARNING_RATE
    has_validation = recipe.dataset.validation is not None
    stopping = training.early_stopping
    adamw = isinstance(training.optimizer, AdamW)
    return (
        ResolvedTraining(
            epochs=math.ceil(num_steps / per_epoch),
            num_steps=num_steps,
            learning_rate=chosen.number("/training/learning_rate", training.learning_rate, rate.value, rate.reason),
            schedule=training.schedule.type,
            warmup_steps=chosen.whole(
                "/training/schedule/warmup_steps",
                training.schedule.warmup_steps,
                min(math.ceil(num_steps / 10), num_steps - 1),
                f"a tenth of {num_steps} steps",
            ),
            optimizer=training.optimizer,
            weight_decay=chosen.number(
                "/training/weight_decay",
                training.weight_decay,
                0.01 if adamw else 0.0,
                f"usual for {training.optimizer.type}",
            ),
            batch_size=training.batch_size,
            micro_batch_size=training.batch_size if training.micro_batch_size == "auto" else training.micro_batch_size,
            gradient_checkpointing=training.gradient_checkpointing,
            max_grad_norm=training.max_grad_norm,
            max_length=_max_length(recipe, model, data, chosen),
            packing=chosen.packing(training.packing, _packing(recipe, model)),
            draw=_draw(recipe),
            label_smoothing=training.label_smoothing,
            loss=task.loss,
            seed=training.seed,
            precision=_precision(recipe, target, chosen),
            evaluate_every=_cadence(training.evaluate_every, per_epoch) if has_validation else 0,
            checkpoint_every=_cadence(training.checkpoint_every, per_epoch),
            keep_best=_keep_best(recipe, chosen),
            patience=stopping.patience if stopping else 0,
            min_delta=stopping.min_delta if stopping else 0.0,
            selection_metric=_selection_metric(recipe, task.metrics),
            decay_excludes=tuple(kind for kind in get_args(Excluded) if kind in training.decay_excludes),
            layer_decay=training.layer_decay,
            head_lr_multiplier=training.head_lr_multiplier,
            unfreeze_every=_cadence(training.unfreeze_every, per_epoch) if training.unfreeze_every else 0,
            neftune_alpha=training.neftune_alpha or 0.0,
            ema_decay=training.ema_decay or 0.0,
        ),
        chosen.made,
    )


class _Choices:
    """Collects what was chosen for values that were left open."""

    def __init__(self) -> None:
        self.made: list[Choice] = []

    def number(self, pointer: str, written: float | Literal["auto"], value: float, reason: str) -> float:
        if written != "auto":
            return float(written)
        self.made.append(Choice(pointer=pointer, value=value, reason=reason))
        return value

    def whole(self, pointer: str, written: int | Literal["auto"], value: int, reason: str) -> int:
        if written != "auto":
            return written
        self.made.append(Choice(pointer=pointer, value=value, reason=reason))
        return value

    def packing(self, written: bool | Literal["auto"], value: Packing) -> Packing:
        if written == "auto" and value != "none":
            reason = "rows differ in length, and attention can be kept within each"
            self.made.append(Choice(pointer="/training/packing", value=value, reason=reason))
        return value


def _length(recipe: Recipe, model: ModelFacts, data: DataFacts) -> int:
    written = recipe.training.max_length
    return auto_length(model, data).value if written == "auto" else written


def _generation(recipe: Recipe, model: ModelFacts, data: DataFacts) -> tuple[Generation | None, tuple[Choice, ...]]:
    """How texts are written, where the task writes some, and how many solved rows stand before a prompt."""
    if not tasks.module_of(recipe.task).WRITES:
        return None, ()
    if recipe.generation.few_shot != "auto":
        return recipe.generation, ()
    if tasks.module_of(recipe.task).ARCHITECTURES != ("decoder",) or not asks_for_texts(recipe):
        return replace(recipe.generation, few_shot=0), ()
    found = _few_shot(recipe, model, data)
    choice = Choice(pointer="/generation/few_shot", value=found.value, reason=found.reason)
    return replace(recipe.generation, few_shot=found.value), (choice,)


def _few_shot(recipe: Recipe, model: ModelFacts, data: DataFacts) -> Auto[int]:
    train = data.split("train")
    assert train is not None, "there are rows to train on"
    if not tasks.takes_examples(recipe.task):
        return Auto(0, "the chat template does not take a question after one that was answered")
    return auto_few_shot(train, recipe.generation.room(model.max_positions), _length(recipe, model, data))


def _max_length(recipe: Recipe, model: ModelFacts, data: DataFacts, chosen: _Choices) -> int:
    if tasks.reads(recipe.task) == "image":
        return NO_TOKENS
    length = auto_length(model, data)
    return chosen.whole("/training/max_length", recipe.training.max_length, length.value, length.reason)


def _precision(recipe: Recipe, target: Target, chosen: _Choices) -> Literal["fp32", "bf16"]:
    if recipe.training.precision != "auto":
        return recipe.training.precision
    precision: Literal["fp32", "bf16"] = "bf16" if target.kind == "cuda" else "fp32"
    reason = f"the usual precision of the target {target.kind}"
    chosen.made.append(Choice(pointer="/training/precision", value=precision, reason=reason))
    return precision


def _cadence(every: int | Literal["epoch"], per_epoch: int) -> int:
    return per_epoch if every == "epoch" else every


def _keep_best(recipe: Recipe, chosen: _Choices) -> bool:
    if recipe.training.keep != "auto":
        return recipe.training.keep == "best"
    has_validation = recipe.dataset.validation is not None
    reason = "validation rows tell which is best" if has_validation else "no validation rows tell which is best"
    chosen.made.append(Choice(pointer="/training/keep", value="best" if has_validation else "last", reason=reason))
    return has_validation


def _selection_metric(recipe: Recipe, metrics: tuple[Metric, ...]) -> str:
    stopping = recipe.training.early_stopping
    wanted = stopping.metric if stopping else "auto"
    if wanted == "auto":
        written = tasks.module_of(recipe.task).WRITTEN
        ranked = (metric for metric in metrics if metric.type not in written)
        return next((name for metric in ranked if (name := name_of(metric)) not in UNRANKED), "loss")
    if wanted == "loss" or wanted in (name_of(m) for m in metrics):
        return wanted
    assert wanted in selectable(recipe), "checked by check_selection"
    [found] = [name_of(m) for m in metrics if m.type == wanted]
    return found
