"""recipe pass-at-k: how often drawn answers pass a test of the user's."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.cli.bundle import answer, line_of, open_for
from compiler.cli.options import runs_option
from compiler.cli.rows import GivenRow, file_rows
from compiler.diagnostics import counted

if TYPE_CHECKING:
    from runtimes.bundle import Bundle


@click.command(
    "pass-at-k",
    epilog="Example:  recipe pass-at-k runs/code --input tasks.jsonl --command 'python run_tests.py' -k 1 -k 10",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--input", "source", type=click.Path(path_type=Path), required=True, help="Rows to answer, as in predict."
)
@click.option(
    "--command",
    required=True,
    help='Judges an answer: it finds the row and "answer" as JSON on standard input, and exits with 0 where the answer '
    "passes. It is started without a shell. Answers may be code: name a sandbox here if the command runs them.",
)
@click.option("-k", "ks", type=click.IntRange(min=1), multiple=True, default=(1,), help="Answers. Can be repeated.")
@click.option(
    "--samples", type=click.IntRange(min=1), default=10, show_default=True, help="Answers drawn for each row."
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    default=0.8,
    show_default=True,
    help="Of the softmax that tokens are drawn from.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds to judge an answer; then the command is killed, and the answer has not passed.",
)
@click.option("--threads", type=click.IntRange(0, 256), default=0, help="Threads; 0 for one a core.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the answers here, as JSONL."
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@runs_option
def pass_at_k(
    bundle: Path,
    source: Path,
    command: str,
    ks: tuple[int, ...],
    samples: int,
    temperature: float,
    timeout: float,
    threads: int,
    output: Path | None,
    as_json: bool,
    runs_folder: Path,
) -> None:
    """Draw answers from BUNDLE, have a command judge them, and print pass@k.

    pass@k is the chance that of k answers at least one passes. A recipe can't name a command: it runs only what is
    given here.
    """
    from runtimes.judging import judge

    if too_many := [k for k in ks if k > samples]:
        raise click.UsageError(f"-k {too_many[0]}: only {counted(samples, 'answer')} are drawn; raise --samples")
    words = command_of(command)
    opened = drawing(open_for(bundle, runs_folder, threads), temperature)
    rows = list(file_rows(source))
    asked: Iterator[GivenRow] = (row for row in rows for _ in range(samples))
    answered = answer(opened, asked, opened.manifest.columns, samples)
    progress = click.progressbar(answered, length=len(rows) * samples, label="answers", file=sys.stderr)
    with progress as drawn, ThreadPoolExecutor() as pool:
        texts, waiting = [], []
        for each in drawn:
            row, text = parts_of(each)
            texts.append(text)
            waiting.append(pool.submit(judge, words, row, text, timeout))
        verdicts = [future.result() for future in waiting]
    if output is not None:
        write_judged(output, rows, texts, verdicts)
    found = figures(verdicts, samples, sorted({*ks}))
    click.echo(json.dumps({**found, "temperature": temperature}, indent=2) if as_json else "\n".join(lines_of(found)))


def command_of(command: str) -> list[str]:
    """The words of a command, the first of which can be started. Raises UsageError."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise click.UsageError(f"--command {command}: {error}") from None
    if not words or shutil.which(words[0]) is None:
        raise click.UsageError(f"--command: there is no program {words[0] if words else 'in it'} to start")
    return words


def drawing(bundle: Bundle, temperature: float) -> Bundle:
    """The bundle, whose answers are drawn. Raises UsageError for one that writes none."""
    generation = bundle.manifest.generation
    if generation is None:
        raise click.UsageError(f"the task {bundle.task.type} writes no texts that could be drawn")
    drawn = replace(generation, temperature=temperature, num_beams=1)
    return replace(bundle, manifest=replace(bundle.manifest, generation=drawn))


def parts_of(answered: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """A row's own columns, and the text that was drawn for it."""
    return {name: value for name, value in answered.items() if name != "prediction"}, answered["prediction"]["text"]


def figures(verdicts: Sequence[str], samples: int, ks: Sequence[int]) -> dict[str, float]:
    """pass@k for each k, and what it is of. `verdicts`: those of a row's answers stand together."""
    from runtimes.metrics.pass_at_k import mean_pass_at_k

    passed = [verdicts[start : start + samples].count("passed") for start in range(0, len(verdicts), samples)]
    counts = Counter(verdicts)
    shares = {f"pass@{k}": mean_pass_at_k(passed, samples, k) for k in ks}
    return {
        **shares,
        "rows": len(passed),
        "samples": samples,
        "passed": counts["passed"],
        "timed_out": counts["timed out"],
    }


def lines_of(found: Mapping[str, float]) -> list[str]:
    """The same for a terminal."""
    shares = [f"{name:<10}{value:.4f}" for name, value in found.items() if name.startswith("pass@")]
    late = f", {found['timed_out']:,} timed out" if found["timed_out"] else ""
    total = found["rows"] * found["samples"]
    return [*shares, f"{found['passed']:,} of {total:,} answers to {counted(int(found['rows']), 'row')} passed{late}"]


def write_judged(output: Path, rows: Sequence[GivenRow], texts: Sequence[str], verdicts: Sequence[str]) -> None:
    """Writes each row with its answers and what was said of them, whole or not at all."""
    from compiler.files import new_file

    each = len(texts) // len(rows)
    with new_file(output) as file:
        for number, row in enumerate(rows):
            own = slice(number * each, (number + 1) * each)
            judged = [{"text": text, "verdict": v} for text, v in zip(texts[own], verdicts[own], strict=True)]
            file.write((line_of({**row.values, "answers": judged}) + "\n").encode())
    click.echo(f"wrote {counted(len(rows), 'row')} to {output}", err=True)
