"""sha256 of files, remembered by path, size and time of change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from pathlib import Path

from compiler.files import write_bytes

_FILE = "hashes.json"
_MOST = 4096  # entries; the oldest go first
_SETTLED = 2.0  # seconds: a younger file can change again without its time of change showing it


def sha256_of(path: Path, cache: Path | None) -> str:
    """The sha256 of a file in hexadecimal digits; from the cache folder when the file has not changed since."""
    before = path.stat()
    key, state = str(path.resolve()), [before.st_size, before.st_mtime_ns]
    known = _entries(cache).get(key) if cache is not None else None
    if isinstance(known, list) and known[:2] == state and len(known) == 3:
        return str(known[2])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    after = path.stat()
    settled = [after.st_size, after.st_mtime_ns] == state and time.time() - after.st_mtime > _SETTLED
    if cache is not None and settled:
        _remember(cache, key, [*state, digest])
    return digest


def _entries(cache: Path) -> dict[str, object]:
    try:
        entries = json.loads((cache / _FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _remember(cache: Path, key: str, entry: list[object]) -> None:
    """Adds an entry; a cache that can't be written is as good as none."""
    entries = {**{k: v for k, v in _entries(cache).items() if k != key}, key: entry}
    kept = dict(list(entries.items())[-_MOST:])
    with contextlib.suppress(OSError):
        write_bytes(cache / _FILE, json.dumps(kept).encode())
