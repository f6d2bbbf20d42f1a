"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

PART = ".part"
"""The end of the name of what is being written: `.NAME.*.part` beside its place."""


def is_file(path: Path) -> bool:
    """Whether there is such a file; not for what can't be a path here either: too long, a NUL in it."""
    with suppress(OSError, ValueError):
        return path.is_file()
    return False


def is_folder(path: Path) -> bool:
    """As is_file, of a folder."""
    with suppress(OSError, ValueError):
        return path.is_dir()
    return False


def real_path(path: Path) -> Path | None:
    """The path with links followed, or None where it can't be one: a NUL in it, a circle of links."""
    with suppress(OSError, ValueError, RuntimeError):
        return path.resolve()
    return None


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file that takes the place of `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, whole or not at all; its folder is made where it is missing."""
    with new_file(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """As write_bytes, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """As write_text, indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART))
    try:
        yield temporary
        temporary.chmod(0o755)
        for file in sorted(temporary.rglob("*")):
            _sync(file)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_parts(folder: Path, pattern: str = "") -> None:
    """Removes what processes that died left half-written in a folder; with the pattern `**/` also below it.

    Who calls it holds the lock under which all of that is written: no living process is writing it.
    """
    for part in [*folder.glob(f"{pattern}.*{PART}")]:
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)  # one inside of a folder that is gone


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder lasting, where the system can."""
    if os.name == "posix":
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
