"""`recipe check --trace`: what a runtime can't train is found before a run, and is a finding like any other."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the torch extra")

from tests.tiny import RECIPE, save_tokenizer, write_project


def test_a_graph_that_lowers_is_counted(recipe, tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="needs the mlx extra")
    folder = write_project(tmp_path / "project")
    done = recipe("check", folder / "recipe.json", "--trace", "--runtime", "mlx")
    assert done.exit_code == 0, done.output
    assert "MLX runs the model's graph: " in done.output
    assert "all lowered" in done.output
    assert sorted(path.name for path in folder.iterdir()) == ["model", "recipe.json", "rows.jsonl"]


def test_no_weights_are_drawn_for_a_graph(recipe, tmp_path: Path) -> None:
    """There is no memory for those of this model."""
    pytest.importorskip("mlx.core", reason="needs the mlx extra")
    folder = write_project(tmp_path / "project", method="scratch")
    (folder / "model" / "model.safetensors").unlink()
    config = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps({**config, "vocab_size": 2**40}))
    done = recipe("check", folder / "recipe.json", "--trace", "--runtime", "mlx")
    assert done.exit_code == 0, done.output
    assert "all lowered" in done.output


def test_a_model_that_does_not_trace_is_a_finding_about_the_model(recipe, tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="needs the mlx extra")
    from transformers import LongformerConfig, LongformerModel

    from runtimes.pytorch.quiet import quiet

    folder = write_project(tmp_path / "project", model="./long")
    vocabulary = save_tokenizer(folder / "long", ("the", "movie"))
    config = LongformerConfig(
        vocab_size=vocabulary,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=80,
        attention_window=[4],
    )
    with quiet():
        LongformerModel(config).save_pretrained(folder / "long")
    done = recipe("check", folder / "recipe.json", "--trace", "--runtime", "mlx", "--format", "json")
    assert done.exit_code == 1
    [found] = [finding for finding in json.loads(done.output) if finding["severity"] == "error"]
    assert (found["code"], found["pointer"]) == ("E408", "/model/id")


def test_pytorch_traces_nothing(recipe, tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project")
    done = recipe("check", folder / "recipe.json", "--trace", "--target", "cpu")
    assert done.exit_code == 0, done.output
    assert "nothing is traced" in done.output


@pytest.mark.parametrize("options", [["--runtime", "mlx", "--no-facts"], ["--trace", "--no-facts"]])
def test_options_that_nothing_would_read_are_refused(recipe, tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    assert recipe("check", tmp_path / "recipe.json", *options).exit_code == 2
