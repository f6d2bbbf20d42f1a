"""What a run's report says, in a terminal and on its page."""

from __future__ import annotations

from typing import Any

import pytest

from runtimes.report import report_html, report_lines


def report(**training: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "parameters": {"trained": 1, "total": 4},
        "tokens_per_second": None,
        "peak_memory_bytes": 0,
    }
    return {
        "name": "tiny",
        "state": "done",
        "steps": [],
        "choices": [],
        "data": None,
        "training": {**found, "curve": [], **training},
        "evaluation": None,
        "gates": {},
    }


@pytest.mark.parametrize(
    ("engines", "line"),
    [
        ([("pytorch", 0)], "  steps 1 to 1,200 on pytorch"),
        ([("pytorch", 0), ("mlx", 40)], "  steps 1 to 40 on pytorch, steps 41 to 1,200 on mlx"),
        ([("pytorch", 0), ("mlx", 0)], "  steps 1 to 1,200 on mlx"),  # stopped before its first step
        ([("mlx", 0), ("pytorch", 1200)], "  steps 1 to 1,200 on mlx"),  # all that was left was to save the model
    ],
)
def test_terminal_and_page_say_which_engine_trained_which_steps(engines: list[tuple[str, int]], line: str) -> None:
    listed = [{"engine": name, "after_step": step} for name, step in engines]
    found = report(engines=listed, steps=1200)
    assert line in report_lines(found)
    assert line in report_html(found)


def test_a_report_of_an_older_version_tells_of_no_engine() -> None:
    assert not [line for line in report_lines(report()) if " on " in line]


def step(name: str, seconds: float, *, reused: bool) -> dict[str, Any]:
    return {"id": name, "receipt": {"seconds": seconds}, "reused": reused}


def test_seconds_are_those_of_the_steps_that_ran_and_the_reused_are_named() -> None:
    steps = [step("prepare", 1.0, reused=True), step("train", 40.0, reused=True), step("verify", 2.06, reused=False)]
    assert report_lines({**report(), "steps": steps})[-2:] == ["  seconds: verify 2.1", "  reused: prepare, train"]
    assert report_lines({**report(), "steps": steps[:2]})[-1] == "  reused: prepare, train"
    assert not [line for line in report_lines({**report(), "steps": steps[:2]}) if "seconds:" in line]


def test_a_report_of_an_older_version_has_all_seconds() -> None:
    older = {"id": "train", "receipt": {"seconds": 40.0}}
    assert report_lines({**report(), "steps": [older]})[-1] == "  seconds: train 40.0"
