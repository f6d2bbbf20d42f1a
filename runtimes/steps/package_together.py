"""package-together: the bundle of several tasks, verified as its receiver would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compiler.plan import PackageTogether
from runtimes.bundles.package import package_together
from runtimes.events import Said
from runtimes.steps import Context
from runtimes.steps.package import parts_of, said


def execute(step: PackageTogether, context: Context) -> Iterator[Any]:
    """Writes bundle/; raises GateError when it does not answer as the trained model did."""
    parts = {name: parts_of(part, context, name) for name, part in step.parts.items()}
    verification = package_together(step.parts, parts, context.folder / "bundle", key=context.key)
    yield Said(step=step.id, message=said(verification))
