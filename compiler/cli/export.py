"""recipe export: a model that was not tuned here, through the gate into a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.checks import resolved_export
from compiler.cli.found import find, found_options, said_of
from compiler.cli.options import FiniteRange
from compiler.functions import is_function
from compiler.genai import settled_alone
from compiler.recipe import Export, Mlx, Onnx
from compiler.tasks import Task
from compiler.typed import ShapeError, read

if TYPE_CHECKING:
    from runtimes.untuned import Found

EXAMPLES = (
    "Examples:  recipe export ./my-classifier    recipe export org/name --data rows.jsonl --column text=snippet "
    "--column label=sentiment --precision int8 -o bundle    recipe export org/name --format mlx --bits 4"
)


@click.command(epilog=EXAMPLES)
@click.argument("model")
@click.option(
    "--format", "form", type=click.Choice(["onnx", "mlx"]), default="onnx", show_default=True, help="What is written."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16", "int8", "int8-static", "int4"]),
    help="Of the weights, as in a recipe: bf16 is for mlx, whole numbers are for onnx. int8-static needs --data. "
    "Default: fp32.",
)
@click.option("--bits", type=click.Choice(["4", "8"]), help="With --format mlx: bits of a quantized weight.")
@click.option("--opset", type=click.IntRange(18, 23), help="With --format onnx: the ONNX operator set.")
@click.option(
    "--max-metric-drop",
    type=FiniteRange(0, 1),
    help="How much worse a metric may be after rounding. Default: by the precision, as in a recipe.",
)
@found_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The folder that is written; it may not be there yet. Default: the model's name and the format.",
)
@click.option("--json", "as_json", is_flag=True, help="Print every event as a line of JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print only warnings and the result.")
def export(
    model: str,
    form: str,
    precision: str | None,
    bits: str | None,
    opset: int | None,
    max_metric_drop: float | None,
    output: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Export MODEL, a folder or a hub id, as it is, and prove that the export answers as it does.

    The task is what the model's own head answers. The export is compared with the model on the rows of --data; where
    these have answers, metrics are compared too. OUT appears only when the gate has passed: a bundle for `recipe
    predict` and `recipe verify`, or a folder for mlx-lm. Exits 3 when the gate fails.
    """
    written = asked(form, precision, bits, opset, max_metric_drop)
    from runtimes.export import require_format

    require_format(written)
    found = find(model, told=True, **options)
    written = resolved_export(settled_alone(written, found.task, found.facts))
    require_format(written)
    refuse_static(written, found)
    out = output or Path(f"{found.name}-{form}{'' if precision in (None, 'fp32') else f'-{precision}'}")
    refuse_there(out)
    from compiler.cli.progress import display
    from compiler.cli.run import print_json
    from runtimes.untuned import export_found, plan_of

    plan = plan_of(found, written)
    events = export_found(found, plan, out)
    if as_json:
        print_json(events)
        return
    if not quiet:
        click.echo(said_of(found), err=True)
    display(events, plan, quiet=quiet)
    click.echo("\n".join(next_lines(written, found.task, out)))


def asked(form: str, precision: str | None, bits: str | None, opset: int | None, drop: float | None) -> Export:
    """The export that the command line asks for. Raises UsageError."""
    if form == "onnx":
        _refuse(form, bits=bits)
        value: dict[str, object] = {"format": form, "opset": opset, "precision": precision, "max_metric_drop": drop}
    else:
        _refuse(form, opset=opset)
        number = int(bits) if bits else None
        value = {"format": form, "bits": number, "precision": precision, "max_metric_drop": drop}
    try:
        asked_for: Export = read(Export, {key: each for key, each in value.items() if each is not None})  # type: ignore[arg-type]  # a union is no class to mypy
    except ShapeError:
        raise click.UsageError(f"the format {form} is not written in {precision}") from None
    if asked_for.is_exact and drop is not None:
        raise click.UsageError("nothing reads --max-metric-drop where nothing is rounded")
    return asked_for


def refuse_static(written: Export, found: Found) -> None:
    """Raises UsageError where there is nothing on which int8-static could see ranges."""
    from runtimes import tasks

    if not isinstance(written, Onnx) or written.precision != "int8-static":
        return
    if tasks.module_of(found.task).head(found.task).cached:
        raise click.UsageError(
            "int8-static is not for what writes token after token: --precision int8 has weights alone"
        )
    if found.rows is None:
        raise click.UsageError("int8-static sees the ranges of numbers on rows: give some with --data")


def _refuse(form: str, **options: object) -> None:
    """Raises UsageError for an option that nothing reads with a format."""
    for name, value in options.items():
        if value is not None:
            raise click.UsageError(f"nothing reads --{name} with --format {form}")


def refuse_there(out: Path) -> None:
    """Raises UsageError where something is at the place that is to be written."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise click.UsageError(f"{out} is there already: remove it, or name another folder with -o")


def next_lines(written: Export, task: Task, out: Path) -> list[str]:
    """What a user does next with what was written."""
    from compiler import tasks

    if isinstance(written, Mlx) and not is_function(written, task):
        return [f"mlx-lm: {out}", f"next: mlx_lm.generate --model {out} --prompt '...'"]
    return [f"bundle: {out}", f"next: recipe predict {out} --{tasks.reads(task)} '...'"]
