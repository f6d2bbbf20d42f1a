"""Every method from its recipe through the gate, and what it leaves, read by the libraries that own the layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from tests.cli.conftest import invoke
from tests.tiny import RECIPE, write_project

METHODS = {
    "head": {"type": "head"},
    "freeze": {"type": "freeze", "layers": 1},
    "lora": {"type": "lora", "rank": 4},
    "qlora": {"type": "qlora", "rank": 4, "group_size": 32},
    "adapter": {"type": "adapter", "reduction_factor": 4},
    "bitfit": {"type": "bitfit"},
    "scratch": {"type": "scratch"},
}
MERGED = ("lora", "qlora")
MLX = ("qlora",)  # what runs on MLX only
TRAINING = {**RECIPE["training"], "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("methods") / "project")


def run(folder: Path, name: str) -> Result:
    if name in MLX:
        pytest.importorskip("mlx.core", reason="needs the mlx extra")
    runtime = "mlx" if name in MLX else "pytorch"
    file = folder / f"{name}.json"
    file.write_text(
        json.dumps({**RECIPE, "name": name, "method": METHODS[name], "training": TRAINING, "runtime": runtime})
    )
    return invoke("run", file, "--runs", folder / "runs", "--target", "cpu", "--quiet")


def logits(model, texts: list[str], folder: Path) -> np.ndarray:
    """The answers of a loaded model, row by row, [N, C]."""
    import torch
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    with torch.inference_mode():
        return np.concatenate([model.eval()(torch.tensor([tokenizer.encode(text).ids])).logits for text in texts])


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_method_passes_the_gate(folder: Path, name: str) -> None:
    done = run(folder, name)
    assert done.exit_code == 0, done.output
    report = json.loads((folder / "runs" / name / "report.json").read_text())
    assert report["gate_passed"] is True
    trained, total = (report["training"]["parameters"][key] for key in ("trained", "total"))
    assert 0 < trained <= total
    assert (trained == total) == (name == "scratch")
    frozen = report["training"]["frozen_bytes"]
    assert (frozen["held"] < frozen["float32"]) == ("frozen weights in" in done.output) == (name == "qlora")
    edges = [(edge["source"], edge["target"]) for edge in report["gates"]["verify"]["verification"]["edges"]]
    assert edges == ([("trained", "merged"), ("merged", "onnx")] if name in MERGED else [("trained", "onnx")])


@pytest.mark.slow
def test_peft_and_transformers_load_what_lora_left_and_agree(folder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    from runtimes.pytorch.quiet import quiet

    run_folder = folder / "runs" / "lora"
    if not run_folder.exists():
        assert run(folder, "lora").exit_code == 0
    texts = ["a great movie", "the plot is dull", "very good and the end is bad"]
    with quiet():
        merged = AutoModelForSequenceClassification.from_pretrained(run_folder / "model")
        base = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=2)
        adapted = PeftModel.from_pretrained(base, str(run_folder / "adapter"))
    np.testing.assert_allclose(logits(merged, texts, folder), logits(adapted, texts, folder), atol=1e-5)
    assert merged.config.id2label == {0: "negative", 1: "positive"}


@pytest.mark.slow
def test_a_bundle_has_an_adapter_that_is_not_merged_in_its_graph(folder: Path) -> None:
    run_folder = folder / "runs" / "adapter"
    if not run_folder.exists():
        assert run(folder, "adapter").exit_code == 0
    assert not (run_folder / "model").exists()
    for place in (run_folder / "adapter", run_folder / "bundle"):
        config = json.loads((place / "config.json").read_text())
        assert config["id2label"] == {"0": "negative", "1": "positive"}
        assert config["architectures"] == ["BertForSequenceClassification"]
    verified = invoke("verify", run_folder / "bundle")
    assert verified.exit_code == 0, verified.output
    assert "gate passed" in verified.output
    said = invoke("predict", run_folder / "bundle", "--text", "a great movie", "--json")
    assert json.loads(said.output)["prediction"]["label"] in ("negative", "positive")
