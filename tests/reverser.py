"""A bundle that is none, for what a server does around one."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compiler.data.texts import text_of
from runtimes.errors import RunError


@dataclass
class Reverser:
    """Answers a text with its letters reversed; it can be held, and some texts break it."""

    text_column: str | None = "word"
    required: tuple[str, ...] = ("word",)
    calls: list[tuple[list[str], list[int], int]] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)
    busy: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.open.set()

    def load(self) -> None:
        if self.text_column == "gone":
            raise RunError("E604", "the graph does not load", "export it again")

    def read(self, row: Mapping[str, object]) -> str:
        return text_of(row, "word")

    def size(self, read: str) -> int:
        return len(read)

    def predict(self, rows: Sequence[str], numbers: Sequence[int], batch_size: int) -> list[dict[str, str]]:
        self.calls.append(([*rows], [*numbers], batch_size))
        self.busy.set()
        assert self.open.wait(30)
        if "broken image" in rows:
            raise RunError("E412", "a broken image", "put a whole one there")
        if "divide" in rows:
            return [{"text": str(1 / 0)}]
        if "lost" in rows:
            return []
        return [{"text": row[::-1]} for row in rows]

    def facts(self) -> dict[str, Any]:
        return {"name": "reverser"}


def words(*values: object) -> list[dict[str, object]]:
    return [{"word": value} for value in values]
