"""Receipts: what proves that a step was done, and what makes it be done again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from compiler.plan import SEMANTICS
from runtimes.store import DECISIVE, Store, versions_of

KEY = "0" * 64


def finished(folder: Path, kind: str, inputs: Mapping[str, str]) -> Store:
    store = Store(folder)
    (store.clear(KEY) / "weights").write_text("numbers")
    store.finish(KEY, kind, 1.0, {"engine": "pytorch"}, inputs)
    return store


def test_a_step_that_has_another_name_in_another_plan_is_not_done_again(tmp_path: Path) -> None:
    store = finished(tmp_path, "train-wiki", {"prepare-wiki": "rows", "merge-before": "model"})
    found = store.receipt(KEY, "train", {"prepare": "rows", "merge": "model"})
    assert found is not None
    assert found.step == "train-wiki"


@pytest.mark.parametrize("inputs", [{"prepare": "others"}, {"prepare": "rows", "merge": "model"}, {}])
def test_a_step_on_other_inputs_is_done_again(tmp_path: Path, inputs: Mapping[str, str]) -> None:
    assert finished(tmp_path, "train", {"prepare": "rows"}).receipt(KEY, "train", inputs) is None


def test_a_file_that_was_changed_or_is_gone_is_made_again(tmp_path: Path) -> None:
    store = finished(tmp_path, "train", {})
    assert store.receipt(KEY, "train", {}) is not None
    (store.folder(KEY) / "weights").write_text("others")
    assert store.receipt(KEY, "train", {}) is None
    (store.folder(KEY) / "weights").unlink()
    assert store.receipt(KEY, "train", {}) is None


def test_a_step_that_goes_on_has_nothing_half_written_in_it(tmp_path: Path) -> None:
    """Neither beside what is whole nor below it: what is left there would be hashed as an output."""
    store = Store(tmp_path)
    folder = store.clear(KEY)
    for name in (
        "train/.facts.json.a1.part",
        ".data.json.b2.part",
        "checkpoints/.step-00000002.c3.part/weights",
        "whole",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("numbers")
    assert store.resume(KEY) == folder
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["whole"]


def test_what_is_half_written_goes_from_steps_that_nobody_does_or_has_done(tmp_path: Path) -> None:
    store = Store(tmp_path)
    left, living, done = ("1" * 64, "2" * 64, "3" * 64)
    halves = [store.clear(key) / "onnx" / ".model.onnx.4242.part" / "model.onnx" for key in (left, living, done)]
    for half in halves:
        half.parent.mkdir(parents=True)
        half.write_text("numbers")
    store.finish(done, "export", 1.0, {}, {})
    with store.locked(living):
        store.remove_parts()
    assert [half.exists() for half in halves] == [False, True, True]
    assert store.folder(left).is_dir(), "what is whole stays: the step may go on"


@pytest.mark.parametrize("kind", sorted(SEMANTICS))
def test_another_version_of_what_writes_an_export_makes_it_be_done_again(tmp_path: Path, kind: str) -> None:
    store = finished(tmp_path, kind, {})
    file = store.folder(KEY) / "receipt.json"
    receipt = json.loads(file.read_text())
    decisive = versions_of(DECISIVE.get(kind.removesuffix("-together"), ()))
    assert bool(decisive) is kind.startswith(("export", "quantize", "verify", "package"))
    for package in decisive:
        file.write_text(json.dumps({**receipt, "versions": {**receipt["versions"], package: "0"}}))
        assert store.receipt(KEY, kind, {}) is None, package
    file.write_text(json.dumps({**receipt, "versions": {**receipt["versions"], "numpy": "0"}}))
    assert store.receipt(KEY, kind, {}) is not None
