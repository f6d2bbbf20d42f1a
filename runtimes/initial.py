"""The first values of new parameters: functions of a seed, a name and a shape, the same for every engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from compiler.files import write_bytes
from runtimes.errors import RunError
from runtimes.randomness import normal, uniform


@dataclass(frozen=True, slots=True, kw_only=True)
class New:
    """A parameter that the pretrained model does not have.

    zeros, ones; normal: of deviation `scale`; uniform: between -scale and scale.
    """

    name: str
    shape: tuple[int, ...]
    kind: Literal["zeros", "ones", "normal", "uniform"]
    scale: float = 0.0


def initial_values(parameters: Sequence[New], seed: int, file: Path) -> Mapping[str, npt.NDArray[np.float32]]:
    """The first values by name: from the file when it is there, else computed and written to it."""
    try:
        found: dict[str, npt.NDArray[np.float32]] = load_file(file)
    except (FileNotFoundError, SafetensorError):  # a damaged file is made again: its values are a function
        write_bytes(file, save({new.name: _value(new, seed) for new in parameters}))
        found = load_file(file)
    if {name: value.shape for name, value in found.items()} != {new.name: new.shape for new in parameters}:
        message = f"{file.name} holds the parameters of another method or model"
        raise RunError("E406", message, "remove the step's folder, the run makes it again")
    return found


def _value(new: New, seed: int) -> npt.NDArray[np.float32]:
    count = math.prod(new.shape)
    match new.kind:
        case "zeros":
            values = np.zeros(count)
        case "ones":
            values = np.ones(count)
        case "normal":
            values = new.scale * normal(count, seed, new.name)
        case "uniform":
            values = new.scale * (2.0 * uniform(count, seed, new.name) - 1.0)
        case _:
            assert_never(new.kind)
    return values.astype(np.float32).reshape(new.shape)
