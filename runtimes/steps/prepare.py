"""prepare: rows -> arrays on disk, one folder a split, and the rows themselves by role."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler import tasks as compiler_tasks
from compiler.data.readers import read_rows
from compiler.data.splits import Rows, select
from compiler.files import new_file, write_json
from compiler.hub import fetch_model, fetch_rows
from compiler.packing import Packing
from compiler.plan import File, Prepare, SplitRows
from compiler.tasks import Example, RowReader
from runtimes import tasks
from runtimes.errors import RunError
from runtimes.events import Progress, Said
from runtimes.features import IGNORED, TARGETS, FeatureFacts, Features, Portion, write_features
from runtimes.packing import write_packed
from runtimes.steps import Context
from runtimes.tokens import chunks, open_encoder, pad_id
from runtimes.windows import windowed

ROWS = "rows.jsonl"
_ROWS_AT_ONCE = 1_000
_UNCUT = 2**31 - 1  # tokens
_SHOWN = 300  # characters of a row


def execute(step: Prepare, context: Context) -> Iterator[Any]:
    """Reads every file once for its rows' answers, draws the splits, and writes each split's features."""
    files: dict[str, list[_Local]] = {split.split: _local(split, context) for split in step.splits}
    tokenizer = fetch_model(step.tokenizer, context.root, context.sources)
    reader = compiler_tasks.module_of(step.task).reader(step.task, step.columns)
    targets = {name: _targets(paths, reader) for name, paths in files.items()}
    chosen = select(step.splits, {name: reader.classes(found) for name, found in targets.items()})
    summary: dict[str, Any] = {}
    for done, split in enumerate(step.splits):
        yield Progress(step=step.id, done=done, total=len(step.splits), unit="splits")
        rows = chosen[split.split]
        examples = _chosen(files[split.split], reader, rows)
        packing = step.packing if split.split == "train" else "none"
        facts = _write(step, examples, tokenizer, context.folder / split.split, packing)
        summary[split.split] = {
            "rows": facts.num_rows,
            "tokens": facts.num_tokens,
            "longest": facts.longest,
            "truncated": facts.truncated,
            "labels": dict(reader.label_counts(targets[split.split][rows])),
        }
        cut = f", {facts.truncated:,} cut at {step.max_length}" if facts.truncated else ""
        yield Said(step=step.id, message=f"{split.split}: {facts.num_rows:,} rows, {facts.num_tokens:,} tokens{cut}")
    write_json(context.folder / "data.json", summary)


@dataclass(frozen=True, slots=True)
class _Local:
    """A file of rows on this machine."""

    path: Path
    file: File


def _local(split: SplitRows, context: Context) -> list[_Local]:
    """The files of a split, with the content that the plan was made for."""
    paths = fetch_rows(split, context.root, context.sources)
    return [_Local(path, file) for path, file in zip(paths, split.files, strict=True)]


def _examples(files: Sequence[_Local], reader: RowReader) -> Iterator[Example]:
    return (reader.read(row.values) for local in files for row in read_rows(local.path, local.file.format))


def _targets(files: Sequence[_Local], reader: RowReader) -> npt.NDArray[np.float64]:
    """[N] the answer of every row of some files."""
    return np.fromiter((example.target for example in _examples(files, reader)), dtype=np.float64)


def _chosen(files: Sequence[_Local], reader: RowReader, rows: Rows) -> Iterator[Example]:
    wanted: npt.NDArray[np.bool_] = np.zeros(int(rows[-1]) + 1 if len(rows) else 0, dtype=bool)
    wanted[rows] = True
    return (example for example, chosen in zip(_examples(files, reader), wanted, strict=False) if chosen)


def _write(step: Prepare, examples: Iterable[Example], tokenizer: Path, folder: Path, packing: Packing) -> FeatureFacts:
    """The facts of the features of some rows; the rows are written to rows.jsonl as they pass."""
    if packing == "none":
        return _write_rows(step, examples, tokenizer, folder, step.max_length)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as apart:
        most = step.max_length if packing == "whole" else _UNCUT
        facts = _write_rows(step, examples, tokenizer, Path(apart), most)
        (Path(apart) / ROWS).replace(folder / ROWS)
        write_packed(Features(Path(apart)), packing, step.max_length, folder)
    return facts


def _write_rows(
    step: Prepare, examples: Iterable[Example], tokenizer: Path, folder: Path, max_length: int
) -> FeatureFacts:
    module, pad_token_id = (
        tasks.module_of(step.task),
        pad_id(*(_json(tokenizer / name) for name in ("config.json", "tokenizer.json"))),
    )
    encoder = open_encoder(tokenizer / "tokenizer.json", max_length=max_length, pad_id=pad_token_id)
    folder.mkdir(parents=True, exist_ok=True)
    with new_file(folder / ROWS) as copy:

        def encoded() -> Iterator[Portion]:
            for portion in windowed(step.task, chunks(examples, _ROWS_AT_ONCE), encoder):
                copy.writelines((json.dumps(each.row, ensure_ascii=False) + "\n").encode() for each in portion)
                found = module.encode(step.task, portion, encoder)
                _require_targets(found, portion)
                yield found

        return write_features(
            encoded(),
            module.columns(step.task, pad_token_id),
            folder,
            max_length=max_length,
            pad_token_id=pad_token_id,
        )


def _require_targets(portion: Portion, examples: Sequence[Example]) -> None:
    """Raises RunError for a row that has something to answer for each of its tokens, and for none of them an answer."""
    for values, example in zip(portion.ragged.get(TARGETS, ()), examples, strict=False):
        if not (values != IGNORED).any():
            row = json.dumps(example.row, ensure_ascii=False)
            shown = row if len(row) <= _SHOWN else f"{row[:_SHOWN]}..."
            message = f"nothing of a row of {len(values):,} tokens is to be learnt: {shown}"
            raise RunError("E411", message, "raise /training/max_length, or remove the row")


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def read_prepared(folder: Path) -> tuple[Mapping[str, Any], ...]:
    """The rows by role that `prepare` left in a split's folder, in order."""
    with (folder / ROWS).open(encoding="utf-8") as file:
        return tuple(json.loads(line) for line in file)
