"""Weights straight from safetensors files into MLX, under the names that torch gives to parameters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from compiler.adapter_names import BESIDE, WITHIN, bare_name, saved_name, without_parts
from compiler.weights import INDEX, SINGLE, shards
from runtimes.mlx.dtypes import DTYPES, as_array
from runtimes.mlx.graph import Graph
from runtimes.mlx.lower import array_of

_ENCODED = "prompt_encoder.default.embedding.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The values of a graph's parameters and buffers, and the names that no file has in their shape."""

    parameters: Mapping[str, mx.array]
    buffers: Mapping[str, mx.array]
    missing: tuple[str, ...]


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a model's folder. Raises FileNotFoundError when there are none."""
    if (folder / SINGLE).exists():
        return (folder / SINGLE,)
    return tuple(folder / name for name in shards(json.loads((folder / INDEX).read_text(encoding="utf-8"))))


def load_weights(
    graph: Graph,
    files: Sequence[Path],
    names: Mapping[str, str],
    *,
    trained_dtype: str = "float32",
    frozen_dtype: str | None = None,
) -> Weights:
    """The values of a graph in files: trained parameters as masters, frozen ones as the graph computes.

    `names`: from the names of the files to those of the model; a tensor that is not among them keeps its own.
    `frozen_dtype` holds the frozen parameters in another dtype. Arrays are read when they are first used, in their
    final dtype. Of files with the same name the last wins. A buffer that no file has keeps its module's first value.
    A tied parameter is one array, under its name in the graph.
    """
    stored = stored_arrays(files, names)
    parameters: dict[str, mx.array] = {}
    for name, own in graph.parameters.items():
        dtype = trained_dtype if own.requires_grad else frozen_dtype or own.dtype
        aliases = (other for other, first in graph.tied.items() if first == name)
        found = _find(stored, (name, *aliases), own.shape)
        if found is not None:
            parameters[name] = as_array(found, DTYPES[dtype])
    buffers: dict[str, mx.array] = {}
    for name, buffer in graph.buffers.items():
        found = _find(stored, (name,), buffer.shape)
        if found is not None:
            buffers[name] = as_array(found, DTYPES[buffer.dtype])
        elif buffer.first is not None:
            buffers[name] = array_of(buffer.first)
    wanted = (*graph.parameters, *graph.buffers)
    missing = tuple(name for name in wanted if name not in parameters and name not in buffers)
    return Weights(parameters=parameters, buffers=buffers, missing=missing)


def stored_arrays(files: Iterable[Path], names: Mapping[str, str]) -> dict[str, mx.array]:
    """The arrays of files by their names in the model; each is read when it is first used."""
    found: dict[str, mx.array] = {}
    for file in files:
        arrays = mx.load(str(file))
        assert isinstance(arrays, dict)
        found |= {names.get(name, name): value for name, value in arrays.items()}
    return found


def _find(stored: Mapping[str, mx.array], names: Iterable[str], shape: tuple[int, ...]) -> mx.array | None:
    """The array under the first of the names that there is in this shape."""
    name = stored_name(stored, names, shape)
    return None if name is None else stored[name]


def stored_name(stored: Mapping[str, mx.array], names: Iterable[str], shape: tuple[int, ...]) -> str | None:
    """The name by which a file has what a graph calls by one of the names, in this shape."""
    for name in (candidate for own in names for candidate in _candidates(own)):
        if name in stored and tuple(stored[name].shape) == shape:
            return name
    return None


def _candidates(name: str) -> Iterator[str]:
    """The names that a file may have for a parameter: the model's own, PEFT's, and those without PEFT."""
    yield name
    yield saved_name(name)
    inner = inner_name(name)
    yield WITHIN + inner
    yield inner
    yield from _beside_virtual_tokens(name)


def _beside_virtual_tokens(name: str) -> Iterator[str]:
    """The names that a file may have for a parameter where PEFT wraps no module: virtual tokens, and the model's own.

    PEFT saves what a prompt encoder makes, whatever it has made it of.
    """
    if name == _ENCODED:
        yield "prompt_embeddings"
    plain = without_parts(name)
    yield plain
    yield plain.removeprefix(BESIDE)


def inner_name(name: str) -> str:
    """The name that a parameter of a wrapped module has in the model itself."""
    return without_parts(bare_name(name))


def stored_value(files: Sequence[Path], names: Mapping[str, str], name: str) -> npt.NDArray[np.float32]:
    """What a file has for a graph's parameter, as float32. Raises KeyError when there is nothing."""
    stored = stored_arrays(files, names)
    found = next((own for own in _candidates(name) if own in stored), name)
    return np.array(stored[found].astype(mx.float32, stream=mx.cpu))
