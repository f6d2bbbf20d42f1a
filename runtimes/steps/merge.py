"""merge: an adapter and its base -> one model in the transformers layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compiler.files import new_folder
from compiler.hub import fetch_model
from compiler.plan import Merge, Train
from runtimes.backends import backend
from runtimes.events import Said
from runtimes.steps import Context
from runtimes.steps.train import copy_tokenizer
from runtimes.writing import writes


def execute(step: Merge, context: Context) -> Iterator[Any]:
    """Writes model/."""
    train = context.plan.step("train")
    assert isinstance(train, Train)
    base = fetch_model(step.model, context.root, context.sources)
    back = backend(context.placement.engine)
    with new_folder(context.folder / "model") as folder, writes(context.folder):
        back.merge(train, base, context.inputs["train"] / back.trained_folder(train), folder)
        copy_tokenizer(base, folder, train.task)
    yield Said(step=step.id, message="the adapter is merged into its base")
