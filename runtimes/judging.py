"""What a command of the user's says of an answer: it reads it as JSON, with its row, and exits with 0 if it passes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

Verdict = Literal["passed", "failed", "crashed", "timed out"]
_LOOKS = 0.2  # seconds from one look at `stopped` to the next


def judge(
    command: Sequence[str], row: Mapping[str, Any], answer: str, timeout: float, stopped: Callable[[], bool] = bool
) -> Verdict:
    """The verdict on an answer. `timeout`: seconds, after which the command and what it started are killed.

    So are they when `stopped` says that nobody waits for the verdict.

    The command is started without a shell. It finds {"row": ..., "answer": ...} on standard input. Raises OSError where
    it can't be started.
    """
    given = json.dumps({"row": row, "answer": answer}, ensure_ascii=False, default=str).encode(
        "utf-8", "backslashreplace"
    )
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait(process, given, timeout, stopped)
    except subprocess.TimeoutExpired:
        return "timed out"
    finally:
        _kill_all(process)
        with suppress(OSError):  # nobody reads what was not given yet
            assert process.stdin is not None, "a pipe"
            process.stdin.close()
    if process.returncode < 0:
        return "crashed"
    return "passed" if process.returncode == 0 else "failed"


def _wait(process: subprocess.Popen[bytes], given: bytes, timeout: float, stopped: Callable[[], bool]) -> None:
    """Gives a command its input and waits for its end. Raises TimeoutExpired."""
    deadline, rest = time.monotonic() + timeout, given or None
    while True:
        left = deadline - time.monotonic()
        try:
            process.communicate(rest, timeout=max(0.0, min(_LOOKS, left)))
            return
        except subprocess.TimeoutExpired:
            rest = None  # what is left of it is given by itself
            if left <= _LOOKS or stopped():
                raise


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of a command: it may have started others, which are in its session."""
    if os.name == "posix":
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # nothing is left
    else:
        process.kill()
    process.wait()
