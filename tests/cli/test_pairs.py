"""A run of a task that writes a text from another one: trained, exported, verified, and asked for answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from runtimes.pytorch.quiet import quiet
from tests.cli.conftest import invoke
from tests.conformance.subjects import SEQUENCE, save_model
from tests.tiny import rows

TRAINING = {"max_steps": 90, "learning_rate": 3e-3, "batch_size": 16, "keep": "last"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the recipe r.json was run: two tiny BERTs write whether a text is good or bad."""
    folder = tmp_path_factory.mktemp("pairs")
    save_model(folder / "model", "encoder-decoder", SEQUENCE)
    told = {"positive": "the movie is good", "negative": "bad plot"}
    pairs = [{"en": row["snippet"], "said": told[row["sentiment"]]} for row in rows(300)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    recipe = {
        "recipe": 1,
        "name": "tiny",
        "task": {"type": "text-to-text", "prefix": "movie : "},
        "dataset": {
            "train": "pairs.jsonl",
            "validation": {"fraction": 0.1},
            "test": {"fraction": 0.1},
            "columns": {"source": "en", "target": "said"},
        },
        "model": "./model",
        "training": TRAINING,
        "generation": {"max_new_tokens": 8, "rows": 30},
        "export": ["onnx"],
    }
    (folder / "r.json").write_text(json.dumps(recipe), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv("RECIPE_MIRROR", raising=False)
        done = invoke("run", "r.json", "--target", "cpu", "--runtime", "pytorch", "--quiet")
    assert done.exit_code == 0, done.output
    return folder


def test_what_was_learnt_is_written_word_by_word(project: Path) -> None:
    report = json.loads((project / "runs" / "tiny" / "report.json").read_text())
    metrics = report["evaluation"]["metrics"]
    assert set(metrics) == {"exact-match", "perplexity", "loss"}
    assert metrics["exact-match"] > 0.9
    assert metrics["perplexity"] < 1.2
    assert report["evaluation"]["baseline"]["untuned"]["exact-match"] == 0
    written = report["data"]["train"]["written"]
    assert (written["longest"], written["truncated"]) == (5, 0)  # "the movie is good" and its end
    assert 3 * 240 < written["num_tokens"] < 5 * 240


def test_the_gate_compares_logits_and_what_is_written_through_the_caches(project: Path) -> None:
    report = json.loads((project / "runs" / "tiny" / "report.json").read_text())
    [edge] = report["gates"]["verify"]["verification"]["edges"]
    checks = {check["name"]: check for check in edge["checks"]}
    assert all(check["passed"] for check in checks.values())
    assert checks["outputs"]["rows"] == checks["decisions"]["rows"] == 30
    assert checks["written_tokens"]["agreeing"] == checks["written_tokens"]["positions"] >= 90


def test_the_bundle_answers_as_transformers_does_with_the_saved_model(project: Path) -> None:
    bundle, saved = project / "runs" / "tiny" / "bundle", project / "runs" / "tiny" / "model"
    assert {path.name for path in (bundle / "onnx").glob("*.onnx")} == {
        "encoder_model.onnx",
        "decoder_model_merged.onnx",
    }
    texts = [json.loads(line)["en"] for line in (project / "pairs.jsonl").read_text().splitlines()[:8]]
    done = invoke("predict", bundle, "--json", *(word for text in texts for word in ("--text", text)))
    assert done.exit_code == 0, done.output
    answers = [json.loads(line)["prediction"]["text"] for line in done.stdout.splitlines()]
    with quiet(), torch.inference_mode():
        tokenizer = AutoTokenizer.from_pretrained(saved)
        model = AutoModelForSeq2SeqLM.from_pretrained(saved)
        theirs = []
        for text in texts:
            ids = model.generate(**tokenizer(f"movie : {text}", return_tensors="pt"), max_new_tokens=8)
            theirs.append(tokenizer.decode(ids[0], skip_special_tokens=True))
    assert answers == theirs
    assert len(set(answers)) > 1


def test_a_function_for_mlx_writes_what_the_graphs_write(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlx.core", reason="needs the mlx extra")
    monkeypatch.chdir(project)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("RECIPE_MIRROR", raising=False)
    changed = ("--set", "/name=function", "--set", '/export=["mlx"]')
    done = invoke("run", "r.json", "--target", "cpu", "--runtime", "pytorch", *changed)
    assert done.exit_code == 0, done.output
    [edge] = json.loads(Path("runs/function/report.json").read_text())["gates"]["verify"]["verification"]["edges"]
    assert (edge["source"], edge["target"]) == ("trained", "mlx")
    checks = {check["name"]: check for check in edge["checks"]}
    assert checks["written_tokens"]["agreeing"] == checks["written_tokens"]["positions"] >= 90
    texts = [json.loads(line)["en"] for line in Path("pairs.jsonl").read_text().splitlines()[:8]]
    words = [word for text in texts for word in ("--text", text)]
    here, there = (invoke("predict", Path("runs") / name, "--json", *words) for name in ("function", "tiny"))
    assert here.exit_code == 0, here.output
    assert here.stdout == there.stdout


def test_a_receiver_finds_a_decoder_that_was_changed(project: Path, tmp_path: Path) -> None:
    import shutil

    import onnx
    from onnx import numpy_helper

    from runtimes.bundles.manifest import read_manifest, seal

    bundle = Path(shutil.copytree(project / "runs" / "tiny" / "bundle", tmp_path / "bundle"))
    assert invoke("verify", bundle).exit_code == 0
    graph = onnx.load(bundle / "onnx" / "decoder_model_merged.onnx")
    weight = next(value for value in graph.graph.initializer if len(value.dims) == 2)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.05, weight.name))
    onnx.save(graph, bundle / "onnx" / "decoder_model_merged.onnx")
    seal(bundle, read_manifest(bundle))
    done = invoke("verify", bundle)
    assert done.exit_code == 3
    assert "written_outputs" in done.output
