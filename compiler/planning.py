"""ResolvedRecipe -> Plan: which steps there are, and what each of them is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from compiler import methods, tasks
from compiler.functions import Shapes, is_function, shapes_of
from compiler.generation import Generation
from compiler.images import PROCESSOR
from compiler.lengths import length_grid
from compiler.metrics import LOWER_IS_BETTER, Metric, name_of
from compiler.plan import (
    Evaluate,
    ExportModel,
    Merge,
    ModelFiles,
    Package,
    Plan,
    Prepare,
    Quantize,
    Schedule,
    Selection,
    Step,
    Train,
    VerifyExport,
)
from compiler.precisions import drop_of
from compiler.recipe import Export, Onnx
from compiler.resolve import ResolvedRecipe

_PREPARED_WITH = frozenset({"config.json", "tokenizer.json", PROCESSOR})  # config.json names the padding token


def plan(*stages: ResolvedRecipe) -> Plan:
    """The plan of a resolved recipe, or of the stages of one; equal recipes give equal plans."""
    datasets = tuple(dict.fromkeys(name for stage in stages for name in stage.origin.datasets))
    last = replace(stages[-1], origin=replace(stages[-1].origin, datasets=datasets))
    stages = (*stages[:-1], last)
    choices = tuple(choice for stage in stages for choice in stage.choices)
    return Plan(name=last.name, target=last.target, steps=tuple(_all_steps(stages)), choices=choices)


def _all_steps(stages: tuple[ResolvedRecipe, ...]) -> Iterator[Step]:
    first, *others = stages
    left = [replace(stage, model=_left_by(earlier)) for earlier, stage in zip(stages, others, strict=False)]
    before: str | None = None
    for stage in (first, *left):
        merged = any(not _leaves_adapter(export) for export in stage.exports)
        steps = tuple(_steps(stage, before, merges=merged or stage.stage != stages[-1].stage))
        yield from steps
        before = next(step.id for step in reversed(steps) if isinstance(step, (Train, Merge)))


def _left_by(stage: ResolvedRecipe) -> ModelFiles:
    """The model that a stage leaves, by its name in the run's folder: what is in it, the keys of its steps say."""
    return ModelFiles(id=f"model-{stage.stage}", revision=None, files={})


def _id(kind: str, recipe: ResolvedRecipe) -> str:
    """The id of a step of a stage."""
    return f"{kind}-{recipe.stage}" if recipe.stage else kind


def _steps(recipe: ResolvedRecipe, before: str | None, *, merges: bool) -> Iterator[Step]:
    """The steps of a stage. `before`: the step that left the model which it starts from."""
    yield _prepare(recipe)
    yield _train(recipe, before)
    if recipe.held_out is not None:
        yield _evaluate(recipe, recipe.held_out)
    trained = model_step = _id("train", recipe)
    if methods.module_of(recipe.method).MERGES and merges:
        model_step = _id("merge", recipe)
        yield Merge(id=model_step, stage=recipe.stage, inputs=(trained,), model=recipe.model)
    for index, export in enumerate(recipe.exports):
        assert recipe.held_out is not None, "an export has held-out rows to be verified on"
        suffix = "" if len(recipe.exports) == 1 else f"-{index + 1}"
        exported = trained if _leaves_adapter(export) else model_step
        yield from _export(recipe, recipe.held_out, exported, suffix, export)


def _leaves_adapter(export: Export) -> bool:
    """Whether an export has the adapter beside the graph of its base, not merged."""
    return isinstance(export, Onnx) and export.adapter == "separate"


def _export(
    recipe: ResolvedRecipe, split: Literal["validation", "test"], model_step: str, suffix: str, export: Export
) -> Iterator[Step]:
    """The steps of an export: a graph in float32 is rounded afterwards."""
    rounds = isinstance(export, Onnx) and not export.is_exact
    yield ExportModel(
        id=f"export{suffix}",
        inputs=(model_step,),
        task=recipe.task,
        export=export.whole if isinstance(export, Onnx) and rounds else export,
        model=recipe.model,
        shapes=_shapes(recipe, export),
    )
    written = (f"export{suffix}", *([f"quantize{suffix}"] if rounds else []))
    if isinstance(export, Onnx) and rounds:
        rows = (_id("prepare", recipe),) if export.precision == "int8-static" else ()
        told = replace(export, max_metric_drop="auto")  # not the rounding's
        yield Quantize(id=written[-1], inputs=(written[0], *rows), task=recipe.task, export=told)
    yield _verify(recipe, split, (model_step, *written), f"verify{suffix}", export)
    if _has_bundle(recipe, export):
        yield _package(recipe, model_step, written[-1], suffix)


def _has_bundle(recipe: ResolvedRecipe, export: Export) -> bool:
    """Whether an export is packaged: a folder for mlx-lm has all that its reader needs."""
    return isinstance(export, Onnx) or is_function(export, recipe.task)


def _shapes(recipe: ResolvedRecipe, export: Export) -> Shapes | None:
    if not is_function(export, recipe.task) and export.format != "coreml":
        return None
    return shapes_of(recipe.task, recipe.training.max_length, recipe.generation)


def _prepare(recipe: ResolvedRecipe) -> Prepare:
    read = {name: digest for name, digest in recipe.tokenizer.files.items() if name in _PREPARED_WITH}
    return Prepare(
        id=_id("prepare", recipe),
        stage=recipe.stage,
        task=recipe.task,
        splits=recipe.splits,
        columns=recipe.columns,
        tokenizer=replace(recipe.tokenizer, files=read),
        max_length=recipe.training.max_length,
        packing=recipe.training.packing,
    )


def _train(recipe: ResolvedRecipe, before: str | None) -> Train:
    training = recipe.training
    return Train(
        id=_id("train", recipe),
        stage=recipe.stage,
        inputs=(_id("prepare", recipe), *([before] if before else [])),
        task=recipe.task,
        keep_head=recipe.keep_head,
        model=recipe.model,
        adapter=recipe.adapter,
        keep_adapter_head=recipe.keep_adapter_head,
        method=recipe.method,
        tuned=recipe.tuned,
        loss=training.loss,
        label_smoothing=training.label_smoothing,
        epochs=training.epochs,
        num_steps=training.num_steps,
        batch_size=training.batch_size,
        draw=training.draw,
        packing=training.packing,
        lengths=length_grid(training.max_length),
        learning_rate=training.learning_rate,
        schedule=Schedule(shape=training.schedule, warmup_steps=training.warmup_steps, num_steps=training.num_steps),
        optimizer=training.optimizer,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        seed=training.seed,
        precision=training.precision,
        selection=_selection(recipe),
        metrics=_unwritten(recipe, recipe.metrics),
        evaluate_every=training.evaluate_every,
        checkpoint_every=training.checkpoint_every,
        decay_excludes=training.decay_excludes,
        layer_decay=training.layer_decay,
        head_lr_multiplier=training.head_lr_multiplier,
        unfreeze_every=training.unfreeze_every,
        neftune_alpha=training.neftune_alpha,
        ema_decay=training.ema_decay,
    )


def _selection(recipe: ResolvedRecipe) -> Selection | None:
    training = recipe.training
    if not training.keep_best and training.patience == 0:
        return None
    [positive] = [getattr(m, "positive", "") for m in recipe.metrics if name_of(m) == training.selection_metric] or [""]
    return Selection(
        metric=training.selection_metric,
        positive="" if positive == "auto" else positive,
        greater_is_better=training.selection_metric not in LOWER_IS_BETTER,
        evaluate_every=training.evaluate_every,
        patience=training.patience,
        min_delta=training.min_delta,
        keep_best=training.keep_best,
    )


def _evaluate(recipe: ResolvedRecipe, split: Literal["validation", "test"]) -> Evaluate:
    return Evaluate(
        id=_id("evaluate", recipe),
        stage=recipe.stage,
        inputs=(_id("prepare", recipe), _id("train", recipe)),
        task=recipe.task,
        split=split,
        metrics=recipe.metrics,
        generation=recipe.generation if _unwritten(recipe, recipe.metrics) != recipe.metrics else None,
        baseline_model=recipe.model if recipe.keep_head and methods.reads_weights(recipe.method) else None,
    )


def _verify(
    recipe: ResolvedRecipe, split: Literal["validation", "test"], chain: tuple[str, ...], step_id: str, export: Export
) -> VerifyExport:
    """The gate over the steps of a chain: what has the model, the export, what rounds it."""
    return VerifyExport(
        id=step_id,
        inputs=tuple(dict.fromkeys((_id("prepare", recipe), _id("train", recipe), *chain))),
        task=recipe.task,
        split=split,
        metrics=_unwritten(recipe, recipe.metrics) or _unwritten(recipe, tasks.module_of(recipe.task).DEFAULT_METRICS),
        generation=_greedy(recipe.generation) if _has_bundle(recipe, export) else None,
        rows=recipe.verify.rows or 0,
        tolerance_factor=recipe.verify.tolerance_factor,
        max_excused=recipe.verify.max_excused,
        max_metric_drop=drop_of(export),
        export=export,
        model=recipe.model,
    )


def _package(recipe: ResolvedRecipe, model_step: str, written: str, suffix: str) -> Package:
    return Package(
        id=f"package{suffix}",
        inputs=(_id("prepare", recipe), model_step, _id("evaluate", recipe), written, f"verify{suffix}"),
        name=recipe.name,
        task=recipe.task,
        tokenizer=recipe.tokenizer,
        max_length=recipe.training.max_length,
        columns=recipe.columns,
        generation=recipe.generation and replace(recipe.generation, few_shot=0),
        origin=recipe.origin,
    )


def _unwritten(recipe: ResolvedRecipe, metrics: tuple[Metric, ...]) -> tuple[Metric, ...]:
    """Those of some metrics that are measured without writing texts: between steps, and by the gate."""
    written = tasks.module_of(recipe.task).WRITTEN
    return tuple(metric for metric in metrics if metric.type not in written)


def _greedy(generation: Generation | None) -> Generation | None:
    """How the source writes for the gate, nothing else of it."""
    return generation and Generation(max_new_tokens=generation.max_new_tokens, stop=generation.stop, few_shot=0)
