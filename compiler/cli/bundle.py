"""recipe predict, recipe verify: a bundle at its receiver's, without a framework."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.cli.bundle_together import answer_line, answered_together, columns_of, typed_texts
from compiler.cli.named import bundle_folder, bundle_folders, is_numbered
from compiler.cli.options import provider_option, runs_option
from compiler.cli.received import verify_each, verify_received
from compiler.cli.rows import GivenRow, file_rows, folder_rows, input_rows, refused, typed_rows
from compiler.cli.serve import refuse_with_serve, refuse_without_serve, serve_bundle, serve_options
from compiler.cli.verify_source import refuse_unread, refuse_with_bisect, source_options, verify_against
from compiler.data.images import placed
from compiler.data.texts import BadValueError
from compiler.diagnostics import counted, printable

if TYPE_CHECKING:
    from compiler.tasks import Reads
    from runtimes.bundles.bundle import Bundle
    from runtimes.export.facts import Provider

_ROWS_AT_ONCE = 1024


@click.command(
    epilog="Examples:  recipe predict quickstart --text 'a joy'    recipe predict BUNDLE --input rows.jsonl -o a.jsonl"
    "    recipe predict BUNDLE --serve --port 8000"
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--text", "texts", multiple=True, help="A text to answer. Can be repeated.")
@click.option("--image", "images", multiple=True, help="The file of an image to answer. Can be repeated.")
@click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path),
    help="Rows to answer: .jsonl, .json, .csv, .tsv, .parquet; - for JSONL on standard input. Or a folder of images.",
)
@click.option("--column", help="The column with the text or image. Default: the bundle's.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write answers here, as JSONL.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Rows computed at once.")
@click.option("--threads", type=click.IntRange(0, 256), default=0, help="Threads; 0 for one a core.")
@provider_option
@click.option("--json", "as_json", is_flag=True, help="Print answers as JSONL.")
@runs_option
@serve_options
def predict(
    bundle: Path,
    texts: tuple[str, ...],
    images: tuple[str, ...],
    source: Path | None,
    column: str | None,
    output: Path | None,
    batch_size: int,
    threads: int,
    provider: Provider,
    as_json: bool,
    runs_folder: Path,
    serve: bool,
    **serving: Any,
) -> None:
    """Answer texts or images with BUNDLE: a bundle's folder, or a run.

    Needs onnxruntime (MLX for a function), numpy, and tokenizers or Pillow alone; with --serve also starlette and
    uvicorn.
    """
    if serve:
        refuse_with_serve(("texts", "images", "source", "column", "output", "batch_size", "as_json"))
        serve_bundle(bundle_folder(bundle, runs_folder), threads, provider, serving)
        return
    refuse_without_serve()
    asked = Asked(
        texts=texts,
        images=images,
        source=source,
        column=column,
        output=output,
        batch_size=batch_size,
        as_json=as_json or source is not None,
    )
    check_sources(asked)
    folder = bundle_folder(bundle, runs_folder)
    if is_together(folder):
        predict_together(folder, asked, threads, provider)
    else:
        predict_alone(open_for(folder, runs_folder, threads, provider), asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What `recipe predict` is asked: where the rows are from, and how and where they are answered."""

    texts: tuple[str, ...]
    images: tuple[str, ...]
    source: Path | None
    column: str | None
    output: Path | None
    batch_size: int
    as_json: bool

    def rows(self, read: Reads, column: str) -> Iterator[GivenRow]:
        """The rows, of which a task reads texts or images in a column."""
        typed = self.texts if read == "text" else self.images
        if self.source is None and not typed:
            raise click.UsageError(f"the task reads {read}s: give them with --{read}, or rows with --input")
        return given_rows(typed, self.source, column, f"--{read}")

    def write(self, answers: Iterator[dict[str, Any]], line: Callable[[dict[str, Any]], str]) -> None:
        """Writes answers into the output, or prints them: as JSONL or by their lines."""
        if self.output is not None:
            write_answers(self.output, answers)
            return
        for answered in answers:
            click.echo(line_of(answered) if self.as_json else line(answered))


def check_sources(asked: Asked) -> None:
    """Raises click's error unless there is one source of rows, and the answers go somewhere else."""
    if [bool(asked.texts), bool(asked.images), asked.source is not None].count(True) != 1:
        raise click.UsageError("give texts with --text, images with --image, or rows with --input")
    output, source = asked.output, asked.source
    if output is not None and source is not None and output.resolve() == source.resolve():
        raise click.UsageError(f"{output} holds the rows: name another file for the answers")


def is_together(folder: Path) -> bool:
    """Whether a folder holds a bundle of several tasks."""
    from runtimes.bundles import manifest

    return manifest.is_together(folder)


def predict_alone(opened: Bundle, asked: Asked) -> None:
    """Answers rows with a bundle of one task."""
    from compiler import tasks as compiler_tasks
    from runtimes import tasks

    columns = dict(opened.manifest.columns)
    chief, *others = compiler_tasks.asked_roles(opened.task, columns)
    columns |= {chief: asked.column} if asked.column else {}
    rows = asked.rows(compiler_tasks.reads(opened.task), columns[chief])
    if asked.source is None and others:
        raise click.UsageError(f"the task reads {' and '.join((chief, *others))}: give rows with --input")
    line = tasks.module_of(opened.task).line
    asked.write(
        told_of_cuts(answer(opened, rows, columns, asked.batch_size)),
        lambda answered: printable(f"{line(answered['prediction'])}  {answered[columns[chief]]}"),
    )


def predict_together(folder: Path, asked: Asked, threads: int, provider: Provider) -> None:
    """Answers texts or rows with all tasks of a bundle."""
    if asked.images:
        raise click.UsageError("the tasks read texts: give them with --text, or rows with --input")
    from runtimes.bundles.together import open_together

    opened = open_together(folder, threads=threads, provider=provider)
    typed = asked.source is None
    columns = {name: columns_of(part, asked.column, typed=typed) for name, part in opened.parts.items()}
    readers = {name: row_reader(part, columns[name]) for name, part in opened.parts.items()}
    rows = typed_texts(asked.texts) if typed else given_rows((), asked.source, "", "")
    asked.write(
        answered_together(opened, rows, readers, asked.batch_size),
        lambda answered: answer_line(opened, answered),
    )


def given_rows(values: tuple[str, ...], source: Path | None, column: str, flag: str) -> Iterator[GivenRow]:
    """The rows that the command line names: values of a flag, a file, or - for standard input."""
    if source is None:
        return typed_rows(values, column, flag)
    if source.is_dir():
        return folder_rows(source, column)
    return input_rows() if str(source) == "-" else file_rows(source)


def open_for(bundle: Path, runs_folder: Path, threads: int, provider: Provider = "cpu") -> Bundle:
    """The bundle in a folder, or the bundle of a run."""
    from runtimes.bundles.bundle import open_bundle

    folder = bundle_folder(bundle, runs_folder)
    if is_together(folder):
        raise click.UsageError(f"{folder} holds several tasks: name the folder of one of them in it")
    return open_bundle(folder, threads=threads, provider=provider)


def answer(
    bundle: Bundle, rows: Iterator[GivenRow], columns: Mapping[str, str], batch_size: int
) -> Iterator[dict[str, Any]]:
    """Each row with its prediction, the task's natural answer, in order; memory does not grow with the rows."""
    given, done = row_reader(bundle, columns), 0
    while portion := list(islice(rows, _ROWS_AT_ONCE)):
        numbers = range(done, done + len(portion))
        predictions = bundle.predict([given(row) for row in portion], batch_size, numbers=numbers)
        done += len(portion)
        for row, prediction in zip(portion, predictions, strict=True):
            yield {**row.values, "prediction": prediction}


def row_reader(bundle: Bundle, columns: Mapping[str, str]) -> Callable[[GivenRow], Mapping[str, Any]]:
    """What reads of a row, by role, what the bundle is to answer. It raises RecipeError about a row that can't be."""
    from compiler import tasks

    reader = tasks.module_of(bundle.task).reader(bundle.task, columns)
    image = tasks.image_column(bundle.task, columns)

    def given(row: GivenRow) -> Mapping[str, Any]:
        try:
            found = reader.given(placed(row.values, image, row.folder))
            bundle.check(found)  # so that what can't be answered is said of its row
        except BadValueError as error:
            raise refused(row, error, f'rename it to "{error.column}", or name it with --column') from None
        return found

    return given


def told_of_cuts(answers: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The answers; says after the last of them how many were written from a prompt that was cut."""
    from runtimes.generation.answers import PROMPT_CUT, said_of_cuts

    total, sides = 0, []
    for answered in answers:
        yield answered
        prediction = answered["prediction"]
        sides += [prediction[PROMPT_CUT]] if PROMPT_CUT in prediction else []
        total += 1
    if said := said_of_cuts(sides, total):
        click.echo(f"warning: {said}", err=True)


def line_of(answered: dict[str, Any]) -> str:
    """An answered row as a line of JSONL. What JSON has no word for (a date of a parquet file) stands as text."""
    line = json.dumps(answered, ensure_ascii=False, default=str)
    return line.encode("utf-8", "backslashreplace").decode()  # half of a surrogate pair is an escape again


def write_answers(output: Path, answers: Iterator[dict[str, Any]]) -> None:
    """Writes answers as JSONL, whole or not at all."""
    from compiler.files import new_file

    count = 0
    with new_file(output) as file:
        for answered in answers:
            file.write((line_of(answered) + "\n").encode())
            count += 1
    click.echo(f"wrote {counted(count, 'answer')} to {output}", err=True)


@click.command(
    epilog="Examples:  recipe verify runs/quickstart    recipe verify BUNDLE --data held-out.jsonl --json    "
    "recipe verify --source org/name --bundle model_quantized.onnx --data rows.jsonl --column text=snippet"
)
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@source_options
@click.option("--threads", type=click.IntRange(0, 256), default=0, help="Threads; 0 for one a core.")
@provider_option
@click.option("--bisect", is_flag=True, help="Say which layer and operator of the graph leave the source first.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@runs_option
def verify(
    bundle: Path | None,
    other: Path | None,
    threads: int,
    provider: Provider,
    bisect: bool,
    as_json: bool,
    runs_folder: Path,
    **options: Any,
) -> None:
    """Prove that BUNDLE answers as the model it was made from. Exits 3 when it does not.

    BUNDLE may be a run: then each of its bundles is proven, and told under its name; runs/NAME/bundle-2 is one alone.
    Needs onnxruntime (MLX for a function), numpy, and tokenizers or Pillow alone. Lines that begin with "told" are the
    sender's word. With --source the model itself is asked, by PyTorch, and what is compared may be any ONNX graph:
    --data has the rows, with answers or without.
    With --bisect the layers of a run, or of a bundle or a graph and its --source, are compared, by PyTorch too.
    """
    if provider != "cpu" and (bisect or options["source"] is not None):
        raise click.UsageError("--provider is for what a bundle's receiver does, without --source and --bisect")
    if bisect and other is None:
        verify_layers(bundle, runs_folder, threads, options, as_json=as_json)
        return
    refuse_unread(bundle, other, options)
    if other is not None:
        place = other if other.exists() and not (other / "plan.json").exists() else bundle_folder(other, runs_folder)
        verify_against(place, threads, as_json=as_json, bisect=bisect, **options)
        return
    assert bundle is not None, "asked for just now"
    folders = bundle_folders(bundle, runs_folder)
    prove = verify_each if is_numbered(folders, bundle) else verify_received
    prove(folders, options["data"], threads, provider, as_json=as_json)


def verify_layers(
    bundle: Path | None, runs_folder: Path, threads: int, options: Mapping[str, Any], *, as_json: bool
) -> None:
    """Compares a graph with its source layer by layer; raises GateError where one differs."""
    from compiler.cli.bisect import bisect_named

    if bundle is None:
        raise click.UsageError("name the run or the bundle whose layers are to be compared")
    refuse_with_bisect(options)
    bisect_named(bundle, runs_folder, options["source"], options["revision"], threads, as_json=as_json)
