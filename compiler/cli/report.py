"""recipe report: what a run measured, in the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import click

from compiler.cli.options import runs_option
from compiler.cli.runs import read_report
from compiler.diagnostics import printable


@click.command(epilog="Examples:  recipe report quickstart    recipe report runs/quickstart --json")
@click.argument("run")
@runs_option
@click.option("--json", "as_json", is_flag=True, help="Print report.json.")
def report(run: str, runs_folder: Path, as_json: bool) -> None:
    """Show what RUN (a name, or a run's folder) measured."""
    folder = find_run(run, runs_folder)
    if as_json:
        click.echo(json.dumps(read_report(folder), indent=2, ensure_ascii=False))
        return
    from runtimes.report import report_lines

    click.echo("\n".join(map(printable, report_lines(read_report(folder)))))


def find_run(run: str, runs_folder: Path) -> Path:
    """The folder of a run that is named by its name or its folder."""
    named = Path(run)
    return named if (named / "plan.json").exists() else runs_folder / run
