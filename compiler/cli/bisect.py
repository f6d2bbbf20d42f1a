"""recipe verify --bisect: the first layer and operator of an exported graph that leave its source."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compiler.cli.files import plan_in

if TYPE_CHECKING:
    from runtimes.localisation.finding import Localised


def bisect_named(
    named: Path, runs_folder: Path, source: str | None, revision: str | None, threads: int, *, as_json: bool
) -> None:
    """Prints what is found of a run, or of a bundle and its source. Raises GateError E603 where a layer differs."""
    tell(dict(_found(named, runs_folder, source, revision, threads)), as_json=as_json)


def tell(found: Mapping[str, Localised], *, as_json: bool) -> None:
    """Prints what is found, by the name of what was compared. Raises GateError E603 where a layer differs."""
    from runtimes.errors import GateError

    if as_json:
        click.echo(json.dumps({name: each.to_json() for name, each in found.items()}, indent=2))
    else:
        for name, each in found.items():
            first, *others = each.lines()
            click.echo("\n".join([f"{name}  {first}", *(f"  {line}" for line in others)]))
    faults = [f"{name}: {each.layer}" for name, each in found.items() if each.found]
    if faults:
        raise GateError("E603", f"{', '.join(faults)} does not compute as its source", "export the model again")


def _found(
    named: Path, runs_folder: Path, source: str | None, revision: str | None, threads: int
) -> Iterator[tuple[str, Localised]]:
    """What is found, by the name of what was compared."""
    from runtimes.errors import RunError
    from runtimes.store import Store
    from runtimes.verification.bisect import bisect_bundle, bisect_run

    run = next((folder for folder in (named, runs_folder / named) if (folder / "plan.json").exists()), None)
    if source is None and run is not None:
        plan = plan_in(run / "plan.json")
        assert plan is not None, "it is there"
        yield from bisect_run(plan, Store(run.absolute().parent))
        return
    if source is None:
        message = f"{named} is no run: layers are compared with a source"
        raise RunError("E607", message, "name the model that it was made from with --source")
    from compiler.cli.found import folder_of
    from compiler.cli.named import bundle_folder

    folder = bundle_folder(named, runs_folder)
    yield str(folder), bisect_bundle(folder, folder_of(source, revision), threads=threads)
