"""The Core ML writer: a transformers encoder, or a model of images, becomes `model.mlpackage`.

coremltools reads TorchScript of a module whose attention mask is made by us, outside of transformers' own code, which
it can't read: numbers that are added to what attention weighs, 0 where a token is seen. Weights keep their names, so
that what was converted can be compared with the model, one by one, on any system. Only macOS runs a package.
https://apple.github.io/coremltools/
"""

# Axes: B = rows, T = tokens

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compiler.functions import Shapes
from compiler.tasks import Task
from runtimes import tasks
from runtimes.errors import RunError, first_line
from runtimes.pytorch.inputs import input_names
from runtimes.pytorch.loading import load_saved
from runtimes.pytorch.quiet import quiet
from runtimes.rows.features import TARGETS
from runtimes.saved import SavedModel
from runtimes.tasks import Head

MASK = "attention_mask"
UNSEEN = -1e4
"""Added where a token is not seen: its share of the attention is then zero in float32, and half precision holds it."""
TRACED_ROWS, TRACED_TOKENS = 2, 8
KEPT_APART = {"common::fuse_conv_batchnorm"}
"""Passes of coremltools that are left out: they multiply weights, which then could not be compared with the model's."""
HINT = 'write {"format": "onnx"}, or report it with its config.json'


@dataclass(frozen=True, slots=True)
class Taken:
    """An input of the package: of each token, or of each row in a shape of its own."""

    name: str
    shape: tuple[int, ...]  # of a row; empty where it has as many numbers as tokens

    @property
    def dtype(self) -> type:
        """What it is made of."""
        return np.float32 if self.shape else np.int32


class Wrapped(torch.nn.Module):
    """A model that is given arrays in an order, and gives its results as a tuple."""

    def __init__(self, model: Any, taken: tuple[Taken, ...], head: Head) -> None:
        super().__init__()
        self.model, self.taken, self.head = model, taken, head

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        """The results for a padded batch."""
        given = dict(zip((each.name for each in self.taken), arrays, strict=True))
        if MASK in given:
            given[MASK] = added_mask(given[MASK])
        found = self.model(**given, **self.head.arguments)
        return tuple(getattr(found, name) for name in self.head.results)


def added_mask(mask_BT: Tensor) -> Tensor:
    """[B, 1, 1, T] what is added to the weights of attention: nothing where the mask is one."""
    return (1.0 - mask_BT.float())[:, None, None, :] * UNSEEN


def wrapped(task: Task, saved: SavedModel) -> Wrapped:
    """A saved model as it is converted. Raises SourceError when its files are not a whole model."""
    module = tasks.module_of(task)
    head = module.head(task)
    model = load_saved(saved, head, attention="eager")
    shapes = {column.name: tuple(column.shape) for column in module.columns(task, 0) if column.name != TARGETS}
    names = tuple(name for name, shape in shapes.items() if shape) or input_names(model)
    taken = tuple(Taken(name, shapes.get(name, ())) for name in names)
    return Wrapped(model, taken, head).eval()


def traced(model: Wrapped) -> Any:
    """The model as TorchScript, which takes any number of rows and tokens. Raises RunError E507."""
    with quiet(), torch.no_grad():
        try:
            return torch.jit.trace(  # type: ignore[no-untyped-call]
                model, example(model), strict=False, check_trace=False
            )
        except Exception as error:  # whatever the model's own code raises
            raise failed(model, f"can't be traced: {first_line(error)}") from error


def example(model: Wrapped) -> tuple[Tensor, ...]:
    """A batch to trace with, whose first row is padded."""
    places_T = torch.arange(1, 1 + TRACED_TOKENS, dtype=torch.int32)
    whole_BT = places_T.repeat(TRACED_ROWS, 1)
    seen_BT = torch.ones_like(whole_BT)
    seen_BT[0, TRACED_TOKENS // 2 :] = 0
    values = {"input_ids": whole_BT, MASK: seen_BT, "token_type_ids": torch.zeros_like(whole_BT)}
    return tuple(
        torch.linspace(-1, 1, TRACED_ROWS * int(np.prod(each.shape))).reshape(TRACED_ROWS, *each.shape)
        if each.shape
        else values[each.name]
        for each in model.taken
    )


def write_package(model: Wrapped, shapes: Shapes, precision: str, out: Path) -> None:
    """Writes a package that takes up to so many rows and tokens. Raises RunError E507."""
    script = traced(model)
    coremltools = package_tools()
    rows = coremltools.RangeDim(1, max(shapes.batch_sizes), default=1)
    longest = max(shapes.lengths, default=1)
    tokens = coremltools.RangeDim(1, longest, default=longest)
    passes = coremltools.PassPipeline.DEFAULT
    passes.remove_passes(KEPT_APART)
    held = coremltools.precision.FLOAT32 if precision == "fp32" else coremltools.precision.FLOAT16
    with quiet():
        try:
            package = coremltools.convert(
                script,
                inputs=[
                    coremltools.TensorType(
                        each.name, coremltools.Shape((rows, *(each.shape or (tokens,)))), dtype=each.dtype
                    )
                    for each in model.taken
                ],
                outputs=[coremltools.TensorType(name, dtype=np.float32) for name in model.head.results],
                convert_to="mlprogram",
                compute_precision=held,
                minimum_deployment_target=coremltools.target.iOS17,
                pass_pipeline=passes,
                skip_model_load=True,
            )
            package.save(str(out))
        except Exception as error:  # coremltools' errors share no base
            raise failed(model, f"can't be converted: {first_line(error)}") from error


def failed(model: Wrapped, message: str) -> RunError:
    """That a model has no package."""
    return RunError("E507", f"{type(model.model).__name__} {message}", HINT)


def package_tools() -> ModuleType:
    """coremltools, which says on import what this system lacks. Raises RunError E402."""
    with quiet():
        try:
            import coremltools
        except ImportError as error:
            hint = 'install it: pip install "recipec[coreml]"'
            raise RunError("E402", f"coremltools writes Core ML packages: {error}", hint) from error
    tools: ModuleType = coremltools
    return tools


def script_outputs(script: Any, model: Wrapped, inputs: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """What the TorchScript gives for a batch."""
    given = [torch.from_numpy(np.ascontiguousarray(inputs[each.name]).astype(each.dtype)) for each in model.taken]
    with torch.inference_mode():
        return [result.numpy() for result in script(*given)]
