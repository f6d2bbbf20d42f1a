"""The bundles that the command line names: by themselves, by a run's folder or by its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click


def bundle_folder(named: Path, runs_folder: Path) -> Path:
    """The folder of a bundle that is named by itself or by a run; of a run with several, the first. Says which."""
    folders = bundle_folders(named, runs_folder)
    if is_numbered(folders, named):
        count = _num_exports(folders[0].parent)
        click.echo(f"note: {folders[0]} is taken, of {count} exports: name another one's folder for that", err=True)
    return folders[0]


def is_numbered(folders: Sequence[Path], named: Path) -> bool:
    """Whether bundles were found as those of a run with several exports, also where one alone is left of them."""
    return folders[0] != named and folders[0].name != "bundle"


def _num_exports(run: Path) -> int:
    from compiler.cli.runs import read_report

    return len({step["id"] for step in read_report(run)["steps"] if step["id"].startswith("package")})


def bundle_folders(named: Path, runs_folder: Path) -> list[Path]:
    """Every bundle of a run, in the order of its exports; the one that is named where it is no run.

    Says on standard error that one of the run's exports failed its gate.
    """
    run = next((folder for folder in (named, runs_folder / named) if (folder / "plan.json").exists()), None)
    numbered = sorted(run.glob("bundle-*"), key=_place) if run is not None else []  # of a run with several exports
    alone = [named, named / "bundle", runs_folder / named / "bundle"]
    whole = [folder for folder in (*alone, *numbered) if (folder / "manifest.json").exists()]
    found = whole if whole and whole[0] in numbered else whole[:1]
    if not found and run is not None:
        raise click.UsageError(f"the run {run} has no bundle: {_why_none(run)}")
    if not found and named.is_symlink():
        message = f"{named} is a link to what is not there: copy a bundle with `cp -rL`, which follows links"
        raise click.UsageError(message)
    if not found and not named.exists():
        from compiler.cli.runs import nearest_run

        raise click.UsageError(f'no bundle or run "{named}": {nearest_run(named.name, runs_folder)}')
    if run is not None and found:
        _warn_of_gate(run)
    return found or [named]


def _place(folder: Path) -> tuple[int, str]:
    """What sorts bundle-10 after bundle-9."""
    return len(folder.name), folder.name


def _warn_of_gate(run: Path) -> None:
    from compiler.cli.runs import read_report

    if read_report(run)["gate_passed"] is False:
        click.echo(f"warning: the gate of {run} failed; `recipe report {run}` says for which export", err=True)


def _why_none(run: Path) -> str:
    """Why a run has no bundle, and what to do."""
    from compiler.cli.runs import read_report

    report = read_report(run)
    folders = sorted(run.glob("mlx*"))
    if not any(step["id"].startswith("package") for step in report["steps"]) and folders:
        return f"its export is {folders[0]}, for mlx-lm: mlx_lm.generate --model {folders[0]}"
    packages = sorted(run.glob("coreml*"))
    if not any(step["id"].startswith("package") for step in report["steps"]) and packages:
        return f"its export is {packages[0] / 'model.mlpackage'}, which apps on Apple's systems open"
    if not any(step["id"].startswith("package") for step in report["steps"]):
        return 'its recipe has no export; add "export": ["onnx"] and run it again: nothing is trained again'
    if report["gate_passed"] is False:
        return f"its gate failed; `recipe report {run}` says where"
    return "it is unfinished; run it again, it goes on where it stopped"
