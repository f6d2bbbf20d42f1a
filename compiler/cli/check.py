"""recipe check: every finding about recipes, with no framework loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from compiler import tasks
from compiler.cli.files import plan_in
from compiler.cli.options import fact_source, recipe_options, runtime_option, target_option
from compiler.diagnostics import Diagnostic, Format, RecipeError, counted, errors, render
from compiler.loading import load
from compiler.placement import Runtime, Target
from compiler.reading import read_any

if TYPE_CHECKING:
    from compiler.document import Document
    from compiler.driver import Compiled, CompiledStage
    from compiler.facts import LocalFacts
    from compiler.plan import Train

    Trace = Callable[[Compiled, Path, LocalFacts], list[str]]


@click.command(epilog="Examples:  recipe check recipes/*.json    recipe check --no-facts --format sarif r.json")
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path))
@recipe_options
@target_option
@click.option(
    "--facts/--no-facts", default=True, help="Look at the data and the model too (default), or only at the recipe."
)
@click.option(
    "--trace", is_flag=True, help="Also trace the model, where the runtime runs a traced graph (MLX); imports torch."
)
@click.option("--show-example", is_flag=True, help="Also print a train row as it is read, ⟦what is learnt⟧ marked.")
@runtime_option
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
    trace: bool,
    show_example: bool,
    runtime: Runtime | None,
    form: Format,
) -> None:
    """Find every mistake in RECIPES. Exits 1 when one has an error."""
    if not facts:
        refuse_without_facts(runtime=runtime, trace=trace, show_example=show_example)
    if show_example and form != "text":
        raise click.UsageError(f"--show-example is for people to read: leave out --format {form}")
    source = fact_source(allowed)
    look = partial(
        looked_at, target=target, runtime=runtime, source=source, traces=traced if trace else None, shows=show_example
    )
    findings: list[Diagnostic] = []
    summaries: list[str] = []
    for path in recipes:
        try:
            if plan_in(path) is not None:
                raise click.UsageError(f"{path} is a plan, which was checked when it was made: recipe run {path}")
            document = load(path, overrides, allowed=allowed)
            found, lines = look(document, path.parent) if facts else alone(document)
            findings += found
            summaries += [f"{path}: {line}" for line in lines]
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


def refuse_without_facts(*, runtime: Runtime | None, trace: bool, show_example: bool) -> None:
    """Raises click's error where an option needs what --no-facts does not look at."""
    if runtime is not None:
        raise click.UsageError("--runtime is looked at with the target, which --no-facts leaves out")
    if trace:
        raise click.UsageError("--trace needs the model, which --no-facts does not look at")
    if show_example:
        raise click.UsageError("--show-example needs the data and the model, which --no-facts does not look at")


def alone(document: Document) -> tuple[Sequence[Diagnostic], list[str]]:
    """The findings and lines about a recipe without its data and model. Raises RecipeError."""
    read_any(document)
    return (), ["the recipe is well formed (data and model were not looked at)"]


def looked_at(
    document: Document,
    root: Path,
    *,
    target: Target,
    runtime: Runtime | None,
    source: LocalFacts,
    traces: Trace | None,
    shows: bool,
) -> tuple[Sequence[Diagnostic], list[str]]:
    """The findings and lines about a recipe with its data and model. Raises RecipeError."""
    from compiler.driver import compile_recipe

    compiled = compile_recipe(document, source, target, runtime)
    lines = [*summaries(compiled), *(traces(compiled, root, source) if traces else [])]
    shown = [f"the first train row{_of(stage)}:\n{example(stage, root, source)}" for stage in compiled.stages]
    return compiled.findings, [*lines, *(shown if shows else [])]


def _of(stage: CompiledStage) -> str:
    return f" of the stage {stage.text.name}" if stage.text.name else ""


def example(compiled: CompiledStage, root: Path, source: LocalFacts) -> str:
    """The first row of the train file as the model reads it, cut as it will be, with what is learnt in brackets."""
    from tokenizers import Tokenizer

    from compiler.data.readers import read_rows
    from compiler.hub import fetch_rows
    from compiler.tokens import CLOSE, OPEN, TokenRow, marked, tokens_of

    resolved = compiled.resolved
    module, [train, *_] = tasks.module_of(resolved.task), resolved.splits
    [path, *_] = fetch_rows(train, root, source.sources)
    values = next(iter(read_rows(path, train.files[0].format))).values
    pieces = module.pieces(resolved.task, module.reader(resolved.task, resolved.columns).read(values).row)
    if module.ARCHITECTURES[0] != "decoder" or compiled.model.architecture != "decoder":
        return "".join(f"{OPEN}{piece.text}{CLOSE}" if piece.supervised else piece.text for piece in pieces)
    tokenizer = Tokenizer.from_file(str(compiled.model.tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    row = tokens_of(pieces, tokenizer)
    most = resolved.training.max_length
    return marked(TokenRow(row.ids[:most], row.supervised[:most]), tokenizer)


def traced(compiled: Compiled, root: Path, source: LocalFacts) -> list[str]:
    """Lines about the model's graph in each stage. Raises RecipeError when the runtime can't train the model."""
    from compiler.hub import fetch_model
    from compiler.plan import trainings
    from compiler.stages import of_each

    steps = {found[0].stage: found for step in compiled.plan.steps if (found := trainings(step))}
    stages = {stage.text.name: stage for stage in compiled.stages}
    first, *_ = steps[compiled.plan.stages[0]]
    folder = fetch_model(first.model, root, source.sources)  # what a stage leaves differs in its head alone
    texts = [stage.text for stage in compiled.stages]
    return [*of_each(texts, lambda text: _traced(stages[text.name], steps[text.name], folder))]


def _traced(stage: CompiledStage, steps: Sequence[Train], folder: Path) -> str:
    from runtimes.backends import backend
    from runtimes.errors import RunError

    back = backend(stage.placement.engine)
    try:
        line = "; ".join(dict.fromkeys(back.check_model(step, folder) for step in steps))
    except RunError as error:
        raise RecipeError([stage.recipe.finding(error.code, "/model/id", error.message, error.hint)]) from None
    return f"{stage.text.name}: {line}" if stage.text.name else line


def _total(findings: list[Diagnostic]) -> list[str]:
    count = len(errors(findings))
    return [counted(count, "error")] if count else []


def summaries(compiled: Compiled) -> list[str]:
    """A line about what each stage of a recipe would do."""
    return [f"{stage.text.name}: {summary(stage)}" if stage.text.name else summary(stage) for stage in compiled.stages]


def summary(compiled: CompiledStage) -> str:
    """A line about what a recipe or a stage would do."""
    training = compiled.resolved.training
    parts = [f"{name}: {_rows(part)}" for name, part in compiled.parts.items()]
    count = compiled.model.num_parameters  # None where the weights are drawn anew
    size = f", {count / 1e6:.1f}M parameters" if count else ""
    return (
        f"ok: {'; '.join(parts) or _rows(compiled)}; "
        f"{compiled.model.model_type}{size}; {compiled.resolved.method.type}, "
        f"{training.num_steps} steps of {training.batch_size}"
    )


def _rows(compiled: CompiledStage) -> str:
    """The rows of a task, and what they are answered with."""
    rows = ", ".join(f"{split.num_rows:,} {split.split}" for split in compiled.resolved.splits)
    return f"{rows} rows; {tasks.module_of(compiled.recipe.task).summary(compiled.data)}"
