"""recipe runs, clean: what is in the folder of runs, and what may go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click

from compiler.cli.options import runs_option
from compiler.diagnostics import did_you_mean


@click.command(epilog="Examples:  recipe runs    recipe runs --json")
@runs_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def runs(runs_folder: Path, as_json: bool) -> None:
    """List the runs: state, gate, first metric."""
    listed = [read_report(folder) for folder in run_folders(runs_folder)]
    if as_json:
        click.echo(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    if not listed:
        click.echo(f"no runs in {runs_folder}")
    for report in listed:
        metrics = report["evaluation"]["metrics"] if report["evaluation"] else {}
        figures = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name != "loss")
        gate = {True: "gate passed", False: "gate FAILED", None: "no gate"}[report["gate_passed"]]
        click.echo(f"{report['name']:<28} {report['state']:<12} {gate:<12} {figures}")


@click.command(epilog="Examples:  recipe clean    recipe clean movie-sentiment-lora    recipe clean --all --yes")
@click.argument("names", nargs=-1)
@runs_option
@click.option("--all", "all_runs", is_flag=True, help="Delete every run.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def clean(names: tuple[str, ...], runs_folder: Path, all_runs: bool, yes: bool, dry_run: bool) -> None:
    """Delete the runs NAMES, and step outputs that no run refers to (without NAMES: only those)."""
    known = [folder.name for folder in run_folders(runs_folder)]
    for name in names:
        if name not in known:
            raise click.UsageError(f'no run "{name}": {did_you_mean(name, known, noun="runs")}')
    leaving = set(known if all_runs else names)
    kept_keys = {key for name in known if name not in leaving for key in keys_of(runs_folder / name)}
    steps = runs_folder / ".steps"
    orphans = [folder for folder in sorted(steps.glob("*")) if folder.is_dir() and folder.name not in kept_keys]
    doomed = [*(runs_folder / name for name in sorted(leaving)), *orphans]
    if not doomed:
        click.echo("nothing to delete")
        return
    size = sum(
        path.stat().st_size
        for folder in doomed
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
    for folder in doomed:
        click.echo(f"{'would delete' if dry_run else 'delete'} {folder}")
    click.echo(f"{len(doomed)} folders, {size / 2**20:,.1f} MiB")
    if dry_run or not (yes or click.confirm("delete them?")):
        return
    remove(doomed, runs_folder)


def remove(doomed: list[Path], runs_folder: Path) -> None:
    """Deletes folders, each under its lock, so that a run in progress is refused and not broken."""
    from runtimes.store import Store

    store = Store(runs_folder)
    for folder in doomed:
        with store.locked(folder.name):
            shutil.rmtree(folder)


def run_folders(runs_folder: Path) -> list[Path]:
    """The folders of runs, by name."""
    return sorted(path.parent for path in runs_folder.glob("*/plan.json"))


def keys_of(run: Path) -> set[str]:
    """The step keys that a run refers to."""
    steps = json.loads((run / "plan.json").read_text(encoding="utf-8"))["steps"]
    return {step["key"] for step in steps}


def read_report(run: Path) -> dict[str, Any]:
    """What report.json says. Raises click's error when there is no run."""
    try:
        report: dict[str, Any] = json.loads((run / "report.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = [folder.name for folder in run_folders(run.parent)]
        raise click.UsageError(
            f'no run "{run.name}" in {run.parent}: {did_you_mean(run.name, known, noun="runs")}'
        ) from None
    return report
