"""A bundle of several tasks: each is a bundle of its own, but that the graph and what reads rows are in it once."""

# Axes: P = positions of all rows, C = outputs of all tasks for a position

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from compiler.tasks import Example
from runtimes import tasks
from runtimes.bundles.bundle import BATCH_SIZE, Bundle, open_bundle
from runtimes.bundles.manifest import read_together
from runtimes.errors import RunError
from runtimes.export.facts import Provider
from runtimes.protocol import Batch
from runtimes.rows.features import Ragged
from runtimes.rows.inputs import Row
from runtimes.tasks import Answer
from runtimes.verification.comparison import outputs_of

if TYPE_CHECKING:
    from runtimes.export.session import Session


@dataclass(frozen=True, kw_only=True)
class TogetherBundle:
    """An opened bundle of several tasks, which have one graph. It is loaded on first use."""

    parts: Mapping[str, Bundle]
    open_graph: Callable[[], Session] = field(repr=False)

    def predict(self, rows: Mapping[str, Sequence[Row]], batch_size: int = BATCH_SIZE) -> list[dict[str, Answer]]:
        """The answers of all tasks for each row, given by role for each task. Raises RunError.

        Where all tasks read the same, the graph runs once for all.
        """
        given = [*rows.values()]
        if any(other != given[0] for other in given[1:]):
            found = {name: part.predict(rows[name], batch_size) for name, part in self.parts.items()}
        else:
            outputs = self._outputs(given[0], batch_size)
            found = {name: _answers(part, given[0], outputs[name]) for name, part in self.parts.items()}
        return [dict(zip(found, answers, strict=True)) for answers in zip(*found.values(), strict=True)]

    def _outputs(self, rows: Sequence[Row], batch_size: int) -> dict[str, Ragged]:
        """What the graph gives each task for some rows."""
        table = next(iter(self.parts.values())).encode([Example(row=row) for row in rows])
        order = np.argsort(table.lengths, kind="stable")
        joined = outputs_of(self._run, table, order, batch_size).take(np.argsort(order))
        ends = np.cumsum([part.num_outputs for part in self.parts.values()])
        values = np.split(joined.values, ends[:-1], axis=1)
        return {name: Ragged(each, joined.offsets) for name, each in zip(self.parts, values, strict=True)}

    def _run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """[B, C] the outputs of all tasks for a batch, side by side."""
        return np.concatenate(self.graph.each(batch.inputs), axis=1)

    @property
    def graph(self) -> Session:
        """The graph, with the outputs of all tasks. Raises RunError."""
        return self.open_graph()


def _answers(part: Bundle, rows: Sequence[Row], outputs: Ragged) -> list[Answer]:
    module = tasks.module_of(part.task)
    return [module.answer(part.task, row, outputs.row(number), part.encoder) for number, row in enumerate(rows)]


def open_together(folder: Path, *, threads: int = 0, provider: Provider = "cpu") -> TogetherBundle:
    """The bundle of several tasks in a folder. `threads`: 0 for one a core. Raises RunError E601."""
    names = read_together(folder).parts
    parts = {name: open_bundle(folder / name, threads=threads, provider=provider) for name in names}
    graph = folder / parts[names[0]].graphs[0]

    @cache
    def open_graph() -> Session:
        try:
            from runtimes.export.session import open_session
        except ImportError as error:
            hint = 'install it: pip install "recipec[predict]"'
            raise RunError("E402", f"a bundle runs on onnxruntime: {error}", hint) from error
        return open_session(graph, threads=threads, results=names, provider=provider)

    shared = {name: replace(part, open_shared=open_graph) for name, part in parts.items()}
    return TogetherBundle(parts=shared, open_graph=open_graph)
