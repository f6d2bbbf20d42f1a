"""A gate that is asked to stop: before its next batch, whatever it computes just then; the next run asks it anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from compiler.facts import LocalFacts
from compiler.placement import Placement
from compiler.plan import Plan
from runtimes.errors import Interrupted
from runtimes.events import StepStarted
from runtimes.execute import execute

CPU = Placement(engine="pytorch", engine_reason="", device="cpu", device_reason="", micro_batch_size=16)


@dataclass
class Asked:
    """Asks a run to stop, when it has been asked so many times in a step."""

    step: str
    times: int
    begun: bool = False

    def __call__(self) -> bool:
        self.times -= self.begun
        return self.times < 0


def events(project: Path, stop: Callable[[], bool] = lambda: False) -> Iterator[Any]:
    plan = Plan.from_json(json.loads((project / "runs" / "tiny" / "plan.json").read_text(encoding="utf-8")))
    sources = LocalFacts(offline=True).sources
    return execute(plan, CPU, runs=project / "runs", root=project, sources=sources, stop=stop)


def asked_in_a_step(project: Path, asked: Asked) -> Iterator[Any]:
    """The events of a run that asks its steps as `asked` says."""
    for event in events(project, asked):
        asked.begun |= isinstance(event, StepStarted) and event.step == asked.step
        yield event


def report_of(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project / "runs" / "tiny" / "report.json").read_text(encoding="utf-8"))
    return found


def folder_of(project: Path, step: str) -> Path:
    [key] = [each["key"] for each in report_of(project)["steps"] if each["id"] == step]
    return project / "runs" / ".steps" / str(key)


@pytest.mark.parametrize("batches", [0, 3, 9, 20])
def test_a_gate_stops_between_batches_and_is_asked_anew(project: Path, batches: int) -> None:
    """Within the noise in float32 and in float64, the tuned model's answers, and the graph's."""
    (folder_of(project, "verify") / "receipt.json").unlink()
    asked = Asked("verify", batches)
    with pytest.raises(Interrupted, match="stopped within the step verify"):
        list(asked_in_a_step(project, asked))
    assert asked.times == -1, "it was asked no more once it had said so"
    assert report_of(project)["state"] == "interrupted"
    again = [event.step for event in events(project) if isinstance(event, StepStarted)]
    assert again == ["verify", "package"]  # whose hashes are those of other seconds


def test_a_gate_that_has_failed_stops_before_it_looks_for_the_layer(damaged: Path) -> None:
    folder = folder_of(damaged, "verify")
    shutil.rmtree(folder)
    named = "stopped within the step verify; .*; its gate has failed at trained -> onnx: outputs"
    with pytest.raises(Interrupted, match=named):
        list(events(damaged, (folder / "verification.json").exists))
    assert (report_of(damaged)["state"], report_of(damaged)["gate_passed"]) == ("interrupted", False)
    assert not (folder / "bisect.json").exists()
