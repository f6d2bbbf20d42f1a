"""Pairs of texts from their recipe through the gate to their bundle: the second text is read, and told apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.driver import compile_recipe
from compiler.facts import LocalFacts
from compiler.loading import load
from compiler.placement import parse_target
from compiler.plan import Prepare
from runtimes.features import Features
from tests.cli.conftest import invoke
from tests.conformance.engines import prepared
from tests.conformance.subjects import Project
from tests.tiny import BAD, COMMON, GOOD, RECIPE, write_project

pytestmark = pytest.mark.slow

COLUMNS = {"text": "premise", "text_pair": "claim", "label": "verdict"}


def pairs(count: int) -> list[dict[str, Any]]:
    """Rows whose verdict is the kind of word in the claim; the premise has a word of either kind, to mislead."""
    random = np.random.default_rng(1)

    def text(word: str) -> str:
        words = [*random.choice(COMMON, random.integers(1, 9)), word]
        random.shuffle(words)
        return " ".join(words)

    found = []
    for number in range(count):
        kinds = (GOOD, BAD) if number % 2 else (BAD, GOOD)
        premise, claim = random.choice([*GOOD, *BAD]), random.choice(kinds[0])
        row = {
            "premise": text(premise),
            "claim": text(claim),
            "verdict": ("no", "yes")[number % 2],
            "stars": number % 2,
        }
        found.append(row)
    return found


def write(folder: Path, **changes: Any) -> Path:
    write_project(folder)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs(400)))
    recipe = {**RECIPE, "dataset": {**RECIPE["dataset"], "columns": COLUMNS}, **changes}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write(tmp_path_factory.mktemp("pairs") / "project", training={**RECIPE["training"], "epochs": 8})
    done = invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu", "--quiet")
    assert done.exit_code == 0, done.output
    return folder


def test_the_second_text_decides(folder: Path) -> None:
    report = json.loads((folder / "runs" / "tiny" / "report.json").read_text())
    assert report["gate_passed"]
    assert report["evaluation"]["metrics"]["accuracy"] > 0.9
    assert report["evaluation"]["baseline"]["majority"]["accuracy"] < 0.6


def test_the_graph_is_told_which_text_a_token_is_of(folder: Path) -> None:
    manifest = json.loads((folder / "runs" / "tiny" / "bundle" / "manifest.json").read_text())
    assert manifest["inputs"] == ["input_ids", "attention_mask", "token_type_ids"]
    assert manifest["columns"] == COLUMNS


def test_probes_have_two_texts_as_well(folder: Path) -> None:
    lines = (folder / "runs" / "tiny" / "bundle" / "golden.jsonl").read_text().splitlines()
    probes = [row for line in lines if (row := json.loads(line))["probe"] is not None]
    assert {row["probe"] for row in probes} >= {"empty", "too long", "upper case"}
    assert all(row["row"]["text_pair"] for row in probes)
    [longest] = [row for row in probes if row["probe"] == "too long"]
    assert len(longest["ids"]) == len(max((row["ids"] for row in probes), key=len))


def test_a_bundle_answers_pairs_in_their_order(folder: Path) -> None:
    good, bad = f"the movie is {GOOD[0]}", f"the plot was {BAD[0]}"
    rows = [{"premise": bad, "claim": bad}, {"premise": bad, "claim": good}]
    (folder / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = invoke("predict", folder / "runs" / "tiny", "--input", folder / "two.jsonl")
    answers = [json.loads(line)["prediction"]["label"] for line in done.output.splitlines()]
    assert len(set(answers)) == 2, done.output


def test_a_pair_has_both_texts(folder: Path) -> None:
    (folder / "one.jsonl").write_text(json.dumps({"premise": "a movie"}) + "\n")
    done = invoke("predict", folder / "runs" / "tiny", "--input", folder / "one.jsonl")
    assert done.exit_code == 1
    assert 'the row has no column "claim"' in done.output
    done = invoke("predict", folder / "runs" / "tiny", "--text", "a movie")
    assert done.exit_code == 2
    assert "the task reads text and text_pair: give rows with --input" in done.output


def test_the_receiver_proves_its_own_pairs(folder: Path) -> None:
    done = invoke("verify", folder / "runs" / "tiny", "--data", folder / "rows.jsonl", "--json")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("task", ["text-classification", "text-regression"])
@pytest.mark.parametrize("max_length", ["auto", 12])
def test_the_compiler_counts_the_tokens_that_are_prepared(task: str, max_length: Any, tmp_path: Path) -> None:
    columns = {**COLUMNS, "target": "stars"}
    del columns["label" if task == "text-regression" else "target"]
    changes = {"task": task, "metrics": [], "training": {"max_length": max_length}, "export": []}
    project = write(tmp_path / "project", dataset={"train": "rows.jsonl", "columns": columns}, **changes)
    facts = LocalFacts(offline=True)
    compiled = compile_recipe(load(project / "recipe.json"), facts, parse_target("cpu"))
    step = compiled.plan.step("prepare")
    assert isinstance(step, Prepare)
    prepared(Project(folder=project, compiled=compiled))
    for split in compiled.data.splits:
        features = Features(project / "prepared" / split.rows.split)
        counted = [length for length, count in enumerate(split.lengths or ()) for _ in range(count)]
        assert sorted(features.lengths) == [min(length, step.max_length) for length in counted]
        assert features.facts.truncated == split.rows_over(step.max_length)
        assert sorted({*features.arrays["token_type_ids"].tolist()}) == [0, 1]
