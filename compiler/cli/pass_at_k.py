"""recipe pass-at-k: how often drawn answers pass a test of the user's."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

import click

from compiler.cli.bundle import answer, line_of, open_for, row_reader, told_of_cuts
from compiler.cli.options import FiniteRange, runs_option
from compiler.cli.rows import GivenRow, file_rows
from compiler.diagnostics import counted

if TYPE_CHECKING:
    from runtimes.bundles.bundle import Bundle

T = TypeVar("T")


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
    help='Judges an answer: it finds {"row": ..., "answer": ...} as JSON on standard input, and exits with 0 where the '
    "answer passes. It is started without a shell. Answers may be code: name a sandbox here if the command runs them.",
)
@click.option("-k", "ks", type=click.IntRange(min=1), multiple=True, default=(1,), help="Answers. Can be repeated.")
@click.option(
    "--samples", type=click.IntRange(min=1), default=10, show_default=True, help="Answers drawn for each row."
)
@click.option(
    "--temperature",
    type=FiniteRange(min=0, max=100, min_open=True),
    default=0.8,
    show_default=True,
    help="Of the softmax that tokens are drawn from.",
)
@click.option(
    "--timeout",
    type=FiniteRange(min=0, max=86_400, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds to judge an answer; then the command is killed, and the answer has not passed.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Commands at once: more are sooner done, and each takes longer.",
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
    jobs: int,
    threads: int,
    output: Path | None,
    as_json: bool,
    runs_folder: Path,
) -> None:
    """Draw answers from BUNDLE, have a command judge them, and print pass@k.

    pass@k is the chance that of k answers at least one passes. A recipe can't name a command: it runs only what is
    given here.
    """
    if too_many := [k for k in ks if k > samples]:
        raise click.UsageError(f"-k {too_many[0]}: only {counted(samples, 'answer')} are drawn; raise --samples")
    if output is not None and output.resolve() == source.resolve():
        raise click.UsageError(f"{output} holds the rows: name another file for the answers")
    words = command_of(command)
    opened = drawing(open_for(bundle, runs_folder, threads), temperature)
    rows = list(file_rows(source))
    texts = drawn(opened, rows, samples)
    judged = [(row.values, text) for row, own in zip(rows, texts, strict=True) for text in own]
    verdicts = verdicts_of(words, judged, timeout, jobs)
    found = figures(verdicts, samples, sorted({*ks}))
    click.echo(json.dumps({**found, "temperature": temperature}, indent=2) if as_json else "\n".join(lines_of(found)))
    if output is not None:
        write_judged(output, rows, texts, verdicts)


def drawn(bundle: Bundle, rows: Sequence[GivenRow], samples: int) -> list[list[str]]:
    """The texts that are drawn for each row. Every row is read before the first is answered."""
    columns = bundle.manifest.columns
    readable = row_reader(bundle, columns)
    for row in rows:
        readable(row)
    asked: Iterator[GivenRow] = (row for row in rows for _ in range(samples))
    answers = told_of_cuts(answer(bundle, asked, columns, samples))
    with progress(answers, len(rows) * samples, "answers") as found:
        texts = [each["prediction"]["text"] for each in found]
    return [texts[start : start + samples] for start in range(0, len(texts), samples)]


def verdicts_of(
    command: Sequence[str], judged: Sequence[tuple[Mapping[str, Any], str]], timeout: float, jobs: int
) -> list[str]:
    """The verdict on each text, a row's own. Raises UsageError where the command can't be started."""
    from runtimes.judging import judge

    stop = Event()
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(judge, command, row, text, timeout, stop.is_set) for row, text in judged]
        try:
            with progress(waiting, len(waiting), "verdicts") as futures:
                return [future.result() for future in futures]
        except OSError as error:
            raise click.UsageError(f"--command: {error}") from None
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def progress(items: Iterable[T], length: int, label: str) -> AbstractContextManager[Iterable[T]]:
    """The items, with a bar on a terminal while they are gone through."""
    bar: AbstractContextManager[Iterable[T]] = click.progressbar(items, length=length, label=label, file=sys.stderr)
    return bar


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
        "crashed": counts["crashed"],
        "timed_out": counts["timed out"],
    }


def lines_of(found: Mapping[str, float]) -> list[str]:
    """The same for a terminal."""
    shares = [f"{name:<10}{value:.4f}" for name, value in found.items() if name.startswith("pass@")]
    late = f", {found['timed_out']:,} timed out" if found["timed_out"] else ""
    crashed = f", the command crashed on {found['crashed']:,}" if found["crashed"] else ""
    total = found["rows"] * found["samples"]
    return [
        *shares,
        f"{found['passed']:,} of {total:,} answers to {counted(int(found['rows']), 'row')} passed{late}{crashed}",
    ]


def write_judged(
    output: Path, rows: Sequence[GivenRow], texts: Sequence[Sequence[str]], verdicts: Sequence[str]
) -> None:
    """Writes each row with its answers and what was said of them, whole or not at all."""
    from compiler.files import new_file

    said = iter(verdicts)
    with new_file(output) as file:
        for row, own in zip(rows, texts, strict=True):
            answers = [{"text": text, "verdict": next(said)} for text in own]
            file.write((line_of({"row": row.values, "answers": answers}) + "\n").encode())
    click.echo(f"wrote {counted(len(rows), 'row')} to {output}", err=True)
