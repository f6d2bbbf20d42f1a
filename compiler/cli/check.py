"""recipe check: every finding about recipes, with no framework loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from compiler import tasks
from compiler.cli.files import plan_in
from compiler.cli.options import fact_source, recipe_options, target_option
from compiler.diagnostics import Diagnostic, Format, RecipeError, errors, render
from compiler.loading import load
from compiler.placement import Target
from compiler.reading import read_recipe

if TYPE_CHECKING:
    from compiler.driver import Compiled


@click.command(epilog="Examples:  recipe check recipes/*.json    recipe check --no-facts --format sarif r.json")
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path))
@recipe_options
@target_option
@click.option(
    "--facts/--no-facts", default=True, help="Look at the data and the model too (default), or only at the recipe."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(get_args(Format)),
    default="text",
    show_default=True,
    help="How findings are written.",
)
def check(
    recipes: tuple[Path, ...],
    overrides: tuple[str, ...],
    allowed: tuple[Path, ...],
    target: Target,
    facts: bool,
    form: Format,
) -> None:
    """Find every mistake in RECIPES. Exits 1 when one has an error."""
    findings: list[Diagnostic] = []
    summaries: list[str] = []
    for path in recipes:
        try:
            if plan_in(path) is not None:
                raise click.UsageError(f"{path} is a plan, which was checked when it was made: recipe run {path}")
            document = load(path, overrides, allowed=allowed)
            if facts:
                from compiler.driver import compile_recipe

                compiled = compile_recipe(document, fact_source(allowed), target)
                findings += compiled.findings
                summaries.append(f"{path}: {summary(compiled)}")
            else:
                read_recipe(document)
                summaries.append(f"{path}: the recipe is well formed (data and model were not looked at)")
        except RecipeError as error:
            findings += error.diagnostics
    findings = list(dict.fromkeys(findings))  # recipes that extend the same base share its faults
    rendered = render(findings, form)
    if rendered:
        click.echo(rendered)
    if form == "text":
        click.echo("\n".join([*summaries, *_total(findings)]))
    if errors(findings):
        raise click.exceptions.Exit(1)


def _total(findings: list[Diagnostic]) -> list[str]:
    count = len(errors(findings))
    return [f"{count} error{'' if count == 1 else 's'}"] if count else []


def summary(compiled: Compiled) -> str:
    """A line about what a recipe would do."""
    training = compiled.resolved.training
    rows = ", ".join(f"{split.num_rows:,} {split.split}" for split in compiled.resolved.splits)
    answers = tasks.module_of(compiled.recipe.task).summary(compiled.data)
    return (
        f"ok: {rows} rows; {answers}; {compiled.model.model_type}, "
        f"{compiled.model.num_parameters / 1e6:.1f}M parameters; {compiled.resolved.method.type}, "
        f"{training.num_steps} steps of {training.batch_size}"
    )
