"""What each kind of step does: one module each, imported when a step of its kind runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compiler.hub import Sources
from compiler.placement import Placement
from compiler.plan import Plan, Step
from runtimes.verification.kept import Kept

# Kind of step -> the module whose `execute` does it.
MODULES = {
    "prepare": "runtimes.steps.prepare",
    "train": "runtimes.steps.train",
    "train-together": "runtimes.steps.train_together",
    "evaluate": "runtimes.steps.evaluate",
    "merge": "runtimes.steps.merge",
    "export": "runtimes.steps.export",
    "export-together": "runtimes.steps.export_together",
    "quantize": "runtimes.steps.quantize",
    "verify": "runtimes.steps.verify",
    "package": "runtimes.steps.package",
    "package-together": "runtimes.steps.package_together",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a step is given beside its own parameters."""

    plan: Plan
    key: str
    folder: Path  # where its outputs go
    inputs: dict[str, Path]  # the folders of the steps that it comes after, by their ids
    root: Path  # the recipe's folder, which data paths start from
    sources: Sources  # where models and hub datasets are looked up
    placement: Placement
    stop: Callable[[], bool]  # whether the run was asked to stop
    kept: Kept = field(default_factory=Kept)  # what gates before this one found out


def execute(step: Step, context: Context) -> Iterator[Any]:
    """The events of a step while it runs; its outputs are in the folder when the events end."""
    module = importlib.import_module(MODULES[step.step])
    events: Iterator[Any] = module.execute(step, context)
    return events
