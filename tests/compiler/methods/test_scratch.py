"""Training from nothing in the language: no weights are asked for, none are in a key, nothing is the untuned model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

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


def compiled(project: Path, method: str, **changes: Any) -> Compiled:
    (project / "recipe.json").write_text(json.dumps({**RECIPE, "method": method, **changes}))
    return compile_recipe(load(project / "recipe.json"), LocalFacts(offline=True), parse_target("cpu"))


def test_a_configuration_and_a_tokenizer_suffice(project: Path) -> None:
    train = compiled(project, "scratch").plan.step("train")
    assert isinstance(train, Train)
    assert (train.tuned.parameters, train.tuned.modules, train.keep_head) == (None, (), False)
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


def staged(project: Path, method: Any, **training: Any) -> Compiled:
    """A recipe whose first stage draws weights, and whose second one tunes them."""
    common = {key: value for key, value in RECIPE.items() if key in ("recipe", "name", "model")}
    stage = {key: value for key, value in RECIPE.items() if key in ("task", "dataset")}
    again = {"name": "two", **stage, "method": method, "training": training}
    stages = [{"name": "one", **stage, "method": "scratch"}, again]
    (project / "recipe.json").write_text(json.dumps({**common, "stages": stages}))
    return compile_recipe(load(project / "recipe.json"), LocalFacts(offline=True), parse_target("cpu"))


def save_weights(project: Path, **changes: int) -> None:
    """Writes weights of the configuration beside it, or of one with other sizes."""
    sizes = {key: value for key, value in {**CONFIG, **changes}.items() if isinstance(value, int)}
    hidden, width = sizes["hidden_size"], sizes["intermediate_size"]
    vocabulary = json.loads((project / "model" / "config.json").read_text())["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (vocabulary, hidden),
        "bert.embeddings.LayerNorm.weight": (hidden,),
        "classifier.weight": (2, hidden),
    }
    for number in range(sizes["num_hidden_layers"]):
        for name in ("query", "key", "value"):
            shapes[f"bert.encoder.layer.{number}.attention.self.{name}.weight"] = (hidden, hidden)
            shapes[f"bert.encoder.layer.{number}.attention.self.{name}.bias"] = (hidden,)
        shapes[f"bert.encoder.layer.{number}.attention.output.dense.weight"] = (hidden, hidden)
        shapes[f"bert.encoder.layer.{number}.intermediate.dense.weight"] = (width, hidden)
        shapes[f"bert.encoder.layer.{number}.output.dense.weight"] = (hidden, width)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_file(tensors, project / "model" / "model.safetensors")


BY_SHAPES: list[Any] = [
    *("lora", "dora", "adalora", "ia3", "layer-norm", "adapter", "bitfit", "p-tuning"),
    {"type": "prefix", "projection": True},
]


@pytest.mark.parametrize("method", BY_SHAPES, ids=str)
def test_a_stage_that_is_planned_by_shapes_is_refused_where_none_are_known(project: Path, method: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        staged(project, method)
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R240", "/stages/1/method")
    assert "an earlier stage draws them anew" in found.message


@pytest.mark.parametrize("method", BY_SHAPES, ids=str)
def test_weights_of_the_configuration_say_what_shapes_the_drawn_ones_have(project: Path, method: Any) -> None:
    save_weights(project)
    one, two = (stage.resolved for stage in staged(project, method).stages)
    assert two.tuned.modules
    assert (two.tuned.parameters or 0) > 0
    assert (one.keep_head, one.tuned.parameters) == (False, None), "of the files, nothing but shapes is read"
    assert set(one.model.files) == {"config.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize(
    "other", [{"hidden_size": 64}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"intermediate_size": 128}]
)
def test_weights_of_another_configuration_decide_nothing(project: Path, other: dict[str, int]) -> None:
    save_weights(project, **other)
    with pytest.raises(RecipeError) as caught:
        staged(project, "lora")
    assert [found.code for found in caught.value.diagnostics] == ["R240"]
    assert staged(project, "full").stages[1].resolved.tuned.parameters is None


@pytest.mark.parametrize(
    "method",
    ["full", "head", {"type": "freeze", "layers": 1}, "prompt", "prefix", {"type": "p-tuning", "hidden_size": 8}],
    ids=str,
)
def test_a_stage_that_needs_no_shapes_tunes_what_was_drawn(project: Path, method: Any) -> None:
    made = staged(project, method)
    kind = method if isinstance(method, str) else method["type"]
    assert made.stages[1].resolved.tuned.parameters == (0 if kind == "head" else None)
    assert "    tuned by the method; how many parameters is known when the model is built" in plan_lines(
        made.plan, made.placements
    )


@pytest.mark.parametrize("option", [{"layer_decay": 0.9}, {"unfreeze_every": 2}, {"head_lr_multiplier": 3}])
def test_layers_that_are_drawn_have_rates_of_their_own(project: Path, option: dict[str, Any]) -> None:
    [key] = option
    trains = compiled(project, "scratch", training=option).stages + staged(project, "full", **option).stages[1:]
    assert [getattr(stage.resolved.training, key) for stage in trains] == [option[key]] * 2
    with pytest.raises(RecipeError, match='with the method "head"'):
        staged(project, "head", **option)


@pytest.mark.parametrize(("method", "compared"), [("full", True), ("scratch", False)])
def test_there_is_no_untuned_model_to_compare_with(method: str, compared: bool) -> None:
    decoder = replace(MODEL, architecture="decoder", model_type="llama")
    evaluate = planned(decoder, task="continued-pretraining", method=method).step("evaluate")
    assert isinstance(evaluate, Evaluate)
    assert (evaluate.baseline_model is not None) is compared


def test_the_plan_says_that_it_is_not_known_how_much_is_trained(project: Path) -> None:
    made = compiled(project, "scratch")
    lines = plan_lines(made.plan, made.placements)
    assert "    tuned by the method; how many parameters is known when the model is built" in lines
