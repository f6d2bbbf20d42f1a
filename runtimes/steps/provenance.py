"""The steps behind a bundle -> where its model is from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from compiler import methods
from compiler.hashes import sha256_of
from compiler.plan import Merge, Package, Prepare, Step, Train, TrainTogether
from runtimes.bundles.provenance import DataUsed, Evaluated, Provenance, Training
from runtimes.steps import Context
from runtimes.steps.models import saved_by


def provenance_of(step: Package, context: Context, evaluation: Mapping[str, Any], part: str = "") -> Provenance:
    """What the bundle of a package step says of its model. `part`: of several tasks that were trained together."""
    before = [each for each in context.plan.steps if each.id in context.inputs]
    trains = [(each, _train_of(each, part)) for each in before if isinstance(each, (Train, TrainTogether))]
    first, used = trains[0][1], {name for _, train in trains for name in train.inputs}
    prepared = {each.id: each for each in before if isinstance(each, Prepare) and each.id in used}
    return Provenance(
        origin=step.origin,
        base_files=first.model.files,
        reads_base=methods.reads_weights(first.method),
        data=tuple(found for each in prepared.values() for found in _data(each)),
        trainings=tuple(_training(each, train, prepared, context) for each, train in trains),
        weights=dict(_weights(step.inputs[1], context, part)),
        evaluated=Evaluated(split=evaluation["split"], rows=evaluation["rows"], metrics=_finite(evaluation["metrics"])),
    )


def _train_of(step: Step, part: str) -> Train:
    assert isinstance(step, (Train, TrainTogether))
    return step if isinstance(step, Train) else step.parts[part]


def _data(step: Prepare) -> Iterator[DataUsed]:
    for split in step.splits:
        yield DataUsed(
            stage=step.stage,
            split=split.split,
            rows=split.num_rows,
            files=tuple(file.sha256 for file in split.files),
            images=tuple(file.images for file in split.files if file.images),
        )


def _training(step: Train | TrainTogether, train: Train, prepared: Mapping[str, Prepare], context: Context) -> Training:
    done = json.loads((context.inputs[step.id] / "train.json").read_text(encoding="utf-8"))
    [rows] = [prepared[name] for name in train.inputs if name in prepared]
    return Training(
        stage=train.stage,
        method=train.method,
        rows=sum(split.num_rows for split in rows.splits if split.split == "train"),
        steps=done["steps"],
        batch_size=train.batch_size,
        learning_rate=train.learning_rate,
        precision=train.precision,
        seed=train.seed,
        trained=done["parameters"]["trained"],
        total=done["parameters"]["total"],
    )


def _weights(model_step: str, context: Context, part: str) -> Iterator[tuple[str, str]]:
    """The name and sha256 of every file of weights that training left, and merging."""
    step = context.plan.step(model_step)
    if isinstance(step, Merge):
        yield from _weights(step.inputs[0], context, part)
    saved = saved_by(model_step, context, part)
    yield from _hashes("model" if saved.adapter is None else "adapter", saved.reading)


def _hashes(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob("*.safetensors")):
        yield f"{kind}/{path.name}", sha256_of(path, None)


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Those that are numbers: JSON has no word for others."""
    return {name: value for name, value in metrics.items() if isinstance(value, (int, float)) and isfinite(value)}
