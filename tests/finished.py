"""A run that is done, to look at again: its plan, what its steps left, and what they were given."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.cli.options import mirror_folder
from compiler.hub import Sources
from compiler.placement import Placement
from compiler.plan import Merge, Plan, Step, Train, VerifyExport
from compiler.typed import read
from runtimes.execute import ancestors
from runtimes.saved import SavedModel
from runtimes.steps import Context
from runtimes.steps.models import prepared_for, saved_by
from runtimes.store import Store


@dataclass(frozen=True, slots=True)
class Finished:
    """The folder of a run, and the one that the recipe's paths start from."""

    folder: Path
    root: Path

    @property
    def plan(self) -> Plan:
        """What was run."""
        return Plan.from_json(json.loads((self.folder / "plan.json").read_text(encoding="utf-8")))

    @property
    def bundles(self) -> tuple[Path, ...]:
        """One for each export, in the recipe's order."""
        return tuple(sorted(path for path in self.folder.glob("bundle*") if path.is_dir()))

    def step(self, kind: type[Step]) -> Any:
        """The first step of a kind."""
        return next(step for step in self.plan.steps if isinstance(step, kind))

    def output(self, step: Step) -> Path:
        """The folder that a step left."""
        return Store(self.folder.resolve().parent).folder(self.plan.keys()[step.id])

    def context(self, step: Step, folder: Path, **inputs: Path) -> Context:
        """What a step is given to run again; `inputs`: what it gets in place of what the steps before it left."""
        plan, store = self.plan, Store(self.folder.resolve().parent)
        before = {name: store.folder(plan.keys()[name]) for name in ancestors(plan)[step.id]}
        placement = json.loads((self.folder / "placement.json").read_text(encoding="utf-8"))
        return Context(
            plan=plan,
            key=plan.keys()[step.id],
            folder=folder,
            inputs={**before, **inputs},
            root=self.root,
            sources=Sources(mirror=mirror_folder(), offline=True),
            placement=read(Placement, placement),
            stop=lambda: False,
        )

    def saved(self) -> SavedModel:
        """The model that was exported: the trained one, with its adapter merged where it has one."""
        last = [step for step in self.plan.steps if isinstance(step, (Train, Merge))][-1]
        return saved_by(last.id, self.context(self.step(VerifyExport), self.folder))

    def held_out(self) -> Path:
        """The folder of the rows that exports are verified with."""
        verify: VerifyExport = self.step(VerifyExport)
        return prepared_for(verify, self.context(verify, self.folder)) / verify.split
