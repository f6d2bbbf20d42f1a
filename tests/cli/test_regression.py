"""A second task from its recipe through the gate to its bundle: numbers instead of labels, the same spine."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import invoke
from tests.tiny import BAD, GOOD, RECIPE, write_project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose rows are rated: 70 for a text with a good word in it, 30 for one with a bad word, CSV."""
    folder = write_project(tmp_path_factory.mktemp("regression") / "project")
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    rated = [f"{row['snippet']},{50 + 20 * (1 if row['sentiment'] == 'positive' else -1)}" for row in rows]
    (folder / "rows.csv").write_text("\n".join(["review,stars", *rated]) + "\n")
    recipe = {
        **RECIPE,
        "task": "text-regression",
        "dataset": {**RECIPE["dataset"], "train": "rows.csv", "columns": {"text": "review", "target": "stars"}},
        "training": {**RECIPE["training"], "epochs": 6},
        "metrics": ["mae", "r2"],
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    done = invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu", "--quiet")
    assert done.exit_code == 0, done.output
    return folder


def test_it_learns_the_numbers_in_their_unit(folder: Path) -> None:
    evaluation = json.loads((folder / "runs" / "tiny" / "report.json").read_text())["evaluation"]
    assert evaluation["baseline"]["mean"]["mae"] == pytest.approx(20, abs=1)
    assert evaluation["metrics"]["mae"] < 5
    assert evaluation["metrics"]["r2"] > 0.9
    assert "confusion" not in evaluation


def test_the_gate_compares_numbers_and_no_decisions(folder: Path) -> None:
    gate = json.loads((folder / "runs" / "tiny" / "verification.json").read_text())["verification"]
    [edge] = gate["edges"]
    assert [check["name"] for check in edge["checks"]] == ["outputs", "outputs_batch_1", "outputs_probes", "metrics"]
    assert gate["passed"]


def test_a_bundle_answers_with_numbers(folder: Path) -> None:
    texts = [f"the movie was {word}" for word in (GOOD[0], BAD[0])]
    done = invoke("predict", folder / "runs" / "tiny", "--text", texts[0], "--text", texts[1], "--json")
    values = [json.loads(line)["prediction"]["value"] for line in done.output.splitlines()]
    assert values == pytest.approx([70, 30], abs=10)


def test_the_receiver_measures_its_own_rows(folder: Path) -> None:
    done = invoke("verify", folder / "runs" / "tiny", "--data", folder / "rows.csv", "--json")
    assert done.exit_code == 0, done.output
    [edge] = json.loads(done.output)["edges"]
    assert edge["checks"][-1]["other"]["mae"] < 5
