"""prepare: rows -> arrays on disk, one folder a split, and the rows themselves by role."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler import tasks as compiler_tasks
from compiler.data.images import digest_of_images, folder_of, placed
from compiler.data.readers import DataError, read_rows
from compiler.data.splits import Rows, select
from compiler.files import write_json
from compiler.hub import SourceError, changed, fetch_model, fetch_rows
from compiler.plan import File, Prepare, SplitRows
from compiler.tasks import Example, RowReader
from compiler.typed import to_json
from compiler.windows import Windowed
from runtimes import tasks
from runtimes.errors import Interrupted, RunError
from runtimes.events import Progress, Said
from runtimes.rows.feature_writer import feature_writer
from runtimes.rows.features import FACTS, IGNORED, TARGETS, FeatureFacts, Features, Portion
from runtimes.rows.inputs import columns_of, copied_row, named_row, open_reader
from runtimes.rows.packing import write_packed
from runtimes.rows.tokens import chunks
from runtimes.rows.windows import windowed
from runtimes.steps import Context
from runtimes.store import versions_of

ROWS = "rows.jsonl"
SUMMARY = "data.json"
VERSIONS = ".versions.json"
DECISIVE = ("recipec", "tokenizers", "jinja2", "pillow", "numpy")
"""Packages whose version is part of what the files of a step are that goes on."""
UNPACKED = ".unpacked"
"""The folder in a split's with its rows before they are packed."""
_ROWS_AT_ONCE = 1_000
_UNCUT = 2**31 - 1  # tokens
_SHOWN = 300  # characters of a row


def execute(step: Prepare, context: Context) -> Iterator[Any]:
    """Reads every file once for its rows' answers, draws the splits, and writes each split's features.

    Goes on where it was interrupted.
    """
    files: dict[str, list[_Local]] = {split.split: _local(step, split, context) for split in step.splits}
    tokenizer = fetch_model(step.tokenizer, context.root, context.sources)
    reader = compiler_tasks.module_of(step.task).reader(step.task, step.columns)
    targets = {name: _targets(paths, reader) for name, paths in files.items()}
    chosen = select(step.splits, {name: reader.classes(found) for name, found in targets.items()})
    summary = _begun(context.folder)
    for split in step.splits:
        rows = chosen[split.split]
        if split.split in summary:
            yield Said(step=step.id, message=f"{split.split}: {len(rows):,} rows were done before")
            continue
        examples = _chosen(files[split.split], reader, rows)
        facts = yield from _write(step, split.split, examples, len(rows), tokenizer, context)
        counts = dict(reader.label_counts(targets[split.split][rows]))
        summary[split.split] = _summary(step, facts, len(rows), counts)
        write_json(context.folder / SUMMARY, summary)
        yield Said(step=step.id, message=_said(step, split.split, len(rows), facts))


def _begun(folder: Path) -> dict[str, Any]:
    """What an interrupted step says of the splits that it had done. Nothing is kept of other versions' work."""
    versions, path, summary = versions_of(DECISIVE), folder / VERSIONS, folder / SUMMARY
    if not path.exists() or json.loads(path.read_text(encoding="utf-8")) != versions:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(path, versions)
    found: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else {}
    return found


def _summary(step: Prepare, facts: FeatureFacts, num_rows: int, label_counts: Mapping[str, int]) -> dict[str, Any]:
    """What data.json says of a split."""
    found = {
        "rows": num_rows,
        "tokens": facts.num_tokens,
        "longest": facts.longest,
        "truncated": facts.truncated,
        "labels": label_counts,
    }
    windows = {"windows": facts.num_rows} if isinstance(step.task, Windowed) else {}
    written = {"written": to_json(facts.labels)} if facts.labels is not None else {}
    return {**found, **windows, **written}


def _said(step: Prepare, split: str, num_rows: int, facts: FeatureFacts) -> str:
    """The same for a person."""
    windows = f" in {facts.num_rows:,} windows" if isinstance(step.task, Windowed) else ""
    tokens = f", {facts.num_tokens:,} tokens" if facts.num_tokens else ""
    said = f"{split}: {num_rows:,} rows{windows}{tokens}{_cut(facts.truncated, step.max_length)}"
    if facts.labels is None:
        return said
    return f"{said}; {facts.labels.num_tokens:,} to write{_cut(facts.labels.truncated, facts.labels.longest)}"


def _cut(count: int, length: int) -> str:
    return f", {count:,} cut at {length}" if count else ""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Where rows are written to, and how: `total` is how many there are."""

    split: str
    folder: Path
    total: int
    max_length: int
    copies: bool  # of images: the gate reads those of held-out rows again

    def kept(self, step: Prepare, row: Mapping[str, Any]) -> str:
        """A row as it stands in rows.jsonl. The images of train rows are looked at here and no more."""
        return json.dumps(row if self.copies else named_row(step.task, row), ensure_ascii=False)


def _write(
    step: Prepare, split: str, examples: Iterable[Example], total: int, tokenizer: Path, context: Context
) -> Generator[Progress, None, FeatureFacts]:
    """Writes a split; the facts of its rows, before they are packed."""
    folder = context.folder / split
    rows = _Rows(split=split, folder=folder, total=total, max_length=step.max_length, copies=split != "train")
    if step.packing == "none" or split != "train":
        return (yield from _write_rows(step, examples, tokenizer, rows, context))
    apart = folder / UNPACKED
    if not (apart / FACTS).exists():
        most = step.max_length if step.packing == "whole" else _UNCUT
        yield from _write_rows(step, examples, tokenizer, replace(rows, folder=apart, max_length=most), context)
    unpacked = Features(apart)
    write_packed(unpacked, step.packing, step.max_length, folder)
    (apart / FACTS).unlink()
    (apart / ROWS).replace(folder / ROWS)
    shutil.rmtree(apart)
    return unpacked.facts


def _write_rows(
    step: Prepare, examples: Iterable[Example], tokenizer: Path, rows: _Rows, context: Context
) -> Generator[Progress, None, FeatureFacts]:
    """Writes rows and their columns, from where an interrupted step was."""
    module = tasks.module_of(step.task)
    encoder = open_reader(step.task, tokenizer, max_length=rows.max_length, root=rows.folder)
    with feature_writer(rows.folder, columns_of(step.task, encoder), lines=(ROWS,)) as writer:
        begun = writer.portions * _ROWS_AT_ONCE
        rest = islice(examples, begun, None)
        for portion in windowed(step.task, chunks(_copied(step, rest, begun, rows), _ROWS_AT_ONCE), encoder):
            encoded = module.encode(step.task, portion, encoder)
            _require_targets(encoded, portion)
            writer.append(encoded, {ROWS: (rows.kept(step, each.row) for each in portion)})
            done = min(writer.portions * _ROWS_AT_ONCE, rows.total)
            yield Progress(step=step.id, done=done, total=rows.total, unit="rows")
            if context.stop():
                writer.mark()
                raise Interrupted("E130", f"stopped after {done:,} {rows.split} rows", "the same command goes on")
        return writer.finish(max_length=rows.max_length, pad_token_id=encoder.pad_id)


def _copied(step: Prepare, examples: Iterable[Example], first: int, rows: _Rows) -> Iterator[Example]:
    """The rows, their images copied where they are wanted. `first`: the number of the first one."""
    if not rows.copies:
        yield from examples
        return
    for number, example in enumerate(examples, start=first):
        yield replace(example, row=copied_row(step.task, example.row, number, rows.folder))


def _require_targets(portion: Portion, examples: Sequence[Example]) -> None:
    """Raises RunError for a row that has something to answer for each of its tokens, and for none of them an answer."""
    for values, example in zip(portion.ragged.get(TARGETS, ()), examples, strict=False):
        if not (values != IGNORED).any():
            row = json.dumps(example.row, ensure_ascii=False)
            shown = row if len(row) <= _SHOWN else f"{row[:_SHOWN]}..."
            message = f"nothing of a row of {len(values):,} tokens is to be learnt: {shown}"
            raise RunError("E411", message, "remove the row, or raise /training/max_length where that cut it")


def read_prepared(folder: Path) -> tuple[Mapping[str, Any], ...]:
    """The rows by role that `prepare` left in a split's folder, in order."""
    with (folder / ROWS).open(encoding="utf-8") as file:
        return tuple(json.loads(line) for line in file)
