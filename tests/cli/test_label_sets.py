"""Rows with several labels from their recipe through the gate to their bundle: each label is decided by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import invoke
from tests.tiny import BAD, COMMON, GOOD, RECIPE, write_project

pytestmark = pytest.mark.slow


def tagged(count: int) -> list[dict[str, Any]]:
    """Texts with a good word, a bad one, both or neither, tagged so."""
    random = np.random.default_rng(2)
    found: dict[str, list[str]] = {}
    while len(found) < count:
        good, bad = random.random(2) < (0.5, 0.25)
        words = [*random.choice(COMMON, random.integers(3, 12))]
        words += [random.choice(GOOD)] * bool(good) + [random.choice(BAD)] * bool(bad)
        random.shuffle(words)
        found.setdefault(" ".join(words), ["praise"] * bool(good) + ["blame"] * bool(bad))
    return [{"snippet": text, "sentiment": tags} for text, tags in found.items()]


def write(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> Path:
    recipe = {
        "task": {"type": "text-classification", "multi_label": True},
        "metrics": ["accuracy", {"type": "f1", "average": "micro"}, "f1", "auroc"],
        "training": {**RECIPE["training"], "epochs": 8},
    }
    write_project(folder, **{**recipe, **changes})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    training = {**RECIPE["training"], "epochs": 12}
    folder = write(tmp_path_factory.mktemp("sets") / "project", tagged(800), training=training)
    done = invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu", "--quiet")
    assert done.exit_code == 0, done.output
    return folder


def test_each_label_is_learnt(folder: Path) -> None:
    report = json.loads((folder / "runs" / "tiny" / "report.json").read_text())
    assert report["gate_passed"]
    metrics = report["evaluation"]["metrics"]
    assert list(metrics) == ["accuracy", "f1_micro", "f1_macro", "auroc_macro", "loss"]
    assert metrics["accuracy"] > 0.9
    assert metrics["auroc_macro"] > 0.95
    assert report["evaluation"]["baseline"]["majority"]["accuracy"] < 0.6
    labels = report["evaluation"]["by_label"]
    assert [found["label"] for found in labels] == ["blame", "praise"]


def test_the_bundle_has_the_thresholds_that_were_learnt(folder: Path) -> None:
    bundle = folder / "runs" / "tiny" / "bundle"
    found = json.loads((bundle / "labels.json").read_text())
    learnt = json.loads((folder / "runs" / "tiny" / "report.json").read_text())["evaluation"]["by_label"]
    assert found == {"labels": ["blame", "praise"], "thresholds": [label["threshold"] for label in learnt]}
    assert json.loads((bundle / "config.json").read_text())["problem_type"] == "multi_label_classification"


def test_the_gate_counts_a_decision_for_each_label(folder: Path) -> None:
    gate = json.loads((folder / "runs" / "tiny" / "verification.json").read_text())["verification"]
    [decisions] = [check for check in gate["edges"][-1]["checks"] if check["name"] == "decisions"]
    assert decisions["positions"] == 2 * decisions["rows"]


def test_a_bundle_gives_any_number_of_labels(folder: Path) -> None:
    texts = [f"the movie is {GOOD[0]}", f"the plot was {BAD[0]} and {GOOD[1]}", "the movie was long and a film"]
    flags = [flag for text in texts for flag in ("--text", text)]
    done = invoke("predict", folder / "runs" / "tiny", *flags, "--json")
    answers = [json.loads(line)["prediction"]["labels"] for line in done.output.splitlines()]
    assert answers == [["praise"], ["blame", "praise"], []]
    assert "no label" in invoke("predict", folder / "runs" / "tiny", *flags).output


def test_the_receiver_measures_its_own_rows_and_a_moved_threshold_is_caught(folder: Path, tmp_path: Path) -> None:
    import shutil

    done = invoke("verify", folder / "runs" / "tiny", "--data", folder / "rows.jsonl", "--json")
    assert done.exit_code == 0, done.output
    [edge] = json.loads(done.output)["edges"]
    assert edge["checks"][-1]["other"]["accuracy"] > 0.9
    moved = Path(shutil.copytree(folder / "runs" / "tiny" / "bundle", tmp_path / "moved"))
    found = json.loads((moved / "labels.json").read_text())
    (moved / "labels.json").write_text(json.dumps({**found, "thresholds": [0.999999, 0.999999]}))
    done = invoke("verify", moved, "--json")
    assert done.exit_code == 3
    failed = [
        check["name"]
        for check in json.loads(done.output.partition("\nerror")[0])["edges"][0]["checks"]
        if not check["passed"]
    ]
    assert {"hashes", "decisions"} <= {*failed}


def test_transformers_reads_the_model_as_one_of_several_labels(folder: Path) -> None:
    import transformers

    from runtimes.pytorch.quiet import quiet

    run, text = folder / "runs" / "tiny", f"the plot was {BAD[0]} and {GOOD[1]}"
    ours = json.loads(invoke("predict", run, "--text", text, "--json").output)
    with quiet():
        pipe: Any = transformers.pipeline(
            "text-classification", model=str(run / "model"), top_k=None, function_to_apply="sigmoid"
        )
        [answers] = pipe([text])
    found = {one["label"]: one["score"] for one in answers}
    assert found == pytest.approx(ours["prediction"]["scores"], abs=1e-4)


def test_without_validation_rows_the_threshold_is_a_half(tmp_path: Path) -> None:
    rows = [
        {**row, "sentiment": {"praise": "praise" in row["sentiment"], "blame": int("blame" in row["sentiment"])}}
        for row in tagged(80)
    ]
    dataset = {**RECIPE["dataset"], "validation": None}
    training = {**RECIPE["training"], "epochs": 1}
    folder = write(tmp_path / "project", rows, dataset=dataset, training=training)
    done = invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu", "--quiet")
    assert done.exit_code == 0, done.output
    bundle = folder / "runs" / "tiny" / "bundle"
    assert json.loads((bundle / "labels.json").read_text()) == {"labels": ["blame", "praise"], "thresholds": [0.5, 0.5]}


def test_thresholds_outlive_the_merging_of_an_adapter(tmp_path: Path) -> None:
    training = {**RECIPE["training"], "epochs": 2}
    folder = write(tmp_path / "project", tagged(120), method={"type": "lora", "rank": 4}, training=training)
    done = invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu", "--quiet")
    assert done.exit_code == 0, done.output
    run = folder / "runs" / "tiny"
    learnt = json.loads((run / "report.json").read_text())["evaluation"]["by_label"]
    found = json.loads((run / "bundle" / "labels.json").read_text())["thresholds"]
    assert found == [label["threshold"] for label in learnt] != [0.5, 0.5]
