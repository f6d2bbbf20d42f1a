"""Training from nothing in the language: no weights are asked for, none are in a key, nothing is the untuned model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler.cli.plan import plan_lines
from compiler.diagnostics import RecipeError
from compiler.driver import Compiled, compile_recipe
from compiler.facts import LocalFacts
from compiler.loading import load
from compiler.placement import parse_target
from compiler.plan import Evaluate, Train
from compiler.tasks import TextClassification
from tests.handmade import MODEL, planned
from tests.tiny import RECIPE, rows, save_tokenizer

CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertForSequenceClassification"],
    "id2label": {"0": "positive", "1": "negative"},
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose model is a configuration and a tokenizer."""
    vocabulary = save_tokenizer(tmp_path / "model", ("movie", "plot"))
    (tmp_path / "model" / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": vocabulary}))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(60)))
    return tmp_path


def compiled(project: Path, method: str) -> Compiled:
    (project / "recipe.json").write_text(json.dumps({**RECIPE, "method": method}))
    return compile_recipe(load(project / "recipe.json"), LocalFacts(offline=True), parse_target("cpu"))


def test_a_configuration_and_a_tokenizer_suffice(project: Path) -> None:
    train = compiled(project, "scratch").plan.step("train")
    assert isinstance(train, Train)
    assert (train.tuned.parameters, train.tuned.modules, train.keep_head) == (0, (), False)
    assert set(train.model.files) == {"config.json", "tokenizer.json", "tokenizer_config.json"}
    assert isinstance(train.task, TextClassification)
    assert train.task.labels == ("negative", "positive")  # not in the configuration's order


@pytest.mark.parametrize("method", ["full", "head", "lora", "bitfit"])
def test_every_other_method_needs_weights(project: Path, method: str) -> None:
    with pytest.raises(RecipeError) as caught:
        compiled(project, method)
    assert "R402" in [found.code for found in caught.value.diagnostics]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_that_are_there_are_not_read(project: Path, name: str) -> None:
    keys = compiled(project, "scratch").plan.keys()
    (project / "model" / name).write_bytes(b"no weights")
    assert compiled(project, "scratch").plan.keys() == keys


@pytest.mark.parametrize(("method", "compared"), [("full", True), ("scratch", False)])
def test_there_is_no_untuned_model_to_compare_with(method: str, compared: bool) -> None:
    decoder = replace(MODEL, architecture="decoder", model_type="llama")
    evaluate = planned(decoder, task="continued-pretraining", method=method).step("evaluate")
    assert isinstance(evaluate, Evaluate)
    assert (evaluate.baseline_model is not None) is compared


def test_the_plan_says_that_all_is_trained(project: Path) -> None:
    made = compiled(project, "scratch")
    lines = plan_lines(made.plan, made.placements)
    assert "    tuned all parameters; how many is known when the model is built" in lines
