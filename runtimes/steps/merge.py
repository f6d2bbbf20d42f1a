"""merge: an adapter and its base -> one model in the transformers layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compiler.files import new_folder
from compiler.plan import Merge
from runtimes.backends import backend
from runtimes.events import Said
from runtimes.saved import trained_folder
from runtimes.steps import Context
from runtimes.steps.models import base_of, train_of
from runtimes.steps.train import copy_tokenizer
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
    yield Said(step=step.id, message="the adapter is merged into its base")
