"""What a command of the user's says of an answer: it reads it as JSON, with its row, and exits with 0 if it passes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Verdict = Literal["passed", "failed", "timed out"]


def judge(command: Sequence[str], row: Mapping[str, Any], answer: str, timeout: float) -> Verdict:
    """The verdict on an answer. `timeout`: seconds, after which the command and what it started are killed.

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
        process.communicate(given, timeout=timeout)
    except subprocess.TimeoutExpired:
        return "timed out"
    finally:
        _kill_all(process)
    return "passed" if process.returncode == 0 else "failed"


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
