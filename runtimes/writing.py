"""Weights are written by a library whose errors are its own: here they become errors of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from runtimes.errors import RunError


@contextmanager
def writes(folder: Path) -> Iterator[None]:
    """Inside, weights are written below a folder; raises RunError E401 when the system refuses."""
    try:
        yield
    except SafetensorError as error:
        message = f"the weights can't be written to {folder}: {error}"
        raise RunError("E401", message, "make room; the same command goes on where this one stopped") from error
