"""The command line starts at once: no framework is imported before one is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small import write_without_framework

PROJECT = Path(__file__).parents[2]
FRAMEWORKS = {
    "accelerate",
    "datasets",
    "mlx",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "peft",
    "tensorflow",
    "torch",
    "transformers",
}
# What reading rows and models needs, and reading a recipe does not.
FACTS = {"huggingface_hub", "numpy", "pyarrow", "safetensors", "tokenizers"}
REPORT = """
import atexit, json, sys
atexit.register(lambda: print("MODULES", json.dumps(sorted({name.partition(".")[0] for name in sys.modules}))))
from compiler.cli import main
main(prog_name="recipe")
"""


def run(*arguments: str, folder: Path = PROJECT) -> tuple[int, str, set[str]]:
    """Exit code, output and imported top-level packages of `recipe ARGUMENTS` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    output, _, modules = done.stdout.rpartition("MODULES ")
    return done.returncode, output + done.stderr, set(json.loads(modules))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["check", "--help"],
        ["check", "--no-facts", "recipes/quickstart.json"],
        ["explain", "R101"],
        ["schema"],
    ],
    ids=" ".join,
)
def test_what_needs_only_the_language_imports_only_the_language(arguments: list[str]) -> None:
    code, output, modules = run(*arguments)
    assert code == 0, output
    assert modules & (FRAMEWORKS | FACTS) == set()


@pytest.mark.parametrize("command", ["init", "plan", "run", "runs", "clean", "report", "predict", "verify", "doctor"])
def test_the_help_of_a_command_imports_no_framework(command: str) -> None:
    code, output, modules = run(command, "--help")
    assert code == 0, output
    assert modules & FRAMEWORKS == set()


@pytest.mark.parametrize(
    "arguments", [["check", "r.json"], ["plan", "r.json"], ["plan", "--diff", "r.json", "r.json"]], ids=" ".join
)
def test_facts_and_plans_need_no_framework(arguments: list[str], tmp_path: Path) -> None:
    code, output, modules = run(*arguments, folder=write_without_framework(tmp_path))
    assert code == 0, output
    assert modules & FRAMEWORKS == set()
