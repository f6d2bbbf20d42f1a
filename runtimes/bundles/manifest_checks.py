"""What a manifest must keep beyond its shape: whatever it says, a reader of it meets one error and no surprise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

from compiler import tasks as compiler_tasks
from compiler.typed import fields, out_of_range
from runtimes.export.facts import DTYPES
from runtimes.export.functions import FUNCTION

if TYPE_CHECKING:
    from runtimes.bundles.manifest import Manifest

_OPEN = frozenset({"stride", "threshold", "read"})
"""What stays open in a plan: it is decided for each row."""


def faults_of(manifest: Manifest) -> Iterator[str]:
    """What is wrong with a manifest, one after another; each is sound where those before it found nothing."""
    yield from out_of_range(manifest)
    yield from check_precision(manifest)
    yield from check_resolved(manifest.task, "/task")
    yield from check_columns(manifest)
    yield from check_generation(manifest)
    yield from check_metrics(manifest)


def check_precision(manifest: Manifest) -> Iterator[str]:
    """A graph is held in a precision that has a file; a function in any."""
    if FUNCTION not in manifest.files and manifest.precision not in DTYPES:
        yield f"/precision is {manifest.precision}, in which no graph is held, and there is no function"


def check_resolved(value: Any, where: str) -> Iterator[str]:
    """Nothing in the task is left to be found out."""
    for f in fields(type(value)):
        item = getattr(value, f.attribute)
        if item == "auto" and f.name not in _OPEN:
            yield f'{where}/{f.name} is "auto": what was found for it is missing'
        elif is_dataclass(item):
            yield from check_resolved(item, f"{where}/{f.name}")


def check_columns(manifest: Manifest) -> Iterator[str]:
    """What the task reads has a column."""
    task, columns = manifest.task, manifest.columns
    module = compiler_tasks.module_of(task)
    roles = (
        *compiler_tasks.asked_roles(task, columns),
        *(role for role in module.INPUTS if role not in module.OPTIONAL),
    )
    if lacking := [role for role in dict.fromkeys(roles) if role not in columns]:
        yield f'/columns names none for "{lacking[0]}"'


def check_generation(manifest: Manifest) -> Iterator[str]:
    """How texts are written is said where some are."""
    writes = compiler_tasks.module_of(manifest.task).WRITES
    if writes != (manifest.generation is not None):
        yield f"/generation {'is missing' if writes else 'is there'}: the task writes {'texts' if writes else 'none'}"


def check_metrics(manifest: Manifest) -> Iterator[str]:
    """The task has what is measured."""
    known = compiler_tasks.module_of(manifest.task).METRICS
    for place, metric in enumerate(manifest.metrics):
        if metric.type not in known:
            yield f'/metrics/{place} is "{metric.type}", which is not for the task: it has {", ".join(known)}'
