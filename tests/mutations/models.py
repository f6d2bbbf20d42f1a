"""Faults before the graph: of the model, of which a damaged copy is exported, and of how the graph is rounded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from compiler.plan import ExportModel, Quantize
from runtimes import export
from runtimes.export.facts import graph_names
from runtimes.export.rounding import round_graph
from runtimes.export.session import open_session
from runtimes.saved import SavedModel
from tests.mutations.subjects import Built

Weights = Mapping[str, npt.NDArray[np.float32]]
Change = Callable[[Weights, Weights], Weights]
"""New weights, from those of the tuned model and those of its base, by the tuned model's names."""
WEIGHTS = "model.safetensors"


def exported(change: Change) -> Callable[[Path, Built | None], None]:
    """The damage to a bundle whose graph is made of a changed model."""

    def damage(folder: Path, built: Built | None) -> None:
        if built is None:
            raise LookupError("the model before its export is not there")
        model = folder.with_name(f"{folder.name}.model")
        shutil.copytree(built.run.saved().folder, model)
        tuned = load_file(model / WEIGHTS)
        save_file({**change(tuned, _base(built, tuned))}, model / WEIGHTS, {"format": "pt"})
        step = built.run.step(ExportModel)
        export.module_of(step.export).write(step.export, step.task, SavedModel(model), folder)

    return damage


def _base(built: Built, tuned: Weights) -> Weights:
    """The weights that training began with, by the tuned model's names; those of a new head are not among them."""
    stored = load_file(built.folder / "model" / WEIGHTS)
    prefix = f"{json.loads((built.folder / 'model' / 'config.json').read_text(encoding='utf-8'))['model_type']}."
    return {name: stored[name.removeprefix(prefix)] for name in tuned if name.removeprefix(prefix) in stored}


def not_merged(tuned: Weights, base: Weights) -> Weights:
    """The base, under the tuned head."""
    return {**tuned, **base}


def merged_twice(tuned: Weights, base: Weights) -> Weights:
    """The update is added once more."""
    return {name: array + (array - base[name]) if name in base else array for name, array in tuned.items()}


def other_head(tuned: Weights, base: Weights) -> Weights:
    """The head is that of another training: what has no base is drawn anew."""
    random = np.random.default_rng(6)
    return {
        name: array if name in base else random.normal(scale=0.1, size=array.shape).astype(np.float32)
        for name, array in tuned.items()
    }


def calibrated_on_garbage(folder: Path, built: Built | None) -> None:
    """Rounded by the ranges of rows in which there is nothing but padding."""
    if built is None:
        raise LookupError("the graph in float32 is not there")
    step: Quantize = built.run.step(Quantize)
    [before], [after] = (graph_names(encodes=False, precision=name) for name in ("fp32", step.export.precision))
    graph = built.run.output(built.run.step(ExportModel)) / before
    inputs = open_session(graph, results=()).inputs
    nothing = np.zeros((4, 8), np.int64)
    rows = [{name: nothing + (name == "attention_mask") for name in inputs}]
    round_graph(step.export, graph, folder / after, weights_alone=False, rows=rows)
