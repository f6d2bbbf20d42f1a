"""A run that is killed at any moment, and started again, ends in the same bytes as one that was left alone."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compiler.hashes import sha256_of

ROOT = Path(__file__).parents[2]
MAIN = "from compiler.cli import main; main(prog_name='recipe')"
KILLS = {"pytorch": 10, "mlx": 5}  # MLX traces for seconds before it trains


def start(project: Path, runs: str, runtime: str) -> subprocess.Popen[bytes]:
    arguments = ["run", str(project / "recipe.json"), "--target", "cpu", "--quiet", "--runs", str(project / runs)]
    arguments += ["--runtime", runtime]
    changes = ["--set", "/training/checkpoint_every=2", "--set", "/training/epochs=8", "--set", "/export=[]"]
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
@pytest.mark.parametrize("runtime", KILLS)
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
