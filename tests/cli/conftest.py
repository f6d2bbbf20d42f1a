"""A tiny project that was run once from its recipe to its bundle, for the tests that look at what a run leaves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from compiler.cli import main
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
