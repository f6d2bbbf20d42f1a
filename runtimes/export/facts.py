"""What is said of a graph that was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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


GRAPH = "model.onnx"
ENCODER, DECODER = "encoder_model.onnx", "decoder_model_merged.onnx"


def graph_names(*, encodes: bool) -> tuple[str, ...]:
    """The files of a model's graphs: one, or that which reads and that which writes."""
    return (ENCODER, DECODER) if encodes else (GRAPH,)


def virtual_file(onnx_file: Path) -> Path:
    """Where the keys and values are that a decoder begins each row with, when it was tuned by virtual tokens."""
    return onnx_file.with_name("past_key_values.npz")


def data_file(onnx_file: Path) -> Path:
    """Where the weights of a graph are that are too large for its own file; named as transformers.js looks for them."""
    return onnx_file.with_name(f"{onnx_file.name}_data")
