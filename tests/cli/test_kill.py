"""A run that is killed at any moment, and started again, ends in the same bytes as one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from compiler.hashes import sha256_of
from tests.staged import WIKI, write

ROOT = Path(__file__).parents[2]
MAIN = "from compiler.cli import main; main(prog_name='recipe')"
KILLS = {"pytorch": 10, "mlx": 5}  # MLX traces for seconds before it trains
CHANGES = ["--set", "/training/checkpoint_every=2", "--set", "/training/epochs=8", "--set", "/export=[]"]


def start(project: Path, runs: str, runtime: str, changes: Sequence[str] = CHANGES) -> subprocess.Popen[bytes]:
    arguments = ["run", str(project / "recipe.json"), "--target", "cpu", "--quiet", "--runs", str(project / runs)]
    arguments += ["--runtime", runtime]
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments, *changes],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def num_events(project: Path, runs: str) -> int:
    events = project / runs / "tiny" / "events.jsonl"
    return len(events.read_bytes().splitlines()) if events.exists() else 0


def kill_at_a_random_moment(process: subprocess.Popen[bytes], project: Path, chance: random.Random) -> bool:
    """Whether the process was killed before it had ended: some events, and then some milliseconds, after its first."""
    before = num_events(project, "killed")
    wanted = before + chance.randint(1, 30)
    while process.poll() is None and num_events(project, "killed") < wanted:
        time.sleep(0.001)
    time.sleep(chance.random() * 0.02)
    alive = process.poll() is None
    process.kill()
    process.wait(timeout=60)
    return alive


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["pytorch", pytest.param("mlx", marks=pytest.mark.long)])
def test_kills_leave_the_weights_of_a_run_that_was_left_alone(project: Path, runtime: str) -> None:
    if runtime == "mlx":
        pytest.importorskip("mlx.core", reason="needs the mlx extra")
    assert start(project, "whole", runtime).wait(timeout=300) == 0
    chance, kills = random.Random(0), KILLS[runtime]
    killed = sum(kill_at_a_random_moment(start(project, "killed", runtime), project, chance) for _ in range(kills))
    assert start(project, "killed", runtime).wait(timeout=300) == 0
    one, two = (project / runs / "tiny" / "model" / "model.safetensors" for runs in ("whole", "killed"))
    assert sha256_of(one, None) == sha256_of(two, None)
    reports = [json.loads((project / runs / "tiny" / "report.json").read_text()) for runs in ("whole", "killed")]
    assert reports[0]["evaluation"] == reports[1]["evaluation"]
    assert killed >= kills // 2, "the moments were too late to kill anything"


def trained_steps(project: Path, runs: str, *, after: str) -> int:
    """How many steps of training the log has after a step of the plan began."""
    events = project / runs / "tiny" / "events.jsonl"
    lines = events.read_text(encoding="utf-8").splitlines() if events.exists() else []
    begun = [number for number, line in enumerate(lines) if f'"StepStarted", "step": "{after}"' in line]
    return sum('"StepReport"' in line for line in lines[begun[0] :]) if begun else 0


def end_in_the_second_stage(process: subprocess.Popen[bytes], project: Path, steps: int, number: signal.Signals) -> int:
    """The exit code of a run that gets a signal after so many steps of its second training."""
    while process.poll() is None and trained_steps(project, "ended", after="train-chat") < steps:
        time.sleep(0.001)
    process.send_signal(number)
    return process.wait(timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["pytorch", pytest.param("mlx", marks=pytest.mark.long)])
def test_a_run_that_ends_in_its_second_stage_goes_on_to_the_same_bytes(tmp_path: Path, runtime: str) -> None:
    """By kill -9, then by Ctrl-C, then to its end."""
    if runtime == "mlx":
        pytest.importorskip("mlx.core", reason="needs the mlx extra")
    wiki = {**WIKI, "training": {"max_steps": 4}, "dataset": {"train": "wiki.jsonl", "validation": None}}
    chat = {
        "name": "chat",
        "task": "text-generation",
        "dataset": {"train": "rows.jsonl", "validation": None},
        "training": {"max_steps": 60, "checkpoint_every": 2},
    }
    project = write(tmp_path / "project", wiki, chat)
    begin = partial(start, project, runtime=runtime, changes=())
    assert begin("whole").wait(timeout=300) == 0
    assert end_in_the_second_stage(begin("ended"), project, 3, signal.SIGKILL) == -signal.SIGKILL
    assert end_in_the_second_stage(begin("ended"), project, 20, signal.SIGINT) == 130
    assert json.loads((project / "ended" / "tiny" / "report.json").read_text())["state"] == "interrupted"
    assert begin("ended").wait(timeout=300) == 0
    reports = [json.loads((project / runs / "tiny" / "report.json").read_text()) for runs in ("whole", "ended")]
    weights = [project / runs / "tiny" / "model" / "model.safetensors" for runs in ("whole", "ended")]
    assert sha256_of(weights[0], None) == sha256_of(weights[1], None)
    assert [stage["evaluation"] for stage in reports[0]["stages"]] == [
        stage["evaluation"] for stage in reports[1]["stages"]
    ]
    log = (project / "ended" / "tiny" / "events.jsonl").read_text(encoding="utf-8")
    assert log.count('"StepStarted", "step": "train-wiki"') == 1, "a finished stage is not done twice"
    assert log.count('"StepStarted", "step": "train-chat"') == 3
