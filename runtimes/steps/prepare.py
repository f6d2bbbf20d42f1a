"""prepare: rows -> token arrays on disk, one folder a split, and the texts of held-out rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.data.readers import read_rows
from compiler.data.splits import Rows, select
from compiler.data.texts import label_of, text_of
from compiler.files import new_file, write_json
from compiler.hub import fetch_model, fetch_rows
from compiler.plan import File, Prepare, SplitRows
from runtimes.events import Progress, Said
from runtimes.features import write_features
from runtimes.steps import Context

TEXTS = "texts.jsonl"


def execute(step: Prepare, context: Context) -> Iterator[Any]:
    """Reads every file once for its labels, draws the splits, and writes each split's features."""
    files: dict[str, list[_Local]] = {split.split: _local(split, context) for split in step.splits}
    tokenizer = fetch_model(step.tokenizer, context.root, context.sources)
    pad_token_id = _pad_token_id(tokenizer)
    labels = {name: _label_numbers(paths, step) for name, paths in files.items()}
    chosen = select(step.splits, labels)
    summary: dict[str, Any] = {}
    for done, split in enumerate(step.splits):
        yield Progress(step=step.id, done=done, total=len(step.splits), unit="splits")
        rows = chosen[split.split]
        facts = write_features(
            _texts(files[split.split], step, rows, context.folder / split.split),
            tokenizer / "tokenizer.json",
            context.folder / split.split,
            max_length=step.max_length,
            pad_token_id=pad_token_id,
        )
        counts = np.bincount(labels[split.split][rows], minlength=len(step.labels))
        summary[split.split] = {
            "rows": facts.num_rows,
            "tokens": facts.num_tokens,
            "longest": facts.longest,
            "truncated": facts.truncated,
            "labels": dict(zip(step.labels, counts.tolist(), strict=True)),
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


def _label_numbers(files: Sequence[_Local], step: Prepare) -> Rows:
    """The label number of every row of some files, [N]."""
    number = {label: index for index, label in enumerate(step.labels)}
    column = step.columns["label"]
    names = (
        label_of(row.values, column, step.labels) for local in files for row in read_rows(local.path, local.file.format)
    )
    return np.fromiter((number[name] for name in names), dtype=np.int64)


def _texts(files: Sequence[_Local], step: Prepare, rows: Rows, folder: Path) -> Iterator[tuple[str, int]]:
    """The chosen rows as (text, label number) in order; they are written to texts.jsonl as they pass."""
    folder.mkdir(parents=True, exist_ok=True)
    number = {label: index for index, label in enumerate(step.labels)}
    with new_file(folder / TEXTS) as copy:
        for text, label in _chosen(files, step, rows):
            copy.write((json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n").encode())
            yield text, number[label]


def _chosen(files: Sequence[_Local], step: Prepare, rows: Rows) -> Iterator[tuple[str, str]]:
    wanted: npt.NDArray[np.bool_] = np.zeros(int(rows[-1]) + 1 if len(rows) else 0, dtype=bool)
    wanted[rows] = True
    position = 0
    for local in files:
        for row in read_rows(local.path, local.file.format):
            if position >= len(wanted):
                return
            if wanted[position]:
                label = label_of(row.values, step.columns["label"], step.labels)
                yield text_of(row.values, step.columns["text"]), label
            position += 1


def _pad_token_id(folder: Path) -> int:
    """The padding token's id, which config.json or else the tokenizer's own padding names; 0 when neither does."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = config.get("pad_token_id")
    if found is None:
        padding = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")).get("padding") or {}
        found = padding.get("pad_id", 0)
    return int(found)


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts and label names of a prepared split, in order."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]


def read_texts(folder: Path) -> Texts:
    """The texts that `prepare` left in a split's folder."""
    with (folder / TEXTS).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return Texts(tuple(row["text"] for row in rows), tuple(row["label"] for row in rows))
