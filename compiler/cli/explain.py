"""recipe explain, recipe schema: the language's own documentation."""

from __future__ import annotations

import textwrap
from pathlib import Path

import click


@click.command(epilog="Examples:  recipe explain R205    recipe explain --list")
@click.argument("code", required=False)
@click.option("--list", "list_all", is_flag=True, help="List every code with its title.")
def explain(code: str | None, list_all: bool) -> None:
    """Explain a diagnostic's CODE: what it means and what to do."""
    from compiler.codes import CODES
    from compiler.diagnostics import did_you_mean

    if list_all or code is None:
        click.echo("\n".join(f"{name}  {entry.title}" for name, entry in sorted(CODES.items())))
        return
    entry = CODES.get(code.upper())
    if entry is None:
        raise click.UsageError(f'no code "{code}": {did_you_mean(code.upper(), CODES, noun="codes")}')
    click.echo(f"{code.upper()}: {entry.title}\n\n{textwrap.fill(entry.text, 88)}")


@click.command(epilog="Examples:  recipe schema > recipe.schema.json    recipe schema -o recipe.schema.json")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the schema here.")
def schema(output: Path | None) -> None:
    """Print the JSON Schema of recipes. An editor completes a recipe whose "$schema" names it."""
    from compiler.files import write_text
    from compiler.schema import schema_text

    if output is not None:
        write_text(output, schema_text())
    else:
        click.echo(schema_text(), nl=False)
