"""train-together: token arrays of several tasks and a pretrained model -> one with a head for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compiler.files import new_folder, write_json
from compiler.plan import Train, TrainTogether
from runtimes.backends import backend
from runtimes.loop import train_together
from runtimes.rows.features import Features
from runtimes.saved import trained_folder
from runtimes.steps import Context
from runtimes.steps.models import base_of, prepared_for
from runtimes.steps.train import copy_tokenizer, facts, fit, recorded
from runtimes.writing import writes


def execute(step: TrainTogether, context: Context) -> Iterator[Any]:
    """Trains, saves the kept weights as a folder for each task, and leaves train.json."""
    base = base_of(step.first, context)
    engine = backend(context.placement.engine).load_together(step, base, context.folder, context.placement)
    rows = {name: _rows(part, context) for name, part in step.parts.items()}
    reports = train_together(
        engine,
        rows,
        step,
        folder=context.folder,
        micro_batch_size=context.placement.micro_batch_size,
        stop=context.stop,
    )
    summary = yield from recorded(step, reports, context)
    for name, (_, validation) in rows.items():
        if validation is not None:
            fit(step.parts[name], engine, validation, context, name)
    with new_folder(context.folder / trained_folder(step.first)) as folder, writes(context.folder):
        engine.save_model(folder)
        for name, part in step.parts.items():
            copy_tokenizer(base, folder / name, part.task)
    write_json(context.folder / "train.json", facts(engine, summary, context))


def _rows(part: Train, context: Context) -> tuple[Features, Features | None]:
    """The rows of a task to train on, and to validate with."""
    prepared = prepared_for(part, context)
    return Features(prepared / "train"), Features(prepared / "validation") if part.evaluate_every else None
