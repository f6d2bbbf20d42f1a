"""An adapter beside its graph: low-rank updates in a file that onnxruntime loads into optional inputs of the graph.

The graph has a default for each of these inputs, zeros, so that without the file it answers as the base.
https://onnxruntime.ai/docs/genai/tutorials/finetune.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from runtimes.errors import RunError, first_line

_VERSION = 1
_TYPE = "tensor(float)"


@dataclass(frozen=True, slots=True)
class Activated:
    """An adapter that runs of a session are given. `options` does not keep it alive."""

    adapter: Any
    options: Any


def write_adapter(file: Path, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Writes updates, by the inputs that they are for."""
    written = onnxruntime.AdapterFormat()
    written.set_adapter_version(_VERSION)
    written.set_model_version(_VERSION)
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in sorted(weights.items())}
    written.set_parameters(values)
    written.export_adapter(str(file))


def read_adapter(file: Path) -> dict[str, npt.NDArray[Any]]:
    """The updates in a file, by the inputs that they are for. Raises RunError E604."""
    try:
        read = onnxruntime.AdapterFormat.read_adapter(str(file))
        return {name: value.numpy().copy() for name, value in read.get_parameters().items()}
    except Exception as error:  # onnxruntime's errors share no base
        raise _failure(file, f"can't be read: {first_line(error)}") from error


def activate(file: Path, inner: Any) -> Activated:
    """The adapter of a file for a session that has an input for each of its updates. Raises RunError E604."""
    if fault := next(_faults(read_adapter(file), optional_inputs(inner)), None):
        raise _failure(file, fault)
    adapter, options = onnxruntime.LoraAdapter(), onnxruntime.RunOptions()
    try:
        adapter.Load(str(file))
        options.add_active_adapter(adapter)
    except Exception as error:  # onnxruntime's errors share no base
        raise _failure(file, f"can't be activated: {first_line(error)}") from error
    return Activated(adapter, options)


def write_nothing(file: Path, inner: Any) -> None:
    """Writes an adapter that adds nothing to a session: zeros for each update."""
    write_adapter(file, {name: np.zeros(shape, np.float32) for name, shape in optional_inputs(inner).items()})


def optional_inputs(inner: Any) -> dict[str, tuple[int, ...]]:
    """The inputs of a session that have a default, and their shapes."""
    return {value.name: tuple(value.shape) for value in inner.get_overridable_initializers() if value.type == _TYPE}


def _faults(updates: Mapping[str, npt.NDArray[Any]], inputs: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """How updates don't fit the inputs of a graph: onnxruntime would take the default for one that is missing."""
    for name in sorted({*updates, *inputs}):
        if name not in updates:
            yield f"has no update for {name}, which the graph takes"
        elif name not in inputs:
            yield f"has an update for {name}, which the graph does not take"
        elif updates[name].shape != inputs[name]:
            yield f"has an update of shape {[*updates[name].shape]} for {name}, which takes {[*inputs[name]]}"


def _failure(file: Path, message: str) -> RunError:
    return RunError("E604", f"{file}: the adapter {message}", "export it again")
