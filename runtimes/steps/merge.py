"""merge: an adapter and its base -> one model in the transformers layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compiler.files import new_folder, write_json
from compiler.plan import Merge
from compiler.typed import to_json
from runtimes.backends import backend
from runtimes.events import Said
from runtimes.saved import trained_folder
from runtimes.steps import Context
from runtimes.steps.models import base_of, saved_by, train_of
from runtimes.steps.train import copy_tokenizer
from runtimes.survival import ROUNDINGS, survival
from runtimes.writing import writes


def execute(step: Merge, context: Context) -> Iterator[Any]:
    """Writes model/."""
    [train_id] = step.inputs
    train = train_of(context.plan, train_id)
    base = base_of(train, context)
    back = backend(context.placement.engine)
    with new_folder(context.folder / "model") as folder, writes(context.folder):
        back.merge(train, base, context.inputs[train_id] / trained_folder(train), folder)
        copy_tokenizer(base, folder, train.task)
    left = survival(back.changes(saved_by(train_id, context), context.folder / "model"), ROUNDINGS)
    write_json(context.folder / "merge.json", {"survives": {name: to_json(found) for name, found in left.items()}})
    shares = ", ".join(f"{found} in {name}" for name, found in left.items())
    yield Said(step=step.id, message=f"the adapter is merged into its base; of its update remains {shares}")
