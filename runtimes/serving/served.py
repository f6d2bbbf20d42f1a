"""What a server answers from: a bundle of one task or of several, asked by column as rows of a file are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from compiler import tasks as compiler_tasks
from compiler.data.images import is_inline
from compiler.data.texts import BadValueError
from compiler.tasks import RowReader, Task
from runtimes.bundles.bundle import Bundle, open_bundle
from runtimes.bundles.manifest import is_together, read_together
from runtimes.bundles.together import TogetherBundle, open_together
from runtimes.export.facts import Provider

Row = Mapping[str, object]


class Served(Protocol):
    """An opened bundle."""

    def load(self) -> None:
        """Loads the graph, in the thread that is going to run it. Raises RunError."""
        ...

    @property
    def text_column(self) -> str | None:
        """The column of a text that is a whole row; None where a row needs more, or something else."""
        ...

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that every row must have."""
        ...

    def read(self, row: Row) -> Any:
        """What `predict` takes of a row. Raises BadValueError for one that can't be answered."""
        ...

    def size(self, read: Any) -> int:
        """Characters that are tokenized of what `read` gave."""
        ...

    def predict(self, rows: Sequence[Any], numbers: Sequence[int], batch_size: int) -> Sequence[Any]:
        """The prediction for each row. `numbers`: of each in its request, by which what is drawn is seeded."""
        ...

    def facts(self) -> dict[str, Any]:
        """What it is and what it reads, as JSON."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OneTask:
    """A bundle of one task."""

    bundle: Bundle
    reader: RowReader = field(repr=False)

    def load(self) -> None:
        """Loads the graph."""
        _ = self.bundle.graph

    @property
    def text_column(self) -> str | None:
        """The chief column, where a row has no other and it holds text."""
        reads_text = compiler_tasks.reads(self.bundle.task) == "text"
        return self.required[0] if reads_text and len(self.required) == 1 else None

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that every row must have."""
        columns = self.bundle.manifest.columns
        return tuple(columns[role] for role in compiler_tasks.asked_roles(self.bundle.task, columns))

    def read(self, row: Row) -> Any:
        """The row by role. An image stands in the row itself: no path of the server's files is followed."""
        column = compiler_tasks.image_column(self.bundle.task, self.bundle.manifest.columns)
        image = row.get(column) if column is not None else None
        if column is not None and isinstance(image, str) and not is_inline(image):
            raise BadValueError(column, "expected an image as data:image/png;base64,...; no file is read here")
        found = self.reader.given(row)
        self.bundle.check(found)
        return found

    def size(self, read: Any) -> int:
        """Characters of its texts."""
        return sum(map(len, compiler_tasks.texts_of(self.bundle.task, read)))

    def predict(self, rows: Sequence[Any], numbers: Sequence[int], batch_size: int) -> Sequence[Any]:
        """The natural answer for each row."""
        return self.bundle.predict(rows, batch_size, numbers=numbers)

    def facts(self) -> dict[str, Any]:
        """The manifest's facts and the columns."""
        manifest, task = self.bundle.manifest, self.bundle.task
        return {
            "name": manifest.name,
            "task": task.type,
            "plan_key": manifest.plan_key,
            "precision": manifest.precision,
            "max_length": manifest.max_length,
            "columns": columns_of(task, manifest.columns),
            "held_out": {"rows": manifest.held_out.rows, "metrics": dict(manifest.exported)},
            "gate_passed": manifest.gate.passed,
        }


def columns_of(task: Task, columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """The columns that a row may have, and what stands in each."""
    module, required = compiler_tasks.module_of(task), compiler_tasks.asked_roles(task, columns)
    return [
        {"column": columns[role], "role": role, "kind": module.COLUMNS[role], "required": role in required}
        for role in module.INPUTS
        if role in columns
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeveralTasks:
    """A bundle of several tasks, all of which answer each row."""

    name: str
    plan_key: str
    bundle: TogetherBundle
    parts: Mapping[str, OneTask]

    def load(self) -> None:
        """Loads the graph."""
        _ = self.bundle.graph

    @property
    def text_column(self) -> str | None:
        """The column that all tasks read, where they read one text and the same."""
        columns = {part.text_column for part in self.parts.values()}
        return columns.pop() if len(columns) == 1 else None

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that some task needs."""
        return tuple(dict.fromkeys(column for part in self.parts.values() for column in part.required))

    def read(self, row: Row) -> Any:
        """The row by role, for each task."""
        return {name: part.read(row) for name, part in self.parts.items()}

    def size(self, read: Any) -> int:
        """Characters of the texts of the task that reads most; mostly all read the same, and it is tokenized once."""
        return max(part.size(read[name]) for name, part in self.parts.items())

    def predict(self, rows: Sequence[Any], numbers: Sequence[int], batch_size: int) -> Sequence[Any]:
        """The answers of all tasks for each row. None of them draws, so that numbers count for nothing."""
        return self.bundle.predict({name: [row[name] for row in rows] for name in self.parts}, batch_size)

    def facts(self) -> dict[str, Any]:
        """What each task says of itself."""
        parts = {name: part.facts() for name, part in self.parts.items()}
        return {"name": self.name, "task": [*parts], "plan_key": self.plan_key, "parts": parts}


def open_served(folder: Path, *, threads: int = 0, provider: Provider = "cpu") -> Served:
    """The bundle in a folder. `threads`: 0 for one a core. Raises RunError."""
    if not is_together(folder):
        return _one(open_bundle(folder, threads=threads, provider=provider))
    manifest = read_together(folder)
    opened = open_together(folder, threads=threads, provider=provider)
    parts = {name: _one(part) for name, part in opened.parts.items()}
    return SeveralTasks(name=manifest.name, plan_key=manifest.plan_key, bundle=opened, parts=parts)


def _one(bundle: Bundle) -> OneTask:
    module = compiler_tasks.module_of(bundle.task)
    return OneTask(bundle=bundle, reader=module.reader(bundle.task, bundle.manifest.columns))
