"""recipe verify --source: whether any ONNX graph answers as the model that it was made from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from compiler.cli.found import find, found_options, said_of
from compiler.cli.options import given_options

F = TypeVar("F", bound=Callable[..., Any])
ALONE = ("data",)
"""Of the options of `--source`, those that `recipe verify BUNDLE` reads as well."""


def source_options(command: F) -> F:
    """--source, --bundle and what else is asked of a graph that has no recipe."""
    options = (
        click.option("--source", metavar="MODEL", help="Compare with this model: a folder or a hub id."),
        click.option(
            "--bundle",
            "other",
            type=click.Path(path_type=Path),
            help="With --source: what is compared. An ONNX file, a folder that has one, also of optimum or Olive, a "
            "bundle, or a run.",
        ),
        click.option(
            "--rounded",
            is_flag=True,
            help="With --source: its weights are rounded. Default: as its operators and weights show.",
        ),
        click.option(
            "--max-metric-drop",
            type=click.FloatRange(0, 1),
            help="With --source: how much worse a metric of a rounded graph may be. Default: 0.01 with 16 bits, 0.02 "
            "with 8, 0.1 with 4.",
        ),
        click.option("--output", default="", help="With --source: the graph's output, where it is not called logits."),
    )
    command = found_options(command)
    for option in reversed(options):
        command = option(command)
    return command


def refuse_unread(bundle: Path | None, other: Path | None, options: Mapping[str, Any]) -> None:
    """Raises UsageError for what nothing reads without --source, or with it."""
    if options["source"] is not None:
        if other is None or bundle is not None:
            raise click.UsageError("with --source, name what is compared with --bundle, and nothing else")
        return
    if bundle is None:
        raise click.UsageError("name a bundle or a run; or --source MODEL and --bundle DIR")
    if given := given_options({"other", *options} - {*ALONE}):
        raise click.UsageError(f"nothing reads {given[0]} without --source")


def refuse_with_bisect(options: Iterable[str]) -> None:
    """Raises UsageError for what nothing reads with --bisect: it chooses its rows itself."""
    if given := given_options({"other", *options} - {"source"}):
        raise click.UsageError(f"nothing reads {given[0]} with --bisect")


def verify_against(
    other: Path,
    threads: int,
    *,
    source: str,
    rounded: bool,
    max_metric_drop: float | None,
    output: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Proves that a graph answers as a model; raises GateError where it does not."""
    from runtimes.untuned import said_of_rows
    from runtimes.verification.gate import report_lines, require_passed
    from runtimes.verification.source import Asked, verify_source

    found = find(source, **options)
    click.echo(said_of(found), err=True)
    if not found.metrics:
        click.echo(f"note: {said_of_rows(found)}", err=True)
    asked = Asked(bundle=other, rounded=rounded, max_metric_drop=max_metric_drop, output=output, threads=threads)
    verification = verify_source(found, asked)
    click.echo(json.dumps(verification.to_json(), indent=2) if as_json else "\n".join(report_lines(verification)))
    require_passed(verification, code="E602", hint="what is deployed would answer otherwise: export the model again")
