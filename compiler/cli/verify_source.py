"""recipe verify --source: whether any ONNX graph answers as the model that it was made from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from compiler.cli.found import find, found_options, said_of
from compiler.cli.options import FiniteRange, given_options

if TYPE_CHECKING:
    from runtimes.untuned import Found
    from runtimes.verification.source import Asked

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
            type=FiniteRange(0, 1),
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


def refuse_with_bisect(options: Mapping[str, Any]) -> None:
    """Raises UsageError for what nothing reads with --bisect: it chooses its rows itself."""
    read = {"source", "revision"} if options["source"] is not None else set()
    if given := given_options({"other", *options} - read):
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
    bisect: bool,
    **options: Any,
) -> None:
    """Proves that a graph answers as a model; GateError where it does not. `bisect`: only its layers are told."""
    from runtimes.untuned import said_of_rows
    from runtimes.verification.source import Asked

    found = find(source, **options)
    click.echo(said_of(found), err=True)
    if not found.metrics:
        click.echo(f"note: {said_of_rows(found)}", err=True)
    asked = Asked(bundle=other, rounded=rounded, max_metric_drop=max_metric_drop, output=output, threads=threads)
    if bisect:
        from compiler.cli.bisect import tell
        from runtimes.verification.bisect import bisect_source

        tell({str(other): bisect_source(found, asked)}, as_json=as_json)
    else:
        _tell(found, asked, as_json=as_json)


def _tell(found: Found, asked: Asked, *, as_json: bool) -> None:
    from compiler.typed import to_json
    from runtimes.verification.gate import report_lines, require_passed
    from runtimes.verification.source import verify_source

    compared = verify_source(found, asked)
    verification, localised = compared.verification, compared.localised
    where = [] if localised is None else localised.lines()
    if as_json:
        layer = None if localised is None else to_json(replace(localised, layers=()))
        click.echo(json.dumps({**verification.to_json(), "localised": layer}, indent=2))
    else:
        click.echo("\n".join([*report_lines(verification), *where]))
    advice = "what is deployed would answer otherwise: export the model again"
    require_passed(verification, code="E602", hint="; ".join([*where[:1], advice]))
