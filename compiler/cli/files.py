"""What kind of file a user named."""

from __future__ import annotations

import json
from pathlib import Path

import click

from compiler.plan import Plan


def plan_in(path: Path) -> Plan | None:
    """The plan that a file holds, or None when it is not one. Raises click's error for a damaged plan."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or "plan" not in value or "recipe" in value:
        return None
    try:
        return Plan.from_json(value)
    except ValueError as error:
        raise click.ClickException(f"{path}: {error}") from None
