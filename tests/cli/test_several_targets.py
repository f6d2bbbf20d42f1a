"""Several numbers a row, from their recipe through the gate to their bundle: each in its own unit, by its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import invoke
from tests.tiny import BAD, GOOD, RECIPE, write_project

TASK: dict[str, Any] = {"type": "text-regression", "targets": ["stars", "length"]}
COLUMNS = {"text": "review"}
TEXTS = (f"the movie was {GOOD[0]}", f"the movie was {BAD[0]} and the plot was very very long and the actor was dull")


def write(folder: Path, **changes: Any) -> Path:
    """A project whose rows have stars (0.7 with a good word, 0.3 with a bad one) and a thousand times their words."""
    write_project(folder)
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    stars = {"positive": 0.7, "negative": 0.3}
    lines = [f"{row['snippet']},{stars[row['sentiment']]},{1000 * len(row['snippet'].split())}" for row in rows]
    (folder / "rows.csv").write_text("\n".join(["review,stars,length", *lines]) + "\n")
    recipe = {
        **RECIPE,
        "task": TASK,
        "dataset": {**RECIPE["dataset"], "train": "rows.csv", "columns": COLUMNS},
        "training": {**RECIPE["training"], "epochs": 8},
        "metrics": ["mae", "r2"],
    }
    (folder / "recipe.json").write_text(json.dumps({**recipe, **changes}))
    return folder


def run(folder: Path, *flags: str) -> Path:
    done = invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu", "--quiet", *flags)
    assert done.exit_code == 0, done.output
    return folder / "runs" / "tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write(tmp_path_factory.mktemp("several") / "project")
    run(folder)
    return folder


@pytest.mark.slow
def test_each_target_is_learnt_and_reported_in_its_unit(folder: Path) -> None:
    evaluation = json.loads((folder / "runs" / "tiny" / "report.json").read_text())["evaluation"]
    stars, length = evaluation["by_target"]
    assert [stars["target"], length["target"]] == ["stars", "length"]
    assert stars["baseline"]["mae"] == pytest.approx(0.2, abs=0.01)
    assert length["baseline"]["mae"] > 1000
    assert stars["r2"] > 0.8
    assert length["r2"] > 0.8
    for figures, beside in ((evaluation["metrics"], [stars, length]), (evaluation["baseline"]["mean"], None)):
        each = beside or [stars["baseline"], length["baseline"]]
        for name in ("mae", "r2"):
            assert figures[name] == pytest.approx((each[0][name] + each[1][name]) / 2)


@pytest.mark.slow
def test_the_report_shows_each_target_with_its_baseline(folder: Path) -> None:
    lines = invoke("report", folder / "runs" / "tiny").output.splitlines()
    [at] = [number for number, line in enumerate(lines) if line.split()[:1] == ["target"]]
    assert lines[at].split() == ["target", "mse", "rmse", "mae", "pearson", "spearman", "r2"]
    assert [line.split()[0] for line in lines[at + 1 : at + 5]] == ["stars", "mean", "length", "mean"]
    assert "stars" in (folder / "runs" / "tiny" / "report.html").read_text()


@pytest.mark.slow
def test_the_gate_compares_numbers_and_no_decisions(folder: Path) -> None:
    gate = json.loads((folder / "runs" / "tiny" / "verification.json").read_text())["verification"]
    [edge] = gate["edges"]
    assert [check["name"] for check in edge["checks"]] == ["outputs", "outputs_batch_1", "outputs_probes", "metrics"]
    assert gate["passed"]
    assert edge["checks"][0]["tolerance"] < 1e-3  # in deviations: lengths of some ten thousand would allow more


@pytest.mark.slow
def test_a_bundle_answers_with_each_number_by_its_name(folder: Path) -> None:
    flags = [flag for text in TEXTS for flag in ("--text", text)]
    done = invoke("predict", folder / "runs" / "tiny", *flags, "--json")
    good, bad = (json.loads(line)["prediction"]["values"] for line in done.output.splitlines())
    assert good["stars"] == pytest.approx(0.7, abs=0.15)
    assert bad["stars"] == pytest.approx(0.3, abs=0.15)
    assert good["length"] < bad["length"]
    said = invoke("predict", folder / "runs" / "tiny", "--text", TEXTS[0]).output
    assert said.startswith(f"stars {good['stars']:.4f}, length {good['length']:.4f}")
    assert json.loads((folder / "runs" / "tiny" / "bundle" / "labels.json").read_text()) == ["stars", "length"]


@pytest.mark.slow
def test_transformers_answers_in_the_rows_units_under_the_targets_names(folder: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    import transformers

    from runtimes.pytorch.quiet import quiet

    path = folder / "runs" / "tiny" / "model"
    with quiet():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(path)
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "model" / "tokenizer.json"))
    assert (model.config.problem_type, model.config.num_labels) == ("regression", 2)
    with torch.inference_mode():
        [logits] = model(**tokenizer(TEXTS[0], return_tensors="pt")).logits.tolist()
    ours = json.loads(invoke("predict", folder / "runs" / "tiny", "--text", TEXTS[0], "--json").output)
    named = {model.config.id2label[number]: value for number, value in enumerate(logits)}
    assert named == pytest.approx(ours["prediction"]["values"], rel=1e-4)


@pytest.mark.slow
def test_the_receiver_measures_its_own_rows_and_swapped_names_are_caught(folder: Path, tmp_path: Path) -> None:
    done = invoke("verify", folder / "runs" / "tiny", "--data", folder / "rows.csv", "--json")
    assert done.exit_code == 0, done.output
    [edge] = json.loads(done.output)["edges"]
    assert edge["checks"][-1]["other"]["r2"] > 0.8
    moved = Path(shutil.copytree(folder / "runs" / "tiny" / "bundle", tmp_path / "moved"))
    (moved / "labels.json").write_text('["length", "stars"]')
    done = invoke("verify", moved, "--json")
    assert done.exit_code == 3
    [edge] = json.loads(done.output.partition("\nerror")[0])["edges"]
    failed = {check["name"] for check in edge["checks"] if not check["passed"]}
    assert {"hashes", "labels", "metrics"} <= failed


@pytest.mark.slow
def test_a_plan_of_several_targets_trains_on_mlx_through_the_gate(tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="needs the mlx extra")
    training = {**RECIPE["training"], "epochs": 2}
    method = {"type": "lora", "rank": 4}
    folder = write(tmp_path / "project", training=training, method=method)
    found = run(folder, "--runtime", "mlx")
    report = json.loads((found / "report.json").read_text())
    assert report["gate_passed"]
    assert [target["target"] for target in report["evaluation"]["by_target"]] == ["stars", "length"]
    [mean] = [choice["value"] for choice in report["choices"] if choice["pointer"] == "/task/mean"]
    assert mean == pytest.approx([0.5, 11_000], rel=0.3)


def check(folder: Path, **changes: Any) -> str:
    done = invoke("check", write(folder, **changes) / "recipe.json")
    assert done.exit_code == 1, done.output
    return str(done.output)


def test_a_row_without_one_of_the_numbers_is_named_with_its_line(tmp_path: Path) -> None:
    folder = write(tmp_path / "project")
    lines = (folder / "rows.csv").read_text().splitlines()
    lines[6] = lines[6].rpartition(",")[0] + ","
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    done = invoke("check", folder / "recipe.json")
    assert done.exit_code == 1
    assert 'rows.csv:7:1: error[R313] the column "length": expected a number, found an empty string' in done.output


def test_a_column_that_is_missing_or_no_number_is_said_of_its_target(tmp_path: Path) -> None:
    said = check(tmp_path / "missing", task={**TASK, "targets": ["stars", "lenght"]})
    assert "error[R304] /task/targets/1: " in said
    assert 'did you mean "length"?' in said
    said = check(tmp_path / "text", task={**TASK, "targets": ["review", "length"]}, dataset={"train": "rows.csv"})
    assert "error[R304] /dataset: " in said  # the text is still to be named
    folder = write(tmp_path / "words")
    text = (folder / "rows.csv").read_text()
    (folder / "rows.csv").write_text(text.replace(",0.7,", ",high,").replace(",0.3,", ",low,"))
    said = str(invoke("check", folder / "recipe.json").output)
    assert 'error[R313] /task/targets/0: 300 of 300 rows have no stars in the column "stars"' in said


def test_a_target_that_never_changes_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "project")
    text = (folder / "rows.csv").read_text()
    (folder / "rows.csv").write_text(text.replace(",0.3,", ",0.7,"))
    said = str(invoke("check", folder / "recipe.json").output)
    assert 'error[R316] /task/targets/0: all train rows have the target 0.7 in the column "stars"' in said


def test_an_example_is_shown_with_each_number_that_is_learnt(tmp_path: Path) -> None:
    folder = write(tmp_path / "project")
    done = invoke("check", folder / "recipe.json", "--show-example")
    assert done.exit_code == 0, done.output
    assert "stars 0.7" in done.output or "stars 0.3" in done.output
    assert "targets from 0.3 to 0.7, from 3000 to " in done.output
