"""A task with an answer for each word, from its recipe through the gate to its bundle; both kinds of rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import invoke
from tests.cli.test_bundle import stop_lower_casing, swap_labels
from tests.tagged import DATASET, TAGS, as_spans, tagged_rows, write_tagged

pytestmark = pytest.mark.slow


def run(folder: Path, *options: str) -> None:
    done = invoke(
        "run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu", "--runtime", "pytorch", *options
    )
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of tokens and tags that was run: all of the model is tuned, and rows over 14 tokens are cut."""
    training = {"epochs": 6, "learning_rate": 5e-3, "batch_size": 16, "max_length": 14}
    folder = write_tagged(tmp_path_factory.mktemp("tokens") / "project", training=training)
    run(folder)
    return folder


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of texts and spans that was run: low-rank updates, merged for the export."""
    training = {"epochs": 10, "learning_rate": 1e-2, "batch_size": 16}
    folder = write_tagged(tmp_path_factory.mktemp("spans") / "project", spans=True, method="lora", training=training)
    run(folder)
    return folder


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "runs" / "tiny" / "report.json").read_text())
    return found


def predictions(*arguments: str | Path) -> list[dict[str, Any]]:
    done = invoke("predict", *arguments, "--json")
    assert done.exit_code == 0, done.output
    return [json.loads(line)["prediction"] for line in done.output.splitlines()]


@pytest.mark.parametrize("kind", ["tokens", "spans"])
def test_it_learns_the_entities(kind: str, request: pytest.FixtureRequest) -> None:
    evaluation = report(request.getfixturevalue(kind))["evaluation"]
    assert evaluation["baseline"]["majority"]["entity-f1_micro"] == 0.0
    assert evaluation["metrics"]["entity-f1_micro"] > 0.9
    assert set(evaluation["entities"]) == {"blame", "praise"}


def test_the_gate_compares_every_token_of_every_row(spans: Path) -> None:
    gate = report(spans)["gates"]["verify"]["verification"]
    assert [(edge["source"], edge["target"]) for edge in gate["edges"]] == [("trained", "merged"), ("merged", "onnx")]
    checks = {check["name"]: check for edge in gate["edges"] for check in edge["checks"]}
    assert checks["decisions"]["rows"] == 60
    assert checks["decisions"]["agreeing"] == checks["decisions"]["positions"] > 600
    assert checks["metrics"]["source"] == checks["metrics"]["other"]


def test_rows_that_are_cut_are_counted_and_an_answer_says_how_far_it_read(tokens: Path) -> None:
    found = report(tokens)["data"]["test"]
    assert found["truncated"] > 0
    assert f"{found['truncated']} rows cut at 14 tokens" in invoke("report", tokens / "runs" / "tiny").output
    [whole, cut] = predictions(tokens / "runs" / "tiny", "--text", "a movie", "--text", "the long movie " * 9)
    assert "read_to" not in whole
    assert cut["read_to"] == len("the long movie " * 4) - 1


def test_texts_are_answered_with_spans(spans: Path) -> None:
    text = "the movie was good fine, and dull plots"
    [answer] = predictions(spans / "runs" / "tiny", "--text", text)
    assert [(span["label"], span["text"]) for span in answer["spans"]] == [("praise", "good fine"), ("blame", "dull")]
    assert all(text[span["start"] : span["end"]] == span["text"] for span in answer["spans"])
    [line] = invoke("predict", spans / "runs" / "tiny", "--text", text).output.splitlines()
    assert line.startswith("good fine (praise 0.")
    assert line.endswith(text)


def test_tokens_are_answered_with_tags(tokens: Path) -> None:
    rows = tagged_rows(300)
    answers = predictions(tokens / "runs" / "tiny", "--input", tokens / "rows.jsonl")
    right = [
        found == tag
        for row, answer in zip(rows, answers, strict=True)
        for found, tag in zip(answer["tags"], row["tags"], strict=True)
    ]
    assert sum(right) / len(right) > 0.95


def test_transformers_reads_the_saved_model_as_we_answer(spans: Path) -> None:
    from tests.runtimes.tasks.test_token_classification import pipeline_answers

    texts = [as_spans(row)["text"] for row in tagged_rows(100)]
    (spans / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    ours = [answer["spans"] for answer in predictions(spans / "runs" / "tiny", "--input", spans / "texts.jsonl")]
    theirs = pipeline_answers(spans / "runs" / "tiny" / "model", texts)
    assert [[(s["label"], s["start"], s["end"]) for s in found] for found in ours] == [
        [(s["entity_group"], s["start"], s["end"]) for s in found] for found in theirs
    ]


def test_the_receiver_measures_rows_of_either_kind(tokens: Path, tmp_path: Path) -> None:
    (tmp_path / "spans.jsonl").write_text("".join(json.dumps(as_spans(row)) + "\n" for row in tagged_rows(60)))
    for rows in (tokens / "rows.jsonl", tmp_path / "spans.jsonl"):
        done = invoke("verify", tokens / "runs" / "tiny", "--data", rows, "--json")
        assert done.exit_code == 0, done.output
        [edge] = json.loads(done.output)["edges"]
        assert edge["checks"][-1]["other"]["entity-f1_micro"] > 0.9


@pytest.mark.parametrize(("damage", "check"), [(swap_labels, "decisions"), (stop_lower_casing, "tokens")])
def test_damage_that_was_sealed_again_is_caught(tokens: Path, tmp_path: Path, damage: Any, check: str) -> None:
    from runtimes.bundles.manifest import read_manifest, seal

    bundle = Path(shutil.copytree(tokens / "runs" / "tiny" / "bundle", tmp_path / "bundle"))
    damage(bundle)
    seal(bundle, read_manifest(bundle))
    done = invoke("verify", bundle)
    assert done.exit_code == 3
    assert check in [line.split()[4] for line in done.output.splitlines() if line.startswith("FAIL")]


def test_a_model_that_was_tuned_keeps_its_head(tokens: Path, tmp_path: Path) -> None:
    folder = write_tagged(tmp_path / "again", training={"max_steps": 1, "learning_rate": 1e-6}, export=[])
    shutil.rmtree(folder / "model")
    shutil.copytree(tokens / "runs" / "tiny" / "model", folder / "model")
    run(folder)
    found = report(folder)
    assert {"pointer": "/task/labels", "value": [*TAGS], "reason": "the labels in the train rows"} in found["choices"]
    assert "head kept" in [choice["value"] for choice in found["choices"]]
    evaluation = found["evaluation"]
    assert evaluation["baseline"]["untuned"]["entity-f1_micro"] > 0.9
    assert evaluation["metrics"]["entity-f1_micro"] > 0.9


def test_init_writes_a_recipe_for_either_kind_of_rows(tmp_path: Path) -> None:
    folder = write_tagged(tmp_path / "project", num_rows=100)
    for roles, rows in (
        (("tokens", "tags"), tagged_rows(100)),
        (("text", "spans"), [as_spans(r) for r in tagged_rows(100)]),
    ):
        named = {role: f"my_{role}" for role in roles}
        data, out = tmp_path / "rows.jsonl", tmp_path / f"{roles[0]}.json"
        data.write_text("".join(json.dumps({"note": "x", **{named[k]: row[k] for k in roles}}) + "\n" for row in rows))
        done = invoke("init", data, "--yes", "--model", folder / "model", "-o", out)
        assert done.exit_code == 0, done.output
        written = json.loads(out.read_text())
        assert (written["task"], written["dataset"]["columns"]) == ("token-classification", named)
    assert DATASET["train"] == "rows.jsonl"
