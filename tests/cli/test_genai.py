"""Language models for onnxruntime-genai, through the command line: chosen, tuned, gated, and read by their reader."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxruntime_genai", reason="needs the onnx extra")

from click.testing import CliRunner, Result

from compiler.cli import main
from runtimes.bundles.bundle import open_bundle
from runtimes.bundles.manifest import read_manifest
from runtimes.export.grouped import GroupedDecoder
from runtimes.generation.decoding import generate
from runtimes.verification.receiver import verify_bundle
from tests.tiny import prompts, save_decoder, write_language_project

TRAINING = {"epochs": 3, "learning_rate": 1e-2, "batch_size": 4, "max_length": 48}
GENERATION = {"max_new_tokens": 6, "rows": 10}


def recipe(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


save_wide_heads = partial(save_decoder, head_dim=16)
"""A random Llama whose heads are of a size that grouped-query attention turns."""


def project(folder: Path, **changes: Any) -> Path:
    settings = {
        "task": "text-generation",
        "training": TRAINING,
        "generation": GENERATION,
        "export": ["onnx"],
        **changes,
    }
    return write_language_project(folder / "project", prompts(120), save=save_wide_heads, **settings)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learnt to answer, whose adapter is merged."""
    folder = project(tmp_path_factory.mktemp("genai"), method={"type": "lora", "rank": 4})
    found = recipe("run", str(folder / "recipe.json"), "--runs", str(folder / "runs"), "--target", "cpu")
    assert found.exit_code == 0, found.output
    return folder / "runs" / "tiny"


def test_the_plan_says_what_writes_the_graph_and_why(tuned: Path) -> None:
    plan = json.loads((tuned / "plan.json").read_text(encoding="utf-8"))
    [choice] = [choice for choice in plan["choices"] if choice["pointer"] == "/export/0/exporter"]
    assert choice["value"] == "genai"
    assert choice["reason"].startswith("onnxruntime-genai 0.18 writes llama with grouped-query attention")
    [export] = [step["export"] for step in plan["steps"] if step["step"] == "export"]
    assert (export["exporter"], export["opset"]) == ("genai", 22)


def test_the_gate_passes_at_the_tolerance_of_float32(tuned: Path) -> None:
    report = json.loads((tuned / "report.json").read_text(encoding="utf-8"))
    edges = report["gates"]["verify"]["verification"]["edges"]
    assert [f"{edge['source']}-{edge['target']}" for edge in edges] == ["trained-merged", "merged-onnx"]
    names = {check["name"] for check in edges[-1]["checks"]}
    assert {"outputs", "decisions", "metrics", "written_outputs", "written_tokens"} <= names
    assert all(check["passed"] for edge in edges for check in edge["checks"])


def test_the_bundle_is_verified_and_answers_without_onnxruntime_genai(tuned: Path) -> None:
    bundle = open_bundle(tuned / "bundle", threads=1)
    assert isinstance(bundle.graph, GroupedDecoder)
    assert verify_bundle(tuned / "bundle", threads=1).passed
    rows = prompts(20)
    together, alone = bundle.predict(rows), [bundle.predict([row])[0] for row in rows]
    assert together == alone
    assert "genai_config.json" in read_manifest(tuned / "bundle").files


def test_other_readers_are_told_where_answers_end(tuned: Path) -> None:
    told = json.loads((tuned / "bundle" / "generation_config.json").read_text(encoding="utf-8"))
    assert told["eos_token_id"] == [2, 3]  # the model's, and the token that ends what is learnt
    assert told["max_new_tokens"] == 6


def test_onnxruntime_genai_writes_what_we_write_and_what_transformers_writes(tuned: Path) -> None:
    import onnxruntime_genai
    import torch
    from transformers import AutoModelForCausalLM

    from runtimes.pytorch.quiet import quiet

    folder = tuned / "bundle"
    given = [[20, 8, 6], [7, 8, 9, 10, 11, 12, 13, 14], [30]]
    reader = onnxruntime_genai.Model(str(folder))
    bundle = open_bundle(folder, threads=1)
    assert isinstance(bundle.graph, GroupedDecoder) and bundle.manifest.generation is not None
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    ends = config["model"]["eos_token_id"]
    assert config["search"]["max_length"] == 48 + 6
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(tuned / "model").eval()
    ours = generate(bundle.graph, given, bundle.manifest.generation, eos_ids=ends, pad_id=0)
    for ids, answer in zip(given, ours, strict=True):
        parameters = onnxruntime_genai.GeneratorParams(reader)
        parameters.set_search_options(max_length=len(ids) + 6)
        generator = onnxruntime_genai.Generator(reader, parameters)
        generator.append_tokens(np.array([ids], np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        found = generator.get_sequence(0).tolist()[len(ids) :]
        with torch.inference_mode():
            options = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": ends, "pad_token_id": 0}
            expected = model.generate(torch.tensor([ids]), **options)[0, len(ids) :].tolist()
        assert expected == list(answer.ids)
        assert found == [token for token in expected if token not in ends]  # its reader keeps the end to itself


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"/method": '{"type": "prefix"}', "/training/max_length": "40"},
            'it has no place for what the method "prefix" adds',
        ),
        ({"/export": '[{"format": "onnx", "opset": 18}]'}, "it writes operator set 22, and 18 is asked for"),
    ],
)
def test_what_the_builder_can_t_hold_is_written_by_transformers(
    tuned: Path, tmp_path: Path, changes: dict[str, str], reason: str
) -> None:
    options = [part for pointer, value in changes.items() for part in ("--set", f"{pointer}={value}")]
    found = recipe("plan", str(tuned.parents[1] / "recipe.json"), "-o", str(tmp_path / "plan.json"), *options)
    assert found.exit_code == 0, found.output
    plan = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    [choice] = [choice for choice in plan["choices"] if choice["pointer"] == "/export/0/exporter"]
    assert choice["value"] == "transformers" and reason in choice["reason"]


def test_naming_the_builder_for_heads_that_it_can_t_turn_is_an_error_with_its_place(tmp_path: Path) -> None:
    folder = write_language_project(
        tmp_path / "project",
        prompts(40),
        task="text-generation",
        dataset={"train": "rows.jsonl", "test": {"fraction": 0.2}},
        export=[{"format": "onnx", "exporter": "genai"}],
    )
    found = recipe("check", str(folder / "recipe.json"))
    assert found.exit_code == 1
    assert re.search(r"recipe\.json:\d+:\d+: error\[R241\] /export/0/exporter", found.output)
    assert "heads of a multiple of 16 numbers, and the model's have 8" in " ".join(found.output.split())


def test_a_rounded_bundle_names_its_graph_and_opens_too(tuned: Path) -> None:
    import onnxruntime_genai

    folder = tuned.parents[1]
    export = '[{"format": "onnx", "precision": "int8", "max_metric_drop": 1.0}]'
    options = ("--runs", str(folder / "runs"), "--target", "cpu", "--set", f"/export={export}", "--set", "/name=int8")
    found = recipe("run", str(folder / "recipe.json"), *options)
    assert found.exit_code == 0, found.output
    bundle = folder / "runs" / "int8" / "bundle"
    config = json.loads((bundle / "genai_config.json").read_text(encoding="utf-8"))
    assert config["model"]["decoder"]["filename"] == "onnx/model_int8.onnx"
    assert isinstance(open_bundle(bundle, threads=1).graph, GroupedDecoder)
    reader = onnxruntime_genai.Model(str(bundle))
    parameters = onnxruntime_genai.GeneratorParams(reader)
    parameters.set_search_options(max_length=6)
    generator = onnxruntime_genai.Generator(reader, parameters)
    generator.append_tokens(np.array([[20, 8, 6]], np.int32))
    generator.generate_next_token()
    assert generator.get_sequence(0).tolist()[:3] == [20, 8, 6]


def test_a_model_that_was_not_tuned_here_is_written_by_the_builder_too(tuned: Path, tmp_path: Path) -> None:
    done = recipe("export", str(tuned / "model"), "--task", "text-generation", "-o", str(tmp_path / "out"), "--quiet")
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "out" / "genai_config.json").read_text(encoding="utf-8"))
    assert config["model"]["decoder"]["filename"] == "onnx/model.onnx"
    assert (tmp_path / "out" / config["model"]["decoder"]["filename"]).is_file()
