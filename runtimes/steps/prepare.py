"""prepare: rows -> arrays on disk, one folder a split, and the rows themselves by role."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler import tasks as compiler_tasks
from compiler.data.images import digest_of_images, folder_of, placed
from compiler.data.readers import DataError, read_rows
from compiler.data.splits import Rows, select
from compiler.files import new_file, write_json
from compiler.hub import SourceError, changed, fetch_model, fetch_rows
from compiler.plan import File, Prepare, SplitRows
from compiler.tasks import Example, RowReader
from compiler.typed import to_json
from compiler.windows import Windowed
from runtimes import tasks
from runtimes.errors import RunError
from runtimes.events import Progress, Said
from runtimes.features import IGNORED, TARGETS, FeatureFacts, Features, Portion, write_features
from runtimes.inputs import columns_of, copied_row, named_row, open_reader
from runtimes.packing import write_packed
from runtimes.steps import Context
from runtimes.tokens import chunks
from runtimes.windows import windowed

ROWS = "rows.jsonl"
_ROWS_AT_ONCE = 1_000
_UNCUT = 2**31 - 1  # tokens
_SHOWN = 300  # characters of a row


def execute(step: Prepare, context: Context) -> Iterator[Any]:
    """Reads every file once for its rows' answers, draws the splits, and writes each split's features."""
    files: dict[str, list[_Local]] = {split.split: _local(step, split, context) for split in step.splits}
    tokenizer = fetch_model(step.tokenizer, context.root, context.sources)
    reader = compiler_tasks.module_of(step.task).reader(step.task, step.columns)
    targets = {name: _targets(paths, reader) for name, paths in files.items()}
    chosen = select(step.splits, {name: reader.classes(found) for name, found in targets.items()})
    summary: dict[str, Any] = {}
    for done, split in enumerate(step.splits):
        yield Progress(step=step.id, done=done, total=len(step.splits), unit="splits")
        rows = chosen[split.split]
        examples = _chosen(files[split.split], reader, rows)
        folder = context.folder / split.split
        if split.split == "train":
            facts = _write_train(step, examples, tokenizer, folder)
        else:
            facts = _write_rows(step, examples, tokenizer, folder, step.max_length, copies=True)
        summary[split.split] = {
            "rows": len(rows),
            "tokens": facts.num_tokens,
            "longest": facts.longest,
            "truncated": facts.truncated,
            "labels": dict(reader.label_counts(targets[split.split][rows])),
        }
        cut = f", {facts.truncated:,} cut at {step.max_length}" if facts.truncated else ""
        tokens = f", {facts.num_tokens:,} tokens" if facts.num_tokens else ""
        windows = ""
        if isinstance(step.task, Windowed):
            summary[split.split]["windows"] = facts.num_rows
            windows = f" in {facts.num_rows:,} windows"
        said = f"{split.split}: {len(rows):,} rows{windows}{tokens}{cut}"
        if facts.labels is not None:
            summary[split.split]["written"] = to_json(facts.labels)
            cut = f", {facts.labels.truncated:,} cut at {facts.labels.longest}" if facts.labels.truncated else ""
            said += f"; {facts.labels.num_tokens:,} to write{cut}"
        yield Said(step=step.id, message=said)
    write_json(context.folder / "data.json", summary)


@dataclass(frozen=True, slots=True)
class _Local:
    """A file of rows on this machine, and which of its columns holds images, if any."""

    path: Path
    file: File
    image: str | None


def _local(step: Prepare, split: SplitRows, context: Context) -> list[_Local]:
    """The files of a split, with the content that the plan was made for. Raises SourceError."""
    paths = fetch_rows(split, context.root, context.sources)
    image = compiler_tasks.image_column(step.task, step.columns)
    found = [_Local(path, file, image) for path, file in zip(paths, split.files, strict=True)]
    for local in found:
        _check_images(local)
    return found


def _check_images(local: _Local) -> None:
    """Raises SourceError where the images that the rows name are not those that were planned."""
    if local.image is None:
        return
    try:
        found = digest_of_images(local.path, local.file.format, local.image)
    except DataError as error:
        raise SourceError("R402", f"{local.file.path}: {error.message}", error.hint) from error
    if found != local.file.images:
        raise changed(f"an image of {local.file.path}")


def _examples(files: Sequence[_Local], reader: RowReader) -> Iterator[Example]:
    for local in files:
        folder = folder_of(local.path, local.file.format).absolute()
        for row in read_rows(local.path, local.file.format):
            yield reader.read(placed(row.values, local.image, folder))


def _targets(files: Sequence[_Local], reader: RowReader) -> npt.NDArray[np.float64]:
    """[N] the answer of every row of some files."""
    return np.fromiter((example.target for example in _examples(files, reader)), dtype=np.float64)


def _chosen(files: Sequence[_Local], reader: RowReader, rows: Rows) -> Iterator[Example]:
    wanted: npt.NDArray[np.bool_] = np.zeros(int(rows[-1]) + 1 if len(rows) else 0, dtype=bool)
    wanted[rows] = True
    return (example for example, chosen in zip(_examples(files, reader), wanted, strict=False) if chosen)


def _write_train(step: Prepare, examples: Iterable[Example], tokenizer: Path, folder: Path) -> FeatureFacts:
    """The facts of the features of train rows, packed as the step says. Their images are looked at here and no more."""
    if step.packing == "none":
        return _write_rows(step, examples, tokenizer, folder, step.max_length, copies=False)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as apart:
        most = step.max_length if step.packing == "whole" else _UNCUT
        facts = _write_rows(step, examples, tokenizer, Path(apart), most, copies=False)
        (Path(apart) / ROWS).replace(folder / ROWS)
        write_packed(Features(Path(apart)), step.packing, step.max_length, folder)
    return facts


def _write_rows(
    step: Prepare, examples: Iterable[Example], tokenizer: Path, folder: Path, max_length: int, *, copies: bool
) -> FeatureFacts:
    """The facts of the features of some rows; the rows are written to rows.jsonl as they pass.

    `copies`: whether their images are copied, for the gate reads them again.
    """
    module = tasks.module_of(step.task)
    encoder = open_reader(step.task, tokenizer, max_length=max_length, root=folder)
    folder.mkdir(parents=True, exist_ok=True)
    with new_file(folder / ROWS) as copy:

        def copied() -> Iterator[Example]:
            for number, example in enumerate(examples):
                yield replace(example, row=copied_row(step.task, example.row, number, folder)) if copies else example

        def encoded() -> Iterator[Portion]:
            for portion in windowed(step.task, chunks(copied(), _ROWS_AT_ONCE), encoder):
                kept = (each.row if copies else named_row(step.task, each.row) for each in portion)
                copy.writelines((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in kept)
                found = module.encode(step.task, portion, encoder)
                _require_targets(found, portion)
                yield found

        return write_features(
            encoded(),
            columns_of(step.task, encoder),
            folder,
            max_length=max_length,
            pad_token_id=encoder.pad_id,
        )


def _require_targets(portion: Portion, examples: Sequence[Example]) -> None:
    """Raises RunError for a row that has something to answer for each of its tokens, and for none of them an answer."""
    for values, example in zip(portion.ragged.get(TARGETS, ()), examples, strict=False):
        if not (values != IGNORED).any():
            row = json.dumps(example.row, ensure_ascii=False)
            shown = row if len(row) <= _SHOWN else f"{row[:_SHOWN]}..."
            message = f"nothing of a row of {len(values):,} tokens is to be learnt: {shown}"
            raise RunError("E411", message, "raise /training/max_length, or remove the row")


def read_prepared(folder: Path) -> tuple[Mapping[str, Any], ...]:
    """The rows by role that `prepare` left in a split's folder, in order."""
    with (folder / ROWS).open(encoding="utf-8") as file:
        return tuple(json.loads(line) for line in file)
