"""The exported formats: who writes each, and the session that runs what was written."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

# Format -> the module whose `export` writes it; only the module knows the framework that does.
WRITERS: Mapping[str, str] = {"onnx": "runtimes.pytorch.onnx"}


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


class Writer(Protocol):
    """Writes a saved model as one file."""

    def __call__(self, model_folder: Path, out: Path, *, opset: int, auto_class: str) -> ExportFacts:
        """Facts about the file at `out`, which appears whole or not at all. Raises RunError E501."""
        ...


def data_file(onnx_file: Path) -> Path:
    """Where the weights of a graph are that are too large for its own file; named as transformers.js looks for them."""
    return onnx_file.with_name(f"{onnx_file.name}_data")


def writer(name: str) -> Writer:
    """The writer of a format."""
    return cast(Writer, importlib.import_module(WRITERS[name]).export)
