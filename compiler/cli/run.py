"""recipe run: a recipe or plan to its end, resuming by itself."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import click

from compiler import tasks
from compiler.cli.files import plan_in
from compiler.cli.options import fact_source, recipe_options, runs_option, runtime_option, target_option
from compiler.cli.plan import choice_lines, place_plan, refuse_overrides
from compiler.diagnostics import printable, render
from compiler.driver import Compiled, CompiledStage, compile_recipe
from compiler.loading import load
from compiler.placement import Placement, Runtime, Target
from compiler.plan import Prepare


@click.command(
    epilog="Examples:  recipe run r.json    recipe run r.json --set /training/epochs=1    recipe run plan.json --root ."
)
@click.argument("recipe", type=click.Path(path_type=Path))
@recipe_options
@target_option
@runtime_option
@runs_option
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="With a plan: the folder that its data paths start from. Default: the plan's.",
)
@click.option(
    "--micro-batch-size", type=click.IntRange(min=1), help="Rows computed at once. Default: the recipe's or the batch."
)
@click.option(
    "--gradient-checkpointing/--no-gradient-checkpointing",
    default=None,
    help="Compute layers again for their gradients instead of keeping them. Default: the recipe's, or not with a plan.",
)
@click.option("--json", "as_json", is_flag=True, help="Print every event as a line of JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print only warnings and the result.")
def run(
    recipe: Path,
    overrides: tuple[str, ...],
    allowed: tuple[Path, ...],
    target: Target,
    runtime: Runtime | None,
    runs_folder: Path,
    root: Path | None,
    micro_batch_size: int | None,
    gradient_checkpointing: bool | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run RECIPE (or a plan): tune, evaluate, export, verify, package.

    A finished step is never done twice, and an interrupted training goes on from its last checkpoint. Ctrl-C once
    saves and exits 130. Exits 3 when the gate of an export fails; the other exports are tried nevertheless.
    """
    found = plan_in(recipe)
    if found is None and root is not None:
        raise click.UsageError("--root is for plans: a recipe's paths start from its own folder")
    if found is not None:
        refuse_overrides(overrides)
        again = bool(gradient_checkpointing)
        made = found
        placements = place_plan(found, target, runtime, micro_batch_size, gradient_checkpointing=again)
        root = root or recipe.parent
    else:
        silent = quiet or as_json
        compiled = compile_to_run(recipe, overrides, allowed, target, runtime, quiet=silent)
        made = compiled.plan
        placements = placed(compiled, micro_batch_size, gradient_checkpointing)
        root = recipe.parent
    from compiler.cli.progress import display
    from runtimes.errors import GateError
    from runtimes.execute import execute

    sources = fact_source(allowed).sources
    with stopping() as asked:
        events = execute(
            made,
            placements[made.stages[-1]],
            runs=runs_folder,
            root=root,
            sources=sources,
            stages=placements,
            stop=lambda: bool(asked),
        )
        if as_json:
            print_json(events)
            return
        try:
            display(events, made, quiet=quiet)
        except GateError:
            tell(runs_folder / made.name)
            raise
    tell(runs_folder / made.name)
    if any((runs_folder / made.name).glob("bundle*")):
        [*_, step] = [step for step in made.steps if isinstance(step, Prepare)]
        click.echo(f"next: recipe predict {runs_folder / made.name} --{tasks.reads(step.task)} '...'")


def tell(run: Path) -> None:
    """Prints what a run measured, and where its report and its bundles are."""
    from compiler.cli.runs import read_report
    from runtimes.report import report_lines

    click.echo("\n".join(map(printable, report_lines(read_report(run)))))
    click.echo(f"report: {run / 'report.html'}")
    for bundle in sorted(run.glob("bundle*")):
        click.echo(f"bundle: {bundle}")


def compile_to_run(
    recipe: Path,
    overrides: tuple[str, ...],
    allowed: tuple[Path, ...],
    target: Target,
    runtime: Runtime | None,
    *,
    quiet: bool,
) -> Compiled:
    """A recipe's plan and its placement; says the findings and the choices."""
    from compiler.cli.check import summaries

    compiled = compile_recipe(load(recipe, overrides, allowed=allowed), fact_source(allowed), target, runtime)
    if compiled.findings:
        click.echo(render(compiled.findings, "text"), err=True)
    if not quiet:
        click.echo("\n".join(f"{recipe}: {line}" for line in summaries(compiled)))
        click.echo("\n".join(f"  {line}" for line in choice_lines(compiled.plan.choices)))
    return compiled


def placed(
    compiled: Compiled, micro_batch_size: int | None, gradient_checkpointing: bool | None
) -> dict[str, Placement]:
    """Where each stage of a recipe runs, with what the command line says over what the recipe says."""
    return {stage.text.name: _placed(stage, micro_batch_size, gradient_checkpointing) for stage in compiled.stages}


def _placed(stage: CompiledStage, micro_batch_size: int | None, gradient_checkpointing: bool | None) -> Placement:
    training = stage.resolved.training
    return replace(
        stage.placement,
        micro_batch_size=min(micro_batch_size or training.micro_batch_size, training.batch_size),
        gradient_checkpointing=(
            training.gradient_checkpointing if gradient_checkpointing is None else gradient_checkpointing
        ),
    )


@contextmanager
def stopping() -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C or SIGTERM; the second Ctrl-C interrupts at once."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        click.echo("\nstopping after this step; once more stops at once", err=True)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def print_json(events: Iterator[object]) -> None:
    """Every event as a line of JSON, as events.jsonl has it."""
    from runtimes.events import to_json

    for event in events:
        click.echo(json.dumps(to_json(event), ensure_ascii=False, default=str))
