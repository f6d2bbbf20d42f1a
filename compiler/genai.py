"""Which exporter writes the graph of a decoder: onnxruntime-genai's builder, where it is known to be right; and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from compiler import methods, tasks
from compiler.auto import Choice
from compiler.diagnostics import Diagnostic
from compiler.methods import LoRA
from compiler.precisions import keeps_cache
from compiler.recipe import Export, Onnx

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe
    from compiler.tasks import Task

RELEASE = "onnxruntime-genai 0.18"
OPSET = 22
"""The operator set that the release writes: it takes no other."""
_DEFAULT_ROPE = frozenset(["default"])
ROPE: Mapping[str, frozenset[str]] = {
    "gemma": _DEFAULT_ROPE,
    "gemma2": _DEFAULT_ROPE,
    "granite": _DEFAULT_ROPE,
    "llama": _DEFAULT_ROPE | {"llama3"},
    "mistral": _DEFAULT_ROPE,
    "phi3": _DEFAULT_ROPE,
    "qwen2": _DEFAULT_ROPE,
    "qwen3": _DEFAULT_ROPE,
}
"""The model types that the release's builder knows (onnxruntime_genai/models/builder.py) and whose graphs our tests
find equal to transformers', each with the rotary embeddings that were. It knows Gemma 3, SmolLM3, OLMo, Phi and
Nemotron as well: it stopped with an error on the first two, and the graphs of the others gave other logits."""
HEAD_MULTIPLE = 16
"""GroupQueryAttention turns heads whose size is a multiple of this."""
_TRANSFORMERS = '"transformers"'
_UNWRITTEN = "the builder of onnxruntime-genai can't write this model: {}"


def check_exporter(recipe: Recipe) -> Iterator[Diagnostic]:
    """The builder is named for a recipe that leaves a decoder, and with the operator set that it writes."""
    for index, _ in _named(recipe):
        if reason := _unfit(recipe):
            yield _finding(recipe, index, reason)


def check_exported(recipe: Recipe, model: ModelFacts) -> Iterator[Diagnostic]:
    """The builder is named for a model that it can hold."""
    for index, export in _named(recipe):
        if not _unfit(recipe) and (reason := _unheld(export, model)):
            yield _finding(recipe, index, reason)


def check_adapter(recipe: Recipe) -> Iterator[Diagnostic]:
    """An adapter is left beside its graph where the builder writes both, of a method whose updates it knows."""
    for index, export in _separate(recipe):
        if found := _unlike(recipe, export):
            yield _kept(recipe, index, found)
        elif export.exporter == "auto" and (found := _unfit(recipe)):
            yield _kept(recipe, index, _UNWRITTEN.format(found))


def check_adapted(recipe: Recipe, model: ModelFacts) -> Iterator[Diagnostic]:
    """An adapter is left beside the graph of a model that the builder can hold."""
    for index, export in _separate(recipe):
        if _unlike(recipe, export) or _unfit(recipe) or export.exporter != "auto":
            continue  # that is a finding already, or will be that the builder was named
        if reason := _unheld(export, model):
            yield _kept(recipe, index, _UNWRITTEN.format(reason))


def _separate(recipe: Recipe) -> Iterator[tuple[int, Onnx]]:
    """The exports that leave the adapter beside the graph, with their numbers."""
    for index, export in enumerate(recipe.export):
        if isinstance(export, Onnx) and export.adapter == "separate":
            yield index, export


def _kept(recipe: Recipe, index: int, reason: str) -> Diagnostic:
    message = f"the adapter can't stay beside the graph: {reason}"
    return recipe.finding("R242", f"/export/{index}/adapter", message, 'write "merged", or leave it out')


def _unlike(recipe: Recipe, export: Onnx) -> str:
    """Why no adapter of a recipe can stay beside its graph; nothing where one can."""
    if not isinstance(recipe.method, LoRA):
        return f'the method "{recipe.method.type}" leaves no plain low-rank updates, as "lora" does'
    if recipe.method.modules_to_save:
        return "modules_to_save are trained in full, and the file holds low-rank updates alone"
    if export.exporter == "transformers":
        return 'the exporter "transformers" writes none'
    if not export.is_exact:
        return f'it is written in fp32, and the precision is "{export.precision}"'
    return ""


def _named(recipe: Recipe) -> Iterator[tuple[int, Onnx]]:
    """The exports that name the builder, with their numbers."""
    for index, export in enumerate(recipe.export):
        if isinstance(export, Onnx) and export.exporter == "genai":
            yield index, export


def _finding(recipe: Recipe, index: int, reason: str) -> Diagnostic:
    message = _UNWRITTEN.format(reason)
    return recipe.finding("R241", f"/export/{index}/exporter", message, f"write {_TRANSFORMERS}, or leave it out")


def settled_export(export: Export, recipe: Recipe, model: ModelFacts) -> Export:
    """An export whose exporter and operator set are chosen."""
    return _settled(export, model, _unfit(recipe))


def settled_alone(export: Export, task: Task, model: ModelFacts) -> Export:
    """Likewise of a model that is exported as it is, for a task."""
    return _settled(export, model, _unfit_task(task))


def _settled(export: Export, model: ModelFacts, unfit: str) -> Export:
    if not isinstance(export, Onnx):
        return export
    builds = export.exporter == "genai" or (export.exporter == "auto" and not (unfit or _unheld(export, model)))
    opset = OPSET if builds else export.opset
    return replace(export, exporter="genai" if builds else "transformers", opset=opset)


def exporter_choices(recipe: Recipe, model: ModelFacts) -> Iterator[Choice]:
    """The exporter of each graph of a decoder that the recipe leaves open, with the reason."""
    for index, export in enumerate(recipe.export):
        if isinstance(export, Onnx) and export.exporter == "auto" and _writes_tokens(recipe, model):
            reason = _reason_against(export, recipe, model)
            found = f"{RELEASE} writes {model.model_type} with grouped-query attention, and our tests find it equal"
            value = "transformers" if reason else "genai"
            yield Choice(pointer=f"/export/{index}/exporter", value=value, reason=reason or found)


def _writes_tokens(recipe: Recipe, model: ModelFacts) -> bool:
    """Whether the exported model is a decoder with a cache."""
    return model.architecture == "decoder" and keeps_cache(recipe, model)


def _reason_against(export: Onnx, recipe: Recipe, model: ModelFacts) -> str:
    return _unfit(recipe) or _unheld(export, model)


def _unfit(recipe: Recipe) -> str:
    """Why no model of a recipe can be written by the builder; nothing where one can."""
    if unfit := _unfit_task(recipe.task):
        return unfit
    method = methods.module_of(recipe.method)
    if method.SAVES == "adapter" and not method.MERGES:
        return f'it has no place for what the method "{recipe.method.type}" adds to the model'
    return ""


def _unfit_task(task: Task) -> str:
    if tasks.module_of(task).ARCHITECTURES[0] != "decoder":
        return f'it writes language models, and the task is "{task.type}"'
    return ""


def _unheld(export: Onnx, model: ModelFacts) -> str:
    """Why a model can't be written by the builder; nothing where it can."""
    if model.architecture != "decoder":
        return f"it writes decoders, and {model.model_type} is none"
    if model.model_type not in ROPE:
        return f"{model.model_type} is none of those that it writes right: {', '.join(sorted(ROPE))}"
    if export.opset not in ("auto", OPSET):
        return f"it writes operator set {OPSET}, and {export.opset} is asked for"
    heads = model.heads
    if heads is None or heads.size % HEAD_MULTIPLE:
        size = "an unknown number of" if heads is None else str(heads.size)
        return f"its attention takes heads of a multiple of {HEAD_MULTIPLE} numbers, and the model's have {size}"
    if heads.rope not in ROPE[model.model_type] or heads.partial:
        return (
            f"its rotary embedding{' of a part of each head' if heads.partial else f' is {heads.rope}'}, untested there"
        )
    return ""
