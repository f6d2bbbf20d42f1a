"""What a process that was ended has left half-written, hidden beside its place: the next one removes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from filelock import FileLock

from compiler.files import PART, remove_parts
from tests.foreign import save_classifier

ROOT = Path(__file__).parents[2]
MAIN = "from compiler.cli import main; main(prog_name='recipe')"
Recipe = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript", reason="needs the onnx extra")
    return save_classifier(tmp_path_factory.mktemp("model") / "classifier")


def hidden(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


def ended_export(model: Path, out: Path, number: signal.Signals) -> int:
    """The exit code of an export to `out` that got a signal once it had written something beside that."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "export", str(model), "-o", str(out), "--quiet"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None and not (out.parent / ".bundle.part" / "verify").exists():
            time.sleep(0.01)
        time.sleep(0.5)  # within the seconds that it takes to trace the model
        process.send_signal(number)
        return process.wait(timeout=120)
    finally:
        process.kill()


def test_the_next_export_removes_what_a_killed_one_left(model: Path, recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    assert ended_export(model, out, signal.SIGKILL) == -signal.SIGKILL
    assert ".bundle.part" in hidden(tmp_path)
    (tmp_path / ".bundle.part" / "export" / "half").write_text("written", encoding="utf-8")
    done = recipe("export", model, "-o", out)
    assert done.exit_code == 0, done.output
    assert hidden(tmp_path) == set()
    assert not list(out.rglob("half"))


def test_an_export_that_is_told_to_end_leaves_nothing(model: Path, tmp_path: Path) -> None:
    assert ended_export(model, tmp_path / "bundle", signal.SIGTERM) == 130
    assert hidden(tmp_path) == set()


def test_what_a_living_export_writes_is_left_alone(model: Path, recipe: Recipe, tmp_path: Path) -> None:
    work = tmp_path / ".bundle.part"
    (work / "export").mkdir(parents=True)
    (work / "export" / "half").write_text("written", encoding="utf-8")
    with FileLock(tmp_path / ".bundle.lock"):
        done = recipe("export", model, "-o", tmp_path / "bundle")
    assert done.exit_code == 4
    assert "error[E404]: another process is exporting to " in done.output
    assert (work / "export" / "half").read_text(encoding="utf-8") == "written"


def test_the_next_run_removes_what_a_killed_one_left(project: Path, recipe: Recipe) -> None:
    run = project / "runs" / "tiny"
    (run / f".bundle.4242{PART}").symlink_to("nowhere")
    (run / f".report.json.x1{PART}").write_text("{", encoding="utf-8")
    again = recipe("run", project / "recipe.json", "--runs", project / "runs", "--target", "cpu", "--json")
    assert again.exit_code == 0, again.output
    assert hidden(run) == set()


def test_only_what_is_half_written_is_removed(tmp_path: Path) -> None:
    for name in ("whole.part", ".hidden", "below/.weights.x1.part", ".weights.x2.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("numbers", encoding="utf-8")
    remove_parts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"whole.part", ".hidden", "below"}
    assert (tmp_path / "below" / ".weights.x1.part").exists()
    remove_parts(tmp_path, "**/")
    assert not (tmp_path / "below" / ".weights.x1.part").exists()
