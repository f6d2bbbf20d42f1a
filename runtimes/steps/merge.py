"""merge: an adapter and its base -> one model in the transformers layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compiler.files import new_folder, write_json
from compiler.plan import Merge, TrainTogether
from compiler.typed import to_json
from runtimes.backends import backend
from runtimes.events import Said
from runtimes.saved import trained_folder
from runtimes.steps import Context
from runtimes.steps.models import base_of, saved_by, train_of
from runtimes.steps.train import copy_tokenizer
from runtimes.survival import ROUNDINGS, survival
from runtimes.together import store_once
from runtimes.writing import writes


def execute(step: Merge, context: Context) -> Iterator[Any]:
    """Writes model/; of several tasks a folder in it for each, with what they share stored once."""
    [train_id] = step.inputs
    trained = context.plan.step(train_id)
    parts = tuple(trained.parts) if isinstance(trained, TrainTogether) else ("",)
    back = backend(context.placement.engine)
    with new_folder(context.folder / "model") as folder, writes(context.folder):
        for part in parts:
            train = train_of(context.plan, train_id, part)
            base, adapter = base_of(train, context), context.inputs[train_id] / trained_folder(train) / part
            (folder / part).mkdir(exist_ok=True)
            back.merge(train, base, adapter, folder / part)
            copy_tokenizer(base, folder / part, train.task)
        if isinstance(trained, TrainTogether):
            store_once([folder / part for part in parts])
    first, *_ = parts  # what is merged is the same for all
    changes = back.changes(saved_by(train_id, context, first), context.folder / "model" / first)
    left = survival(changes, ROUNDINGS)
    write_json(context.folder / "merge.json", {"survives": {name: to_json(found) for name, found in left.items()}})
    shares = ", ".join(f"{found} in {name}" for name, found in left.items())
    yield Said(step=step.id, message=f"the adapter is merged into its base; of its update remains {shares}")
