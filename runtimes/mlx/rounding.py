"""What rounding weights for MLX leaves of what was tuned."""

from __future__ import annotations

from functools import partial

import mlx.core as mx
import numpy as np

from compiler.recipe import Mlx
from runtimes.errors import RunError
from runtimes.mlx import backend
from runtimes.saved import SavedModel
from runtimes.survival import Floats, Left, survival

TYPES = {"fp32": mx.float32, "bf16": mx.bfloat16, "fp16": mx.float16}


def require_update(export: Mlx, saved: SavedModel) -> Left | None:
    """The part of the update that rounding leaves; None where nothing was changed, or where that is not known.

    Raises RunError E503 when most of it is lost.
    """
    if export.is_exact or saved.before is None:
        return None
    left = survival(backend.changes(saved.before, saved.folder), {"export": partial(_rounded, export)}).get("export")
    if left is not None and left.lost:
        message = f"{left} of what was tuned is left in {export.held}: rounding takes it away or drowns it"
        hint = "export it with more bits or another precision, train longer, or with a higher learning rate"
        raise RunError("E503", message, hint)
    return left


def _rounded(export: Mlx, name: str, values: Floats) -> Floats:
    """A weight as the export has it: a matrix whose inputs the groups divide in a few bits, others cast."""
    array = mx.array(values)
    if export.bits is None or array.ndim != 2 or array.shape[1] % export.group_size:
        return np.array(array.astype(TYPES[export.precision]).astype(mx.float32))
    codes = mx.quantize(array.astype(TYPES[export.precision]), group_size=export.group_size, bits=export.bits)
    whole = mx.dequantize(*codes, group_size=export.group_size, bits=export.bits)
    return np.array(whole.astype(mx.float32))
