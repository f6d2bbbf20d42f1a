"""The same recipe gives the same plan, byte for byte, wherever it is compiled."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import write_project

ROOT = Path(__file__).parents[2]
MAIN = "from compiler.cli import main; main(prog_name='recipe')"


def plan_bytes(project: Path, *arguments: str, cwd: Path | None = None, **environment: str) -> bytes:
    """The plan that a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "plan", str(project / "recipe.json"), "--json", *arguments],
        cwd=cwd or project,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        check=True,
    )
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("one"))


def test_folder_user_and_process_do_not_reach_the_plan(project: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "another" / "place"
    shutil.copytree(project, elsewhere)
    one = plan_bytes(project, PYTHONHASHSEED="1", HOME=str(tmp_path / "ann"), USER="ann", LANG="C")
    two = plan_bytes(elsewhere, PYTHONHASHSEED="2", HOME=str(tmp_path / "bob"), USER="bob", LANG="de_DE.UTF-8")
    three = plan_bytes(elsewhere, cwd=Path("/"), PYTHONHASHSEED="3", HOME=str(tmp_path / "bob"), USER="bob")
    assert one == two == three
    assert str(project).encode() not in one
    assert b"ann" not in one


def test_another_target_differs_only_where_precision_decides(project: Path) -> None:
    cpu = json.loads(plan_bytes(project, "--target", "cpu"))
    cuda = json.loads(plan_bytes(project, "--target", "cuda:80GiB"))
    assert set(differences(cpu, cuda)) == {"/target", "/steps/train/precision", "/choices/precision"}


def test_memory_of_the_target_does_not_reach_the_plan(project: Path) -> None:
    assert plan_bytes(project, "--target", "cuda:80GiB") == plan_bytes(project, "--target", "cuda:16GiB")


def differences(one: dict[str, Any], two: dict[str, Any]):
    """What differs between two plans: keys of steps apart, which follow from their parameters."""
    if one["target"] != two["target"]:
        yield "/target"
    for before, after in zip(one["steps"], two["steps"], strict=True):
        for name in {*before, *after} - {"key"}:
            if before.get(name) != after.get(name):
                yield f"/steps/{before['id']}/{name}"
    for before, after in zip(one["choices"], two["choices"], strict=True):
        if before != after:
            yield f"/choices/{before['pointer'].rpartition('/')[2]}"
