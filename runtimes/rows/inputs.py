"""What rows are read with: a model's tokenizer, or its image processor."""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compiler import tasks as compiler_tasks
from compiler.data.images import is_inline
from compiler.images import PROCESSOR, read_processor
from compiler.tasks import Task
from compiler.tokenizer_files import TOKENIZER
from runtimes import tasks
from runtimes.rows.features import Column, Table
from runtimes.rows.images import PIXELS, ImageReader
from runtimes.rows.tokens import open_encoder, pad_id
from runtimes.tasks.interface import InputReader

Row = Mapping[str, Any]
"""The values of a row by role."""
IMAGES = "images"
"""The folder in a split's, to which held-out images are copied."""
_NAME = 100  # characters that are kept of a file's name


def files_of(task: Task) -> tuple[str, ...]:
    """The files that say how rows are read, beside config.json."""
    return (PROCESSOR,) if compiler_tasks.reads(task) == "image" else (TOKENIZER,)


def parts_of(task: Task) -> str:
    """What a model is given of a row, in words."""
    return "pixels" if compiler_tasks.reads(task) == "image" else "tokens"


def open_reader(task: Task, folder: Path, *, max_length: int, root: Path) -> InputReader:
    """The reader in a model's folder. `root`: where the paths of images start. Raises OSError or ValueError."""
    if compiler_tasks.reads(task) == "image":
        return ImageReader(processor=read_processor(folder / PROCESSOR), root=root)
    padding = pad_id(*(json.loads((folder / name).read_text(encoding="utf-8")) for name in ("config.json", TOKENIZER)))
    return open_encoder(folder / TOKENIZER, max_length=max_length, pad_id=padding)


def columns_of(task: Task, reader: InputReader) -> tuple[Column, ...]:
    """The columns of a task as its rows are read: pixels are scaled as the image processor says."""
    columns = tasks.module_of(task).columns(task, reader.pad_id)
    if not isinstance(reader, ImageReader):
        return columns
    center, spread = reader.processor.center, reader.processor.spread
    return tuple(
        replace(column, center=center, spread=spread) if column.name == PIXELS else column for column in columns
    )


# --- rows that name images


def image_role(task: Task) -> str | None:
    """The role of a task's images; None where it reads none."""
    return compiler_tasks.image_column(task, compiler_tasks.columns_of(task, {}))


def copied_row(task: Task, row: Row, number: int, folder: Path) -> Row:
    """The row with its image in the folder, so that later steps read nothing outside of the run."""
    role = image_role(task)
    if role is None or is_inline(row[role]):
        return row
    name = f"{IMAGES}/{number:06}-{Path(row[role]).name[-_NAME:]}"
    (folder / IMAGES).mkdir(exist_ok=True)
    shutil.copyfile(row[role], folder / name)
    return {**row, role: name}


def named_row(task: Task, row: Row) -> Row:
    """The row with the bare name of its image, for a reader: no later step opens it."""
    role = image_role(task)
    return row if role is None or is_inline(row[role]) else {**row, role: Path(row[role]).name}


def portable_row(task: Task, row: Row, reader: InputReader) -> Row:
    """The row with its image inside."""
    role = image_role(task)
    if role is None or not isinstance(reader, ImageReader):
        return row
    return {**row, role: reader.inlined(row[role])}


def identities(task: Task, rows: Sequence[Row], table: Table) -> Iterator[Row]:
    """The rows as what is in them, wherever their images lie: of an image the sha256 of its pixels."""
    role = image_role(task)
    for place, row in enumerate(rows):
        if role is None:
            yield row
        else:
            yield {**row, role: hashlib.sha256(table.arrays[PIXELS][place].tobytes()).hexdigest()}


def fingerprint(table: Table, place: int) -> tuple[int, ...]:
    """What a model is given of a row, in whole numbers: its token ids, or a checksum of its pixels."""
    if PIXELS in table.columns:
        return (zlib.crc32(table.arrays[PIXELS][place].tobytes()),)
    return tuple(table.ragged("input_ids").row(place).tolist())
