"""`recipe runs`, `clean`, `report`, `init`, `doctor`."""

import json
from pathlib import Path

import pytest

from compiler.hub import Sources
from compiler.placement import Placement
from compiler.plan import Plan
from runtimes.errors import Interrupted
from runtimes.execute import execute
from tests.small import write_model, write_without_framework
from tests.tiny import RECIPE


def test_a_run_is_listed_with_its_gate_and_metrics(finished: Path, recipe) -> None:
    done = recipe("runs", "--runs", finished / "runs")
    [line] = done.output.splitlines()
    assert line.split()[:4] == ["tiny", "done", "gate", "passed"]
    assert "accuracy" in line


def test_no_runs_are_said(tmp_path: Path, recipe) -> None:
    assert recipe("runs", "--runs", tmp_path / "runs").output.startswith("no runs in")


def test_clean_deletes_a_run_and_the_steps_that_only_it_had(project: Path, recipe) -> None:
    done = recipe("clean", "tiny", "--runs", project / "runs", "--yes")
    assert done.exit_code == 0, done.output
    assert not (project / "runs" / "tiny").exists()
    assert list((project / "runs" / ".steps").iterdir()) == []


def test_clean_keeps_what_runs_refer_to(project: Path, recipe) -> None:
    (project / "runs" / ".steps" / ("0" * 64)).mkdir()
    before = len(list((project / "runs" / ".steps").iterdir()))
    assert recipe("clean", "--runs", project / "runs", "--yes").exit_code == 0
    assert len(list((project / "runs" / ".steps").iterdir())) == before - 1
    assert (project / "runs" / "tiny" / "bundle" / "onnx" / "model.onnx").is_file()


def test_a_dry_run_deletes_nothing(project: Path, recipe) -> None:
    done = recipe("clean", "--all", "--runs", project / "runs", "--dry-run")
    assert "would delete" in done.output
    assert (project / "runs" / "tiny").exists()


def test_a_misspelt_run_is_answered_with_the_nearest(finished: Path, recipe) -> None:
    for command in ("clean", "report"):
        done = recipe(command, "tinny", "--runs", finished / "runs")
        assert done.exit_code == 2
        assert 'did you mean "tiny"?' in done.output


def test_a_report_shows_the_tuned_model_beside_the_majority_class(finished: Path, recipe) -> None:
    done = recipe("report", "tiny", "--runs", finished / "runs")
    assert done.exit_code == 0, done.output
    assert "tuned    majority" in done.output
    assert "confusion" in done.output
    assert "gate passed" in done.output


def test_a_page_of_the_report_is_written(finished: Path) -> None:
    page = (finished / "runs" / "tiny" / "report.html").read_text()
    assert "<svg" in page
    assert "http" not in page


def test_init_writes_a_recipe_that_passes_check(project: Path, recipe) -> None:
    out = project / "new.json"
    done = recipe("init", project / "rows.jsonl", "--model", "./model", "--yes", "-o", out)
    assert done.exit_code == 0, done.output
    assert json.loads(out.read_text())["dataset"]["columns"] == RECIPE["dataset"]["columns"]
    checked = recipe("check", out, "--target", "cpu")
    assert checked.exit_code == 0, checked.output


def test_init_does_not_replace_a_recipe(project: Path, recipe) -> None:
    before = (project / "recipe.json").read_text()
    done = recipe("init", project / "rows.jsonl", "--yes", "-o", project / "recipe.json")
    assert done.exit_code == 2
    assert (project / "recipe.json").read_text() == before


def test_init_names_the_nearest_column(project: Path, recipe) -> None:
    done = recipe("init", project / "rows.jsonl", "--text", "snipet", "--yes", "-o", project / "new.json")
    assert done.exit_code == 2
    assert 'did you mean "snippet"?' in done.output


def test_doctor_says_what_is_installed(recipe) -> None:
    report = json.loads(recipe("doctor", "--json").output)
    assert report["extras"]["torch"]["ready"] is True
    assert any(device.startswith("cpu") for device in report["devices"])


def test_init_never_writes_over_the_rows(tmp_path: Path, recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = json.dumps([{"text": f"row {number}", "label": "ab"[number % 2]} for number in range(40)])
    (tmp_path / "data.json").write_text(rows)
    write_model(tmp_path / "model")
    done = recipe("init", "data.json", "--yes", "--force", "--model", "./model")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "data-recipe.json").is_file()
    refused = recipe("init", "data.json", "--yes", "--force", "-o", "data.json")
    assert refused.exit_code == 2
    assert (tmp_path / "data.json").read_text() == rows


def test_init_writes_nothing_when_the_rows_are_no_dataset(tmp_path: Path, recipe) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "a,x\n" * 20)
    done = recipe("init", tmp_path / "rows.csv", "--text", "text", "--label", "label", "-o", tmp_path / "out.json")
    assert done.exit_code == 1
    assert "R308" in done.output
    assert not (tmp_path / "out.json").exists()


def test_a_run_without_a_report_does_not_hide_the_others(project: Path, recipe) -> None:
    (project / "runs" / "begun").mkdir()
    (project / "runs" / "begun" / "plan.json").write_text("{}")
    (project / "runs" / "begun" / "report.json").write_text("{")
    done = recipe("runs", "--runs", project / "runs")
    assert done.exit_code == 0, done.output
    assert "tiny" in done.output


def test_labels_that_count_verify_as_they_train(project: Path, recipe) -> None:
    rows = [json.loads(line) for line in (project / "rows.jsonl").read_text().splitlines()]
    numbered = [{**row, "sentiment": ["negative", "positive"].index(row["sentiment"])} for row in rows]
    (project / "numbered.jsonl").write_text("".join(json.dumps(row) + "\n" for row in numbered))
    done = recipe("verify", project / "runs" / "tiny", "--data", project / "numbered.jsonl")
    assert done.exit_code == 0, done.output


def test_a_run_that_failed_or_was_interrupted_says_so_and_after_which_step(tmp_path: Path, recipe) -> None:
    write_without_framework(tmp_path)
    runs, plan = tmp_path / "runs", tmp_path / "plan.json"
    assert recipe("plan", tmp_path / "r.json", "-o", plan, "--target", "cpu").exit_code == 0
    (tmp_path / "elsewhere").mkdir()
    where = ("--runs", runs)
    assert recipe("run", plan, "--root", tmp_path / "elsewhere", "--target", "cpu", "-q", *where).exit_code == 1
    assert recipe("runs", *where).stdout.split()[:2] == ["case", "failed"]
    assert recipe("report", "case", *where).stdout.startswith('case: failed before its first step: there is no file "')
    made = Plan.from_json(json.loads(plan.read_text()))
    place = Placement(engine="pytorch", engine_reason="", device="cpu", device_reason="", micro_batch_size=32)
    with pytest.raises(Interrupted):
        list(execute(made, place, runs=runs, root=tmp_path, sources=Sources(), stop=lambda: True))
    assert recipe("runs", *where).stdout.split()[:2] == ["case", "interrupted"]


def test_a_run_that_was_killed_is_unfinished_after_a_step(project: Path, recipe) -> None:
    path = project / "runs" / "tiny" / "report.json"
    report = json.loads(path.read_text())
    report["steps"][1:] = [{**step, "receipt": None} for step in report["steps"][1:]]
    nothing: dict[str, object] = {"training": None, "evaluation": None, "gates": {}}
    path.write_text(json.dumps({**report, **nothing, "state": "unfinished"}))
    shown = recipe("report", "tiny", "--runs", project / "runs").stdout
    assert shown.startswith("tiny: unfinished after the step prepare\n")


def test_one_folder_is_one_folder(project: Path, recipe) -> None:
    done = recipe("clean", "tiny", "--dry-run", "--runs", project / "runs")
    assert "folders," in done.stdout
    (project / "runs" / "stray" / "x").mkdir(parents=True)
    (project / "runs" / ".steps" / ("0" * 64)).mkdir()
    assert "\n1 folder, " in recipe("clean", "--dry-run", "--runs", project / "runs").stdout


def test_answers_for_a_terminal_are_escaped(project: Path, recipe) -> None:
    done = recipe("predict", project / "runs" / "tiny", "--text", "a great \x1b[31m movie")
    assert done.exit_code == 0, done.output
    assert "a great \\x1b[31m movie" in done.stdout


@pytest.mark.parametrize("command", ["predict", "report", "clean"])
def test_a_run_that_is_not_there_says_when_there_are_none(tmp_path: Path, recipe, command: str) -> None:
    text = ("--text", "a") if command == "predict" else ()
    done = recipe(command, "nothing", *text, "--runs", tmp_path / "runs")
    assert done.exit_code == 2
    assert f"there are no runs in {tmp_path / 'runs'}" in " ".join(done.output.split())
