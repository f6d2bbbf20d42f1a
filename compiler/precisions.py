"""How exports are rounded: what is read with each precision, what it may cost, and for which models there is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from compiler import tasks
from compiler.auto import Choice
from compiler.diagnostics import Diagnostic
from compiler.recipe import Export, Mlx, Onnx, Recipe
from compiler.windows import Windowed

if TYPE_CHECKING:
    from compiler.facts import DataFacts, ModelFacts

DROPS: Mapping[int | None, float] = {None: 0.01, 8: 0.02, 4: 0.1}
"""What rounding may cost a metric, by the bits that are left of whole numbers; None: of fractions."""
_BITS: Mapping[str, int | None] = {"fp16": None, "int8": 8, "int8-static": 8, "int4": 4}


def drop_of(export: Export) -> float:
    """How much worse a metric may be after rounding; nothing where nothing is rounded."""
    if export.is_exact:
        return 0.0
    if export.max_metric_drop != "auto":
        return export.max_metric_drop
    return DROPS[export.bits if isinstance(export, Mlx) else _BITS[export.precision]]


def check_precisions(recipe: Recipe) -> Iterator[Diagnostic]:
    """Each key about rounding is read."""
    for index, export in enumerate(recipe.export):
        pointer = f"/export/{index}"
        if export.is_exact and recipe.wrote(f"{pointer}/max_metric_drop") is not None:
            yield recipe.unread(f"{pointer}/max_metric_drop", "where nothing is rounded", "remove it")
        if isinstance(export, Onnx):
            yield from _check_keys(recipe, export, pointer)


def _check_keys(recipe: Recipe, export: Onnx, pointer: str) -> Iterator[Diagnostic]:
    key = f"{pointer}/calibration_rows"
    if export.precision != "int8-static" and recipe.wrote(key) is not None:
        yield recipe.unread(key, f'with the precision "{export.precision}"', 'write "int8-static", or remove it')
    key = f"{pointer}/block_size"
    blocks = export.precision == "int4" or (export.precision == "int8" and tasks.module_of(recipe.task).WRITES)
    if not blocks and recipe.wrote(key) is not None:
        yield recipe.unread(key, f'with the precision "{export.precision}"', 'write "int4", or remove it')


def precision_choices(recipe: Recipe) -> Iterator[Choice]:
    """What each rounding may cost, where the recipe leaves it open."""
    for index, export in enumerate(recipe.export):
        if not export.is_exact and export.max_metric_drop == "auto":
            bits = export.bits if isinstance(export, Mlx) else _BITS[export.precision]
            reason = f"usual for weights in {f'{bits} bits' if bits else 'half precision'}; more fails the gate"
            yield Choice(pointer=f"/export/{index}/max_metric_drop", value=drop_of(export), reason=reason)


def check_static(recipe: Recipe, model: ModelFacts) -> Iterator[Diagnostic]:
    """Ranges are seen on rows that a graph answers at once, not token by token through a cache."""
    for index, export in enumerate(recipe.export):
        if isinstance(export, Onnx) and export.precision == "int8-static" and keeps_cache(recipe, model):
            message = f"int8-static is not for what writes token after token, as {model.model_type} does"
            yield recipe.finding("R245", f"/export/{index}/precision", message, 'write "int8": weights alone in 8 bits')


def check_calibration(recipe: Recipe, data: DataFacts) -> Iterator[Diagnostic]:
    """There are as many train rows as int8-static is to see. Of long rows it sees windows, of which there are more."""
    total = data.num_rows("train")
    for index, export in enumerate(recipe.export):
        pointer = f"/export/{index}/calibration_rows"
        if not isinstance(export, Onnx) or export.calibration_rows <= total or isinstance(recipe.task, Windowed):
            continue
        if recipe.wrote(pointer) is not None:
            message = f"ranges are to be seen on {export.calibration_rows:,} train rows, and there are {total:,}"
            yield recipe.finding("R254", pointer, message, f"all are taken; write at most {total}", severity="warning")


def keeps_cache(recipe: Recipe, model: ModelFacts) -> bool:
    """Whether the model runs token after token for the task: as a decoder that is not given a head of labels."""
    first = tasks.module_of(recipe.task).ARCHITECTURES[0]
    return model.architecture == first and first in ("decoder", "encoder-decoder")
