"""A tiny project that was run once from its recipe to its bundle, for the tests that look at what a run leaves."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from compiler.cli import main
from compiler.hashes import sha256_of
from tests.tiny import write_project

Recipe = Callable[..., Result]


def invoke(*arguments: str | Path) -> Result:
    """What `recipe ARGUMENTS` printed, and its exit code."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recipe:
    """The command line, in an environment without a mirror, a hub or a user's cache."""
    monkeypatch.delenv("RECIPE_MIRROR", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return invoke


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose run is done. Tests look at it, and copy it before they change it."""
    pytest.importorskip("torch", reason="needs the torch extra")
    pytest.importorskip("onnxscript", reason="needs the onnx extra")
    folder = write_project(tmp_path_factory.mktemp("finished") / "project")
    before = dict(os.environ)
    os.environ |= {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    try:
        done = invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu")
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished project, to change."""
    return Path(shutil.copytree(finished, tmp_path / "project", symlinks=True))


@pytest.fixture
def damaged(project: Path) -> Path:
    """A project whose exported graph has one weight scaled by 1.01, and a receipt that says so."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    [graph_file] = (project / "runs" / ".steps").glob("*/onnx/model.onnx")
    graph = onnx.load(graph_file)
    weight = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    onnx.save(graph, graph_file)
    receipt = graph_file.parent.with_name("receipt.json")
    value = json.loads(receipt.read_text())
    value["outputs"]["onnx/model.onnx"] = sha256_of(graph_file, None)
    receipt.write_text(json.dumps(value))
    return project
