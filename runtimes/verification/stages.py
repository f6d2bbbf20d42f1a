"""What the gate asks: a model on disk, and what was written from it, by a run's step or without a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from compiler.generation import Generation
from compiler.plan import ExportModel, ExportTogether, Plan, Quantize, VerifyExport
from compiler.recipe import Export
from compiler.tasks import Task
from runtimes import export
from runtimes.backends import backend
from runtimes.errors import unreadable
from runtimes.export import Stage
from runtimes.generation.answers import writing_of
from runtimes.rows.tokens import Encoder
from runtimes.saved import SavedModel
from runtimes.tasks.interface import InputReader
from runtimes.verification.edges import NoiseFunction, Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model on disk, and where it runs."""

    task: Task
    saved: SavedModel
    engine: str
    device: str

    def stage(self, name: str) -> Stage:
        """It as a stage."""
        scores = partial(backend(self.engine).scores, self.task, self.saved, self.device)
        return Stage(name, scores, files=self.saved.weights)

    def noise(self, before_each: Callable[[], None] = lambda: None) -> NoiseFunction:
        """The float32 noise of its outputs. `before_each`: called before each batch; it may raise."""
        return partial(backend(self.engine).float32_noise, self.task, self.saved, before_each=before_each)

    def writer(self, generation: Generation | None, reader: InputReader) -> Writer | None:
        """How it writes, where it does. Raises RunError E502."""
        if generation is None or not isinstance(reader, Encoder):
            return None
        try:
            writing = writing_of(self.task, reader, generation, self.saved.reading)
        except ValueError as error:
            raise unreadable(self.saved.reading, error) from error
        return Writer(writing, partial(backend(self.engine).decoder, self.task, self.saved, self.device))


def written_stages(
    step: VerifyExport, plan: Plan, saved: SavedModel, folder_of: Callable[[str], Path], device: str
) -> Iterator[Stage]:
    """The stages after a saved model: as written, and as rounded; of several tasks, the output of this one.

    `folder_of`: what a step left, by its id.
    """
    for name in step.inputs:
        match plan.step(name):
            case ExportModel(export=written) | Quantize(export=written):
                yield from _stages(step, written, saved, folder_of(name), device)
            case ExportTogether(parts=parts):
                yield from _stages(step, parts[step.part].export, saved, folder_of(name), device)


def _stages(step: VerifyExport, written: Export, saved: SavedModel, folder: Path, device: str) -> Sequence[Stage]:
    if step.part:
        return export.together_module_of(written).stages_of_part(written, step.task, folder, step.part)
    return export.module_of(written).stages(written, step.task, saved, folder, device)
