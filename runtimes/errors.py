"""Errors of a run: the machine's, not the recipe's."""

from __future__ import annotations

from pathlib import Path


class RunError(Exception):
    """A run failed: a code that `recipe explain` knows, what happened, and what to do."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class GateError(RunError):
    """The export gate failed: names the edge and the check that broke."""


class Interrupted(RunError):
    """The run was asked to stop; its state is saved."""


def first_line(error: Exception) -> str:
    """What an exception says first, or its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def unreadable(folder: Path, error: Exception) -> RunError:
    """The error of a saved model whose configuration can't be read."""
    return RunError("E502", f"{folder}: {error}", "save the model again with save_pretrained")
