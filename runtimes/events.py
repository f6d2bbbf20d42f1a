"""What a run says while it runs: one stream that feeds the progress display, events.jsonl and the tests."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted:
    """A step begins."""

    step: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReused:
    """A step was finished before; its outputs are used as they are."""

    step: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinished:
    """A step is done."""

    step: str
    key: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed:
    """A gate failed; the run goes on with the steps that need nothing of it."""

    step: str
    key: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSkipped:
    """A step is not done, as it comes after one that failed."""

    step: str
    key: str
    failed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a step is, in units of its own."""

    step: str
    done: int
    total: int
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A sentence about a step that a person should read."""

    step: str
    message: str


def to_json(event: Any) -> dict[str, Any]:
    """An event as a JSON object, with its kind."""
    return {"event": type(event).__name__, **dataclasses.asdict(event)}
