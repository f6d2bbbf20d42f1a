"""export-together: a model of several tasks -> one graph with an output for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compiler.files import write_json
from compiler.plan import ExportTogether
from runtimes import export
from runtimes.events import Said
from runtimes.steps import Context
from runtimes.steps.models import saved_by


def execute(step: ExportTogether, context: Context) -> Iterator[Any]:
    """Writes the format's files and export.json."""
    [source] = step.inputs
    first = next(iter(step.parts.values()))
    parts = {name: (part.task, saved_by(source, context, name)) for name, part in step.parts.items()}
    written = export.together_module_of(first.export).write_together(first.export, parts, context.folder)
    write_json(context.folder / "export.json", written.facts)
    yield Said(step=step.id, message=written.says)
