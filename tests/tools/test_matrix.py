"""The committed conformance table is that of these sources, has every cell, and is what its pages show."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from runtimes.tasks import MODULES
from tests.conformance.cells import LIMITS
from tests.conformance.subjects import (
    CAUSAL,
    DECODERS,
    ENCODER_DECODERS,
    ENCODERS,
    STAND_FOR_ALL,
    STORED,
    VISION,
    cover,
    every_gate,
    every_masked,
    every_method,
    loss_names,
    method_names,
    runtimes_of,
    shared_methods,
    task_names,
    tunes,
    variants_of,
)
from tools import matrix
from tools.matrix_pages import page, with_table

AGAIN = "run `make matrix` and commit what it writes"


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((matrix.PROJECT / matrix.RESULT).read_text(encoding="utf-8"))
    return found


def test_every_cell_says_what_it_was_measured_with(result: dict[str, Any]) -> None:
    counts = Counter((row["sources"], row["hardware"]) for row in result["cells"])
    assert {(run["sources"], run["hardware"]): run["cells"] for run in result["runs"]} == counts
    plain = [run["versions"] for run in result["runs"] if "NVIDIA" not in run["hardware"]]
    assert all(versions == matrix.constraints() for versions in plain), f"it is of other versions: {AGAIN}"
    assert result["limits"] == LIMITS


def test_no_cell_is_red_and_what_is_unrun_says_why(result: dict[str, Any]) -> None:
    assert [row for row in result["cells"] if row["status"] == "red"] == []
    assert all(row["reason"] for row in result["cells"] if row["status"] == "unrun")
    assert {row["table"] for row in result["cells"] if row["status"] == "unrun"} <= {"devices", "device gates"}


def test_the_pages_show_the_committed_result(result: dict[str, Any]) -> None:
    again = "run `python -m tools.matrix --render`"
    readme = (matrix.PROJECT / matrix.README).read_text(encoding="utf-8")
    assert (matrix.PROJECT / matrix.PAGE).read_text(encoding="utf-8") == page(result), again
    assert readme == with_table(readme, result), again


def test_every_cell_of_the_table_was_run(result: dict[str, Any]) -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    pytest.importorskip("mlx.core", reason="needs the mlx extra")
    from tests.conformance.table import cells

    run = [(row["table"], row["names"]) for row in result["cells"]]
    assert run == [(cell.table, cell.names) for cell in cells()], AGAIN


def test_the_table_has_every_task_with_each_loss_and_with_each_method() -> None:
    found = {(subject.task, subject.loss, subject.method) for subject in every_method()}
    usual = {
        (task, loss_names(task)[0], method)
        for task in task_names()
        for method in shared_methods()
        if tunes(method, task)
    }
    losses = {(task, loss, method) for task in task_names() for loss in loss_names(task) for method in STAND_FOR_ALL}
    assert found == usual | losses


def test_each_way_of_a_task_beside_its_usual_one_has_every_loss_and_method_too() -> None:
    subjects = [subject for subject in every_method() if subject.task == "text-regression"]
    found = variants_of(every_method())
    assert [(subject.loss, subject.method) for subject in found] == [(s.loss, s.method) for s in subjects]
    assert {subject.task_name for subject in found} == {"text-regression, several targets"}


def test_every_task_and_method_goes_through_the_gate_on_each_runtime_that_runs_it() -> None:
    found = {(subject.task, subject.method, runtime) for subject, runtime in every_gate()}
    assert found == {
        (task, method, runtime)
        for task in task_names()
        for method in method_names()
        if tunes(method, task)
        for runtime in runtimes_of(method)
    }


def test_hidden_tokens_are_learnt_with_every_method_and_by_every_encoder() -> None:
    subjects = every_masked()
    assert {*method_names()} - {subject.method for subject in subjects} == {"prefix"}  # R250 says why
    assert {subject.encoder for subject in subjects if subject.method == "full"} == {*ENCODERS}


def test_the_cover_has_every_task_and_method_and_everything_else_once() -> None:
    subjects = cover()
    # Words that one module does stand for each other.
    pairs = {(MODULES[subject.task], subject.method) for subject in subjects}
    assert pairs >= {(MODULES[task], method) for task in task_names() for method in STAND_FOR_ALL}
    assert {method for _, method in pairs} == {*shared_methods()}
    encoders = {subject.encoder for subject in subjects}
    assert encoders >= {*ENCODERS, *DECODERS}
    assert encoders & {*VISION} and encoders & {*ENCODER_DECODERS}
    assert {subject.stored for subject in subjects} >= {*STORED, CAUSAL}
    assert {subject.loss for subject in subjects} == {loss for task in task_names() for loss in loss_names(task)}


def test_runs_without_a_cell_are_forgotten_and_the_latest_stands_first() -> None:
    new, old, gone, other = (
        {"sources": sources, "hardware": hardware}
        for sources, hardware in (("new", "here"), ("old", "here"), ("gone", "here"), ("new", "there"))
    )
    runs = [{**new, "date": "2"}, {**old, "date": "1"}, {**gone, "date": "0"}, {**other, "date": "0"}]
    rows = {1: old, 0: new, 2: new, 3: other}
    found = matrix.result_of(runs, rows)
    assert [run["cells"] for run in found["runs"]] == [2, 1, 1]
    assert [run["date"] for run in found["runs"]] == ["2", "1", "0"]
    assert found["cells"] == [new, old, new, other]
    again = matrix.result_of([{**old, "date": "3"}, *runs], rows)
    assert [(run["sources"], run["date"]) for run in again["runs"]] == [("old", "3"), ("new", "2"), ("new", "0")]


def test_a_change_of_what_the_figures_depend_on_changes_the_hash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "runtimes").mkdir()
    (tmp_path / "constraints.txt").write_text("".join(f"{name}==1\n" for name in matrix.PACKAGES))
    monkeypatch.setattr(matrix, "PROJECT", tmp_path)
    (tmp_path / "runtimes" / "a.py").write_text("one")
    (tmp_path / "README.md").write_text("one")
    before = matrix.sources_hash()
    (tmp_path / "README.md").write_text("two")
    assert matrix.sources_hash() == before
    (tmp_path / "runtimes" / "a.py").write_text("two")
    assert matrix.sources_hash() != before
    (tmp_path / "runtimes" / "a.py").rename(tmp_path / "runtimes" / "b.py")
    named = matrix.sources_hash()
    (tmp_path / "constraints.txt").write_text("".join(f"{name}==2\n" for name in matrix.PACKAGES))
    assert len({before, named, matrix.sources_hash()}) == 3
