"""The exported formats: who writes each, and the stages on the way to what was written, as the gate compares them."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from compiler.functions import Shapes
from compiler.recipe import Export, Onnx
from compiler.tasks import Task
from runtimes.errors import RunError
from runtimes.generation.decoding import Decoder
from runtimes.localisation.finding import Localised
from runtimes.protocol import Batch
from runtimes.saved import SavedModel
from runtimes.verification.gate import Check, ScoreFunction

# Format -> the module that writes and runs it; only the module knows the framework that does.
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "mlx": ("mlx", "mlx_lm"),
    "coreml": ("coremltools",),
}
BUILDER = "onnxruntime_genai"
MODULES: Mapping[str, str] = {
    "onnx": "runtimes.pytorch.onnx_format",
    "mlx": "runtimes.mlx.format",
    "coreml": "runtimes.pytorch.coreml_format",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What an export has written: facts for its report, and what there is to say."""

    facts: Mapping[str, Any]
    says: str


LocaliseFunction = Callable[[Batch, Sequence[Path]], Localised]


@dataclass(frozen=True, slots=True)
class Stage:
    """A model on the way from training to deployment. `exact`: it computes as the stage before it, but for rounding.

    `decoder`: the same as a decoder, where it keeps a cache. `files`: what of it is deployed. `localise`: where a batch
    shows that its layers leave those of the stage before it, whose files are given too; None where none can be seen.
    `inspect`: what is seen of its files without running it. `unrun`: why it is not run here; empty where it is.
    """

    name: str
    open: Callable[[], ScoreFunction]
    exact: bool = True
    decoder: Callable[[], Decoder[Any]] | None = None
    files: tuple[Path, ...] = ()
    localise: LocaliseFunction | None = None
    inspect: Callable[[], tuple[Check, ...]] = tuple
    unrun: str = ""


class FormatModule(Protocol):
    """One module a format."""

    def write(self, export: Export, task: Task, saved: SavedModel, out: Path) -> Written:
        """Writes a saved model into the folder `out`. Raises RunError E501."""
        ...

    def stages(self, export: Export, task: Task, saved: SavedModel, written: Path, device: str) -> Sequence[Stage]:
        """The stages after the saved model, the last one what is deployed."""
        ...


class FunctionModule(FormatModule, Protocol):
    """The module of a format that has functions, each traced at the shapes of a grid."""

    def write_function(
        self, export: Export, task: Task, saved: SavedModel, shapes: Shapes, out: Path, device: str
    ) -> Written:
        """Writes a saved model as a function into the folder `out`, for a kind of device. Raises RunError E501."""
        ...


class TogetherModule(FormatModule, Protocol):
    """The module of a format that holds several tasks in one graph."""

    def write_together(self, export: Export, parts: Mapping[str, tuple[Task, SavedModel]], out: Path) -> Written:
        """Writes the saved models of several tasks, by name, into the folder `out`. Raises RunError E501."""
        ...

    def stages_of_part(self, export: Export, task: Task, written: Path, part: str) -> Sequence[Stage]:
        """The stages after the saved model of one of them."""
        ...


def require_format(export: Export) -> None:
    """Nothing where a format's packages are installed: asked before hours of training. Raises RunError E402."""
    built = (BUILDER,) if isinstance(export, Onnx) and export.exporter == "genai" else ()
    missing = [name for name in (*PACKAGES[export.format], *built) if importlib.util.find_spec(name) is None]
    if missing:
        extra = "onnx" if export.format == "onnx" else export.format
        hint = f'install it: pip install "recipec[{extra}]"'
        raise RunError("E402", f"the export {export.format} needs the package {missing[0]}", hint)


def unrun(export: Export) -> str:
    """Why what an export wrote can't be run on this machine; empty where it can."""
    if export.format != "coreml" or sys.platform == "darwin":
        return ""
    return f"not run here: Core ML runs on macOS, and this is {platform.system()}"


def module_of(export: Export) -> FormatModule:
    """The module of an export's format."""
    return cast(FormatModule, importlib.import_module(MODULES[export.format]))


def function_module_of(export: Export) -> FunctionModule:
    """The module of an export's format, which has functions."""
    return cast(FunctionModule, module_of(export))


def together_module_of(export: Export) -> TogetherModule:
    """The module of an export's format, for several tasks."""
    return cast(TogetherModule, module_of(export))
