"""A decoder tuned by virtual tokens through the command line: its bundle answers with them, and not without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxscript", reason="needs the onnx extra")

from tests.cli.conftest import invoke
from tests.tiny import prompts, write_language_project

CACHE = "onnx/past_key_values.npz"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of a run."""
    folder = write_language_project(
        tmp_path_factory.mktemp("virtual") / "project",
        prompts(100),
        task="text-generation",
        method={"type": "prompt", "num_virtual_tokens": 4},
        training={"epochs": 1, "learning_rate": 1e-1, "batch_size": 4, "max_length": 48},
        metrics=["perplexity"],
        generation={"max_new_tokens": 4, "rows": 4},
        export=["onnx"],
    )
    done = invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu", "--quiet")
    assert done.exit_code == 0, done.output
    return folder / "runs" / "tiny" / "bundle"


@pytest.mark.slow
def test_a_receiver_verifies_the_bundle_and_asks_it(bundle: Path) -> None:
    assert (bundle / CACHE).is_file()
    assert CACHE in json.loads((bundle / "manifest.json").read_text())["files"]
    verified = invoke("verify", bundle)
    assert verified.exit_code == 0, verified.output
    asked = invoke("predict", bundle, "--text", "the movie was")
    assert asked.exit_code == 0, asked.output


@pytest.mark.slow
def test_a_bundle_without_its_virtual_tokens_is_not_whole(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "cut")
    (tmp_path / "cut" / CACHE).unlink()
    found = invoke("predict", tmp_path / "cut", "--text", "the movie was")
    assert found.exit_code == 4
    assert f"{CACHE} is missing" in found.output
