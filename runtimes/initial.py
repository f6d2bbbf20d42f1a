"""The first values of new parameters: functions of a seed, a name and a shape, the same for every engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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

    zeros, ones; normal: of deviation `scale`; uniform: between -scale and scale; norms: the lengths of a stored
    parameter, the `source`, along its `axis`; orthogonal: a factor of a product that is zero, see `_factor`.
    """

    name: str
    shape: tuple[int, ...]
    kind: Literal["zeros", "ones", "normal", "uniform", "norms", "orthogonal"]
    scale: float = 0.0
    source: str = ""
    axis: int = 0


Stored = Callable[[str], npt.NDArray[np.float32]]
"""The value of a parameter that the pretrained model has, by its name in the wrapped one."""


def no_stored(name: str) -> npt.NDArray[np.float32]:
    """Nothing: for parameters that are no functions of stored ones."""
    raise LookupError(name)


def initial_values(
    parameters: Sequence[New], seed: int, file: Path, stored: Stored = no_stored
) -> Mapping[str, npt.NDArray[np.float32]]:
    """The first values by name: from the file when it is there, else computed and written to it."""
    try:
        found: dict[str, npt.NDArray[np.float32]] = load_file(file)
    except (FileNotFoundError, SafetensorError):  # a damaged file is made again: its values are a function
        write_bytes(file, save({new.name: _value(new, seed, stored) for new in parameters}))
        found = load_file(file)
    if {name: value.shape for name, value in found.items()} != {new.name: new.shape for new in parameters}:
        message = f"{file.name} holds the parameters of another method or model"
        raise RunError("E406", message, "remove the step's folder, the run makes it again")
    return found


def _value(new: New, seed: int, stored: Stored) -> npt.NDArray[np.float32]:
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
        case "norms":
            values = np.sqrt(np.square(stored(new.source), dtype=np.float64).sum(new.axis))
        case "orthogonal":
            values = _factor(new, seed)
        case _:
            assert_never(new.kind)
    return np.ascontiguousarray(values, np.float32).reshape(new.shape)  # the file keeps the order in memory


def _factor(new: New, seed: int) -> npt.NDArray[np.float64]:
    """A [rank, inputs] (axis 0) or B [outputs, rank] (axis 1) of one `source`, so that B A is zero.

    Normal numbers in the span of the even or the odd rows of an orthonormal [rank, rank], which the source decides:
    https://datta0.github.io/posts/rethink-lora-init/#orthogonal-initialisation
    """
    rank, others = new.shape[new.axis], new.shape[1 - new.axis]
    basis, _ = np.linalg.qr(normal(rank * rank, seed, new.source, "basis").reshape(rank, rank))
    half = basis[new.axis :: 2]  # [rank / 2, rank]
    drawn = normal(len(half) * others, seed, new.name).reshape(len(half), others)
    factor = new.scale * half.T @ drawn  # [rank, others]
    return factor if new.axis == 0 else factor.T
