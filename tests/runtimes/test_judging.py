"""A command of the user's judges answers, and nothing of it outlives its time."""

import sys
import time
from pathlib import Path

import pytest

from runtimes.judging import judge


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_row_and_answer_reach_the_command_and_its_exit_code_is_the_verdict() -> None:
    command = python(
        "import json, sys; given = json.load(sys.stdin); sys.exit(given['answer'] != given['row']['answer'])"
    )
    assert judge(command, {"answer": "ü42"}, "ü42", timeout=60) == "passed"
    assert judge(command, {"answer": "ü42"}, "41", timeout=60) == "failed"


def test_a_command_that_reads_nothing_is_judged_by_its_exit_code() -> None:
    assert judge(python("raise SystemExit(0)"), {"text": "x" * 1_000_000}, "", timeout=60) == "passed"


def test_what_runs_too_long_is_killed_with_what_it_started(tmp_path: Path) -> None:
    late = tmp_path / "late"
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(late)!r}).touch()"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    start = time.monotonic()
    assert judge(python(code), {}, "", timeout=1.5) == "timed out"
    assert time.monotonic() - start < 30
    time.sleep(3.5)
    assert not late.exists()


def test_a_command_that_dies_of_a_signal_has_crashed() -> None:
    assert judge(python("import os; os.abort()"), {}, "", timeout=60) == "crashed"


def test_a_command_that_nobody_waits_for_is_killed_at_once() -> None:
    start = time.monotonic()
    assert judge(python("import time; time.sleep(60)"), {"text": "x" * 1_000_000}, "", 50, lambda: True) == "timed out"
    assert time.monotonic() - start < 20


def test_a_command_that_is_not_there_is_no_verdict() -> None:
    with pytest.raises(OSError, match="no-such-command"):
        judge(["no-such-command"], {}, "", timeout=1)
