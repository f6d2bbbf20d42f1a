"""recipe runs, clean: what is in the folder of runs, and what may go."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from compiler.cli.options import runs_option
from compiler.diagnostics import counted, did_you_mean


@click.command(epilog="Examples:  recipe runs    recipe runs --json")
@runs_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def runs(runs_folder: Path, as_json: bool) -> None:
    """List the runs: state, gate, first metric."""
    listed = [report_of(folder) or unreported(folder) for folder in run_folders(runs_folder)]
    if as_json:
        click.echo(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    if not listed:
        click.echo(f"no runs in {runs_folder}")
    for report in listed:
        figures = ", ".join(f"{name} {value:.4f}" for name, value in _metrics(report).items())
        gate = _gate(report)
        click.echo(f"{report['name']:<28} {report['state']:<12} {gate:<12} {figures}")


def _gate(report: dict[str, Any]) -> str:
    """What the gates of a run came to."""
    if report["gate_passed"] is not None:
        return "gate passed" if report["gate_passed"] else "gate FAILED"
    verdicts = [gate["verification"]["passed"] for gate in report.get("gates", {}).values() if gate]
    return "gate unrun" if None in verdicts else "no gate"


def _metrics(report: dict[str, Any]) -> dict[str, float]:
    """What was measured on held-out rows, without losses; of several tasks by task and metric."""
    tasks = {f"{name} ": part["evaluation"] for name, part in report.get("tasks", {}).items()}
    return {
        f"{task}{name}": value
        for task, evaluation in (tasks or {"": report["evaluation"]}).items()
        for name, value in (evaluation or {"metrics": {}})["metrics"].items()
        if name != "loss"
    }


@click.command(epilog="Examples:  recipe clean    recipe clean movie-sentiment-lora    recipe clean --all --yes")
@click.argument("names", nargs=-1)
@runs_option
@click.option("--all", "all_runs", is_flag=True, help="Delete every run.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def clean(names: tuple[str, ...], runs_folder: Path, all_runs: bool, yes: bool, dry_run: bool) -> None:
    """Delete the runs NAMES, and step outputs that no run refers to (without NAMES: only those)."""
    from runtimes.store import Store

    known = [folder.name for folder in run_folders(runs_folder)]
    for name in names:
        if name not in known:
            raise click.UsageError(f'no run "{name}": {nearest_run(name, runs_folder)}')
    store = Store(runs_folder)
    with ExitStack() as locks:  # no run begins or goes on while it is decided and done
        for name in known:
            locks.enter_context(store.locked(name))
        doomed = unwanted(runs_folder, set(known), set(known if all_runs else names))
        say(doomed, "would delete" if dry_run else "delete")
        if doomed and not dry_run and (yes or click.confirm("delete them?")):
            for folder in doomed:
                shutil.rmtree(folder)


def unwanted(runs_folder: Path, known: set[str], leaving: set[str]) -> list[Path]:
    """The folders of the leaving runs, and of the steps that none of the others refers to."""
    kept = {key for name in known - leaving for key in keys_of(runs_folder / name)}
    steps = sorted(path for path in (runs_folder / ".steps").glob("*") if path.is_dir())
    return [*(runs_folder / name for name in sorted(leaving)), *(path for path in steps if path.name not in kept)]


def say(doomed: list[Path], verb: str) -> None:
    """Lists folders, and what they hold together."""
    for folder in doomed:
        click.echo(f"{verb} {folder}")
    files = [path for folder in doomed for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files)
    click.echo(f"{counted(len(doomed), 'folder')}, {size / 2**20:,.1f} MiB" if doomed else "nothing to delete")


def run_folders(runs_folder: Path) -> list[Path]:
    """The folders of runs, by name."""
    return sorted(path.parent for path in runs_folder.glob("*/plan.json"))


def nearest_run(name: str, runs_folder: Path) -> str:
    """A hint: the run whose name is nearest, or which runs there are."""
    known = [folder.name for folder in run_folders(runs_folder)]
    return did_you_mean(name, known, noun="runs") if known else f"there are no runs in {runs_folder}"


def keys_of(run: Path) -> set[str]:
    """The step keys that a run refers to."""
    try:
        steps = json.loads((run / "plan.json").read_text(encoding="utf-8"))["steps"]
        return {step["key"] for step in steps}
    except (ValueError, KeyError, TypeError):
        message = f"{run / 'plan.json'} can't be read, so nobody knows which steps it needs"
        raise click.ClickException(f"{message}: run its recipe again, or delete {run}") from None


def unreported(run: Path) -> dict[str, Any]:
    """A run of which no report can be read."""
    return {"name": run.name, "state": "no report", "gate_passed": None, "evaluation": None}


def report_of(run: Path) -> dict[str, Any] | None:
    """What report.json says; None where it is not there or was damaged, which the next run repairs."""
    try:
        report: dict[str, Any] = json.loads((run / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report


def read_report(run: Path) -> dict[str, Any]:
    """What report.json says. Raises click's error when there is no run, or no report of it."""
    report = report_of(run)
    if report is None and (run / "plan.json").exists():
        raise click.ClickException(
            f"{run / 'report.json'} can't be read: run the recipe again, finished steps are kept"
        )
    if report is None:
        raise click.UsageError(f'no run "{run.name}" in {run.parent}: {nearest_run(run.name, run.parent)}')
    return report
