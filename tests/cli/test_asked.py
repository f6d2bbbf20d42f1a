"""Questions about texts, from the recipe through the gate to the bundle; long texts are read in windows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.asked import asked_rows, write_asked
from tests.cli.conftest import invoke

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was run: low-rank updates, merged for the export; rows over 20 tokens are read in windows."""
    training = {"epochs": 12, "learning_rate": 1e-2, "batch_size": 16, "max_length": 20}
    folder = write_asked(tmp_path_factory.mktemp("asked") / "project", method="lora", training=training)
    done = invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu", "--runtime", "pytorch")
    assert done.exit_code == 0, done.output
    return folder


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "runs" / "tiny" / "report.json").read_text())
    return found


def test_it_learns_the_answers_and_when_there_is_none(asked: Path) -> None:
    evaluation = report(asked)["evaluation"]
    assert evaluation["rows"] == 80
    assert 0.1 < evaluation["baseline"]["no answer"]["answer-exact"] < 0.5
    assert evaluation["metrics"]["answer-exact"] > 0.9
    assert evaluation["answers"]["no answer"]["rows"] > 10
    assert "no answer" in invoke("report", asked / "runs" / "tiny").output


def test_rows_are_counted_beside_their_windows(asked: Path) -> None:
    data = report(asked)["data"]
    assert [data[split]["rows"] for split in ("train", "validation", "test")] == [280, 40, 80]
    assert data["train"]["windows"] > 300
    assert data["train"]["truncated"] == 0


def test_the_gate_decides_once_for_each_window(asked: Path) -> None:
    gate = report(asked)["gates"]["verify"]["verification"]
    assert [(edge["source"], edge["target"]) for edge in gate["edges"]] == [("trained", "merged"), ("merged", "onnx")]
    checks = {check["name"]: check for edge in gate["edges"] for check in edge["checks"]}
    windows = report(asked)["data"]["test"]["windows"]
    assert checks["decisions"]["agreeing"] == checks["decisions"]["positions"] == checks["decisions"]["rows"] == windows
    assert checks["metrics"]["source"] == checks["metrics"]["other"]
    assert 0 < checks["outputs_probes"]["max_abs"] <= checks["outputs_probes"]["tolerance"] < 1e-3


def test_rows_are_answered_with_parts_of_them(asked: Path) -> None:
    rows = asked_rows(400)
    done = invoke("predict", asked / "runs" / "tiny", "--input", asked / "rows.jsonl", "--json")
    assert done.exit_code == 0, done.output
    answers = [json.loads(line)["prediction"] for line in done.output.splitlines()]
    assert all(
        row["passage"][one["start"] : one["end"]] == one["answer"] for row, one in zip(rows, answers, strict=True)
    )
    right = [one["answer"] == "".join(row["found"]["text"][:1]) for row, one in zip(rows, answers, strict=True)]
    assert sum(right) / len(right) > 0.9


def test_the_receiver_measures_rows_as_the_run_did(asked: Path, tmp_path: Path) -> None:
    done = invoke("verify", asked / "runs" / "tiny", "--data", asked / "rows.jsonl", "--json")
    assert done.exit_code == 0, done.output
    [edge] = json.loads(done.output)["edges"]
    assert edge["checks"][-1]["other"]["answer-exact"] > 0.9


def test_a_text_alone_is_no_question(asked: Path) -> None:
    done = invoke("predict", asked / "runs" / "tiny", "--text", "the movie")
    assert done.exit_code == 2
    assert "the task reads context and question: give rows with --input" in done.output


def test_an_answer_that_stands_elsewhere_is_found_before_anything_runs(tmp_path: Path) -> None:
    folder = write_asked(tmp_path / "project", num_rows=60)
    lines = (folder / "rows.jsonl").read_text().splitlines()
    number = next(place for place, line in enumerate(lines) if json.loads(line)["found"]["text"])
    row = json.loads(lines[number])
    row["found"]["answer_start"][0] += 1
    lines[number] = json.dumps(row)
    (folder / "rows.jsonl").write_text("\n".join(lines))
    done = invoke("check", folder / "recipe.json")
    assert done.exit_code == 1
    assert f"rows.jsonl:{number + 1}" in done.output
    assert "of the context: there is" in done.output


def test_init_writes_a_recipe_for_such_rows(tmp_path: Path) -> None:
    folder = write_asked(tmp_path / "project", num_rows=100)
    data, out = tmp_path / "rows.jsonl", tmp_path / "recipe.json"
    rows = [
        {"id": f"q{number}", "question": row["asked"] + "?", "context": row["passage"], "answers": row["found"]}
        for number, row in enumerate(asked_rows(100))
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = invoke("init", data, "--yes", "--task", "question-answering", "--model", folder / "model", "-o", out)
    assert done.exit_code == 0, done.output
    written = json.loads(out.read_text())
    assert written["task"] == "question-answering"
    assert invoke("check", out).exit_code == 0
