"""A fault that exports have in practice, and how it is put into a finished bundle, which is then sealed again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx

from runtimes.bundles.bundle import graphs_of
from runtimes.bundles.manifest import read_manifest, seal
from tests.mutations import graphs
from tests.mutations.subjects import Built, Subject

Damage = Callable[[Path, Built | None], None]
"""A change of the files of a bundle; some need the subject that the bundle is of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A fault: its name, what it does in a sentence, what it is put into, and how."""

    name: str
    does: str
    subject: Subject
    damage: Damage
    place: Literal["graph", "files"]
    """What differs from a faithful export; only the graph is there when the gate compares at export time."""
    check: str
    """A check by which a receiver of the bundle catches it; none of one in NOT_CAUGHT."""


def mutated(mutation: Mutation, bundle: Path, folder: Path, built: Built | None = None) -> Path:
    """A copy of a bundle with the fault in it, sealed again. `built`: the subject that the bundle is of.

    Raises LookupError where the fault does not apply to it.
    """
    shutil.copytree(bundle, folder)
    mutation.damage(folder, built)
    seal(folder, read_manifest(folder))
    return folder


def on_graph(edit: graphs.Edit, which: int = -1) -> Damage:
    """The damage by a change of a graph: of the last one, which gives the logits, or of another."""
    return on_graph_of(lambda _: edit, which)


def on_graph_of(edit: Callable[[Path], graphs.Edit], which: int = -1) -> Damage:
    """The same by a change that depends on the bundle."""

    def damage(folder: Path, built: Built | None) -> None:
        file = folder / graphs_in(folder)[which]
        model = onnx.load(file)
        edit(folder)(model)
        onnx.save(model, file)

    return damage


def graphs_in(folder: Path) -> tuple[str, ...]:
    """The names of the graphs of a bundle."""
    return graphs_of(read_manifest(folder))


def on_files(edit: Callable[[Path], None]) -> Damage:
    """The damage by a change of other files."""
    return lambda folder, _: edit(folder)


def unscaled(folder: Path) -> graphs.Edit:
    """Numbers in deviations from the mean, which a task of numbers has."""
    task: Any = read_manifest(folder).task
    return graphs.rescale_logits(1 / task.deviation, -task.mean / task.deviation)


def layers_swapped(folder: Path) -> graphs.Edit:
    """The first two layers of as many as the model has."""
    return graphs.swap_layers(json.loads((folder / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"])


def in_graph(name: str, does: str, subject: Subject, check: str, damage: Damage) -> Mutation:
    """A fault of a graph."""
    return Mutation(name=name, does=does, subject=subject, damage=damage, place="graph", check=check)


def in_files(name: str, does: str, subject: Subject, check: str, edit: Callable[[Path], None]) -> Mutation:
    """A fault of other files."""
    return Mutation(name=name, does=does, subject=subject, damage=on_files(edit), place="files", check=check)
