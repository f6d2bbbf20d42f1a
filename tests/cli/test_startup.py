"""The command line starts at once: no framework is imported before one is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def write_facts(folder: Path) -> Path:
    """A recipe with rows and a model of two layers, written without a framework."""
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models

    model = folder / "model"
    model.mkdir()
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "num_hidden_layers": 2,
        "hidden_size": 4,
        "vocab_size": 3,
        "max_position_embeddings": 64,
    }
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {f"encoder.layer.{n}.attention.self.query.weight": np.zeros((4, 4), np.float32) for n in range(2)}
    tensors["embeddings.word_embeddings.weight"] = np.zeros((3, 4), np.float32)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    Tokenizer(models.WordPiece({"[UNK]": 0, "good": 1, "bad": 2}, unk_token="[UNK]")).save(
        str(model / "tokenizer.json")
    )
    rows = [{"text": f"{word} {number}", "label": word} for number in range(30) for word in ("good", "bad")]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = {
        "recipe": 1,
        "name": "case",
        "task": "text-classification",
        "dataset": {"train": "rows.jsonl"},
        "model": "./model",
    }
    (folder / "r.json").write_text(json.dumps(recipe), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "arguments", [["check", "r.json"], ["plan", "r.json"], ["plan", "--diff", "r.json", "r.json"]], ids=" ".join
)
def test_facts_and_plans_need_no_framework(arguments: list[str], tmp_path: Path) -> None:
    code, output, modules = run(*arguments, folder=write_facts(tmp_path))
    assert code == 0, output
    assert modules & FRAMEWORKS == set()
