"""export: a model -> the files of one format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compiler.files import write_json
from compiler.plan import ExportModel
from runtimes import export
from runtimes.events import Said
from runtimes.steps import Context
from runtimes.steps.models import saved_by


def execute(step: ExportModel, context: Context) -> Iterator[Any]:
    """Writes the format's files and export.json."""
    written = _write(step, context)
    write_json(context.folder / "export.json", written.facts)
    yield Said(step=step.id, message=written.says)


def _write(step: ExportModel, context: Context) -> export.Written:
    [source] = step.inputs
    saved = saved_by(source, context)
    if step.shapes is None:
        return export.module_of(step.export).write(step.export, step.task, saved, context.folder)
    module, device = export.function_module_of(step.export), context.placement.device
    return module.write_function(step.export, step.task, saved, step.shapes, context.folder, device)
