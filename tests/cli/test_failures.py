"""What goes wrong outside of a recipe becomes a sentence and an exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from compiler.cli import main
from compiler.cli.main import explain_failure
from runtimes.errors import GateError, Interrupted, RunError


def test_what_the_system_refuses_is_e401(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = CliRunner().invoke(main, ["schema", "-o", str(tmp_path / "file" / "schema.json")])
    assert done.exit_code == 4
    assert done.output.startswith("error[E401]: the system refused: ")
    assert str(tmp_path / "file") in done.output


def test_a_full_disk_is_e401() -> None:
    code, lines = explain_failure(OSError(28, "No space left on device", "runs/model.safetensors"))
    assert (code, lines) == (
        4,
        [
            "error[E401]: the system refused: no space left on device (runs/model.safetensors)",
            "    hint: make room (`recipe clean` deletes what no run refers to); the same command goes on",
        ],
    )


@pytest.mark.parametrize("number", [1, 2, 5, 13, 17, 20, 30])
def test_what_the_system_refuses_has_a_hint(number: int) -> None:
    _, lines = explain_failure(OSError(number, "refused"))
    assert lines[1].startswith("    hint: ")


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("torch", "recipec[torch]"),
        ("peft.tuners", "recipec[torch]"),
        ("onnxruntime", "recipec[onnx]"),
        ("pyarrow", "recipec"),
    ],
)
def test_a_missing_package_is_e402_with_the_command_that_installs_it(module: str, command: str) -> None:
    code, lines = explain_failure(ModuleNotFoundError(f"No module named {module!r}", name=module))
    assert code == 4
    assert lines[0].startswith("error[E402]: ")
    assert f"pip install {command}" in lines[1].replace("'", "")


def test_what_nobody_foresaw_is_e499_without_a_traceback() -> None:
    code, lines = explain_failure(RuntimeError("odd"))
    assert code == 4
    assert lines[0] == "error[E499]: RuntimeError: odd"
    assert "--debug" in lines[1]


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (RunError("E404", "locked", "wait"), 4),
        (GateError("E601", "differs", "wait"), 3),
        (Interrupted("E130", "stopped", "wait"), 130),
    ],
)
def test_a_run_s_error_has_its_own_code_hint_and_exit_code(error: RunError, exit_code: int) -> None:
    code, lines = explain_failure(error)
    assert code == exit_code
    assert lines == [f"error[{error.code}]: {error.message}", "    hint: wait"]
