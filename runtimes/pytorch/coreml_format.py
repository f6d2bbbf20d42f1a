"""The format coreml: a package beside the files that its rows are read with, run by macOS alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.files import new_folder
from compiler.functions import Shapes
from compiler.recipe import CoreMl
from compiler.tasks import Task
from runtimes.errors import RunError, first_line
from runtimes.export import Stage, Written, unrun
from runtimes.protocol import Batch
from runtimes.pytorch.coreml import (
    Wrapped,
    package_tools,
    script_outputs,
    traced,
    wrapped,
    write_package,
)
from runtimes.pytorch.coreml_package import compare_package, num_operations, open_package
from runtimes.rows.readings import read_outputs
from runtimes.saved import SavedModel
from runtimes.steps.train import copy_tokenizer
from runtimes.verification.gate import Findings, ScoreFunction

FOLDER = "coreml"
PACKAGE = f"{FOLDER}/model.mlpackage"


def write_function(export: CoreMl, task: Task, saved: SavedModel, shapes: Shapes, out: Path, device: str) -> Written:
    """Writes `coreml/`: the package, what reads its rows, and its configuration. Raises RunError E507."""
    model = wrapped(task, saved)
    with new_folder(out / FOLDER) as folder:
        write_package(model, shapes, export.precision, folder / Path(PACKAGE).name)
        copy_tokenizer(saved.reading, folder)
        model.model.config.save_pretrained(folder)
    size = sum(file.stat().st_size for file in files_of(out))
    operations = num_operations(open_package(out / PACKAGE))
    facts: dict[str, Any] = {
        "exporter": f"coremltools {version('coremltools')}",
        "num_bytes": size,
        "num_operations": operations,
        "inputs": [each.name for each in model.taken],
        "outputs": [*model.head.results],
        "precision": export.precision,
        "most_rows": max(shapes.batch_sizes),
        "most_tokens": max(shapes.lengths, default=None),
    }
    says = f"a Core ML package, {export.precision}, {operations} operations, {size / 2**20:,.1f} MiB"
    return Written(facts=facts, says=says)


def files_of(written: Path) -> tuple[Path, ...]:
    """The files of a package."""
    return tuple(sorted(file for file in (written / PACKAGE).rglob("*") if file.is_file()))


def stages(export: CoreMl, task: Task, saved: SavedModel, written: Path, device: str) -> Sequence[Stage]:
    """The traced model that coremltools reads, and the package."""
    return [
        Stage("traced", partial(_script_scores, task, saved), files=saved.weights),
        Stage(
            FOLDER,
            partial(_package_scores, export, task, saved, written),
            exact=export.is_exact,
            files=files_of(written),
            inspect=partial(_inspect, export, task, saved, written),
            unrun=unrun(export),
        ),
    ]


def _inspect(export: CoreMl, task: Task, saved: SavedModel, written: Path) -> tuple[Findings, ...]:
    return tuple(compare_package(wrapped(task, saved), written / PACKAGE, export.precision))


def _script_scores(task: Task, saved: SavedModel) -> ScoreFunction:
    """The outputs of batches by what was converted."""
    model = wrapped(task, saved)
    script = traced(model)

    def scores(batch: Batch) -> npt.NDArray[np.float32]:
        return _read(model, script_outputs(script, model, batch.inputs), batch)

    return scores


def _package_scores(export: CoreMl, task: Task, saved: SavedModel, written: Path) -> ScoreFunction:
    """The outputs of batches by Core ML: of float32 on the CPU, which alone computes in it throughout.

    Raises RunError E508.
    """
    model, tools = wrapped(task, saved), package_tools()
    units = tools.ComputeUnit.CPU_ONLY if export.is_exact else tools.ComputeUnit.ALL
    try:
        package = tools.models.MLModel(str(written / PACKAGE), compute_units=units)
    except Exception as error:  # coremltools' errors share no base
        raise _failure(written, error) from error

    def scores(batch: Batch) -> npt.NDArray[np.float32]:
        given: dict[str, npt.NDArray[Any]] = {
            each.name: np.asarray(batch.inputs[each.name], each.dtype) for each in model.taken
        }
        try:
            found = package.predict(given)
        except Exception as error:  # likewise
            raise _failure(written, error) from error
        return _read(model, [np.asarray(found[name], np.float32) for name in model.head.results], batch)

    return scores


def _read(model: Wrapped, results: Sequence[npt.NDArray[Any]], batch: Batch) -> npt.NDArray[np.float32]:
    outputs = results[0] if len(results) == 1 else np.stack(results, axis=-1)
    return read_outputs(model.head.reading, outputs, batch.targets)


def _failure(written: Path, error: Exception) -> RunError:
    return RunError("E508", f"{written / PACKAGE}: Core ML does not run it: {first_line(error)}", "export it again")
