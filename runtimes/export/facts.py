"""What is said of a graph that was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFacts:
    """What was written, and by what."""

    exporter: str
    versions: tuple[tuple[str, str], ...]
    """Of each library that has a say in the bytes: (name, version)."""
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    num_bytes: int
    num_nodes: int
    custom_operators: tuple[tuple[str, int], ...]
    """Nodes outside the standard operator set, (name, count): none in a graph that every runtime reads."""


Provider = Literal["cpu", "coreml"]
"""What onnxruntime computes with: its own kernels, or Core ML where it can, on macOS."""
FOLDER = "onnx"
_WHOLE, _HALVES = ("model",), ("encoder_model", "decoder_model_merged")
_SUFFIXES: Mapping[str, str] = {"fp32": "", "fp16": "_fp16", "int8": "_int8", "int8-static": "_int8", "int4": "_q4"}
DTYPES: Mapping[str, str] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8", "int8-static": "int8", "int4": "q4"}
"""What transformers.js calls a precision, by which it names the file that it opens."""


def graph_names(*, encodes: bool, precision: str = "fp32") -> tuple[str, ...]:
    """The files of a model's graphs, from the folder of an export or a bundle: one, or what reads and what writes.

    Places and names are those of the hub, where transformers.js looks for a precision.
    """
    stems = _HALVES if encodes else _WHOLE
    return tuple(f"{FOLDER}/{stem}{_SUFFIXES[precision]}.onnx" for stem in stems)


[GRAPH] = graph_names(encodes=False)
ENCODER, DECODER = graph_names(encodes=True)


PAST, PRESENT = "past_key_values.", "present."
"""How the names of a cache's inputs begin, and those of its outputs."""


def virtual_file(onnx_file: Path) -> Path:
    """Where the keys and values are that a decoder begins each row with, when it was tuned by virtual tokens."""
    return onnx_file.with_name("past_key_values.npz")


def adapter_file(onnx_file: Path) -> Path:
    """Where the adapter of a graph is that is not merged into it."""
    return onnx_file.with_name("adapter.onnx_adapter")


def data_file(onnx_file: Path) -> Path:
    """Where the weights of a graph are that are too large for its own file; named as transformers.js looks for them."""
    return onnx_file.with_name(f"{onnx_file.name}_data")
