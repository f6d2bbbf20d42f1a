"""recipe plan: the plan of a recipe, for a person or a machine, and what differs between two."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from compiler.auto import Choice
from compiler.cli.files import plan_in
from compiler.cli.options import fact_source, recipe_options, runtime_option, target_option
from compiler.diagnostics import printable, render
from compiler.driver import compile_recipe
from compiler.files import write_text
from compiler.groups import LAYER
from compiler.loading import load
from compiler.methods import Tuned
from compiler.placement import LIMIT_HINT, Placement, Runtime, Target, place, unkept_limit
from compiler.plan import Plan, Step, changed_steps, identity, trainings

_HIDDEN = frozenset(["step", "splits", "model", "tokenizer", "baseline_model", "lengths"])


@click.command(
    epilog="Examples:  recipe plan r.json    recipe plan r.json -o plan.json    recipe plan --diff old.json new.json"
)
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@recipe_options
@target_option
@runtime_option
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the plan here, as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.option(
    "--diff",
    nargs=2,
    type=click.Path(path_type=Path),
    metavar="BEFORE AFTER",
    help="What AFTER would do again; recipes or plans.",
)
def plan(
    recipe: Path | None,
    overrides: tuple[str, ...],
    allowed: tuple[Path, ...],
    target: Target,
    runtime: Runtime | None,
    output: Path | None,
    as_json: bool,
    diff: tuple[Path, Path] | None,
) -> None:
    """Print the plan of RECIPE (or a plan): its steps, their keys, and every choice with its reason."""
    if diff is not None and (recipe is not None or output is not None or as_json):
        raise click.UsageError("--diff takes two files and no other argument")
    if diff is not None:
        before, after = (read_plan(path, overrides, allowed, target, runtime) for path in diff)
        click.echo("\n".join(difference_lines(before, after)))
        return
    if recipe is None:
        raise click.UsageError("name a recipe, or two plans with --diff")
    if output is not None and output.resolve() == recipe.resolve():
        raise click.UsageError(f"{output} is the recipe: name another file for the plan")
    made, placements = placed_plan(recipe, overrides, allowed, target, runtime)
    if output is not None:
        write_text(output, made.text())
    if as_json:
        click.echo(made.text(), nl=False)
    else:
        lines = plan_lines(made, placements)
        terminal = sys.stdout.isatty()
        click.echo("\n".join(wrapped(lines, shutil.get_terminal_size().columns) if terminal else lines))


def placed_plan(
    path: Path, overrides: tuple[str, ...], allowed: tuple[Path, ...], target: Target, runtime: Runtime | None
) -> tuple[Plan, Mapping[str, Placement]]:
    """The plan in a file, or that of the recipe in it, whose findings are said; and where its stages would run."""
    found = plan_in(path)
    if found is not None:
        refuse_overrides(overrides)
        return found, place_plan(found, target, runtime)
    compiled = compile_recipe(load(path, overrides, allowed=allowed), fact_source(allowed), target, runtime)
    if compiled.findings:
        click.echo(render(compiled.findings, "text"), err=True)
    return compiled.plan, compiled.placements


def refuse_overrides(overrides: tuple[str, ...]) -> None:
    """Raises click's error for overrides of a plan."""
    if overrides:
        raise click.UsageError("--set is for recipes: a plan is already compiled")


def place_plan(
    plan: Plan,
    target: Target,
    runtime: Runtime | None,
    micro_batch_size: int | None = None,
    *,
    gradient_checkpointing: bool = False,
) -> dict[str, Placement]:
    """The placements of a plan that was made elsewhere, by its stages."""
    trained = {step.stage: step for each in plan.steps for step in trainings(each)}
    if {*trained} != {*plan.stages}:
        raise click.ClickException(f"the plan {plan.name} has no train step: there is nothing to run")
    if unkept := unkept_limit(target, runtime or "auto"):
        raise click.UsageError(f"{unkept}: {LIMIT_HINT.format(kind=target.kind)}")
    wanted = runtime or "auto"
    return {
        stage: place(target, step.batch_size, micro_batch_size, wanted, gradient_checkpointing=gradient_checkpointing)
        for stage, step in trained.items()
    }


def read_plan(
    path: Path, overrides: tuple[str, ...], allowed: tuple[Path, ...], target: Target, runtime: Runtime | None
) -> Plan:
    """The plan in a file, or the plan of the recipe in it."""
    found = plan_in(path)
    return found or compile_recipe(load(path, overrides, allowed=allowed), fact_source(allowed), target, runtime).plan


def plan_lines(made: Plan, placements: Mapping[str, Placement]) -> list[str]:
    """The plan as a person reads it."""
    keys = made.keys()
    lines = [
        f"plan {made.name} for {made.target}",
        *dict.fromkeys(f"  {_where(stage, placements)}" for stage in made.stages),
        "",
        "steps",
    ]
    for step in made.steps:
        after = f" after {', '.join(step.inputs)}" if step.inputs else ""
        lines.append(f"  {step.id:<10} {keys[step.id][:12]}{after}")
        lines += [f"    {line}" for line in _parameters(identity(step))]
        lines += [f"    {line}" for line in _tuned(step)]
    return [*lines, "", "choices", *(f"  {line}" for line in choice_lines(made.choices))]


def _where(stage: str, placements: Mapping[str, Placement]) -> str:
    """Where a stage runs; it is named where others run otherwise."""
    placement = placements[stage]
    name = f"{stage} " if len({*placements.values()}) > 1 else ""
    again = ", layers computed again" if placement.gradient_checkpointing else ""
    return (
        f"{name}placed on {placement.device} ({placement.device_reason}), {placement.engine}, "
        f"{placement.micro_batch_size} rows at once{again}"
    )


def wrapped(lines: Sequence[str], width: int) -> list[str]:
    """The lines in a width, between words; what is left of a line stands deeper than its beginning."""
    found: list[str] = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()))
        whole = textwrap.TextWrapper(
            width=width,
            initial_indent=indent,
            subsequent_indent=f"{indent}    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        found += whole.wrap(line.strip()) or [""]
    return found


def _parameters(parameters: Mapping[str, object]) -> Iterator[str]:
    """A line for each parameter; of several tasks those of each. What tells a person nothing is left out."""
    for name, value in parameters.items():
        if name == "parts" and isinstance(value, Mapping):
            for part, own in value.items():
                yield f"part {part}"
                yield from (f"  {line}" for line in _parameters(own))
        elif name not in _HIDDEN:
            yield printable(f"{name} {json.dumps(value, ensure_ascii=False)}")


def _tuned(step: Step) -> list[str]:
    """What a train step trains of its model, below the task's head."""
    lines: list[str] = []
    for train in trainings(step):
        lines += _tuned_by(train.tuned)
    return list(dict.fromkeys(lines))  # several tasks share what is below their heads


def _tuned_by(tuned: Tuned) -> list[str]:
    total, trained = tuned.total, tuned.parameters
    if not total or trained is None:
        return ["tuned by the method; how many parameters is known when the model is built"]
    counts = Counter(LAYER.sub(".*.", name) for name in tuned.modules)
    times = {name: f" ({count} times)" if count > 1 else "" for name, count in counts.items()}
    return [
        f"tuned {trained:,} of {total:,} parameters ({trained / total:.2%}) below the task's head",
        *(printable(f"  {name}{count}") for name, count in times.items()),
    ]


def choice_lines(choices: tuple[Choice, ...]) -> list[str]:
    """What was chosen for open values, and why."""
    return [printable(f"{c.pointer} = {json.dumps(c.value, ensure_ascii=False)}: {c.reason}") for c in choices]


def difference_lines(before: Plan, after: Plan) -> list[str]:
    """What a change of plans costs: the steps that would be done again, with what differs; kept ones; lost ones."""
    changed = dict(changed_steps(before, after))
    kept = [step.id for step in after.steps if step.id not in changed]
    lines = [f"again  {name}: {why}" for name, why in changed.items()]
    lines += [f"kept   {name}" for name in kept]
    ids = {step.id for step in after.steps}
    lines += [f"gone   {step.id}" for step in before.steps if step.id not in ids]
    old = {c.pointer: c for c in before.choices}
    for choice in after.choices:
        was = old.get(choice.pointer)
        if was is not None and was.value != choice.value:
            lines.append(f"chosen {choice.pointer}: {was.value} -> {choice.value} ({choice.reason})")
    return lines
