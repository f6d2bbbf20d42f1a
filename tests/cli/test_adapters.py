"""Adapters that stay beside their graph, through the command line: tuned, gated, and loaded by other readers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxruntime_genai", reason="needs the onnx extra")

from click.testing import CliRunner, Result

from compiler.cli import main
from compiler.hashes import sha256_of
from runtimes.bundles.bundle import open_bundle
from runtimes.bundles.manifest import read_manifest, seal
from runtimes.errors import RunError
from runtimes.export.adapters import read_adapter, write_adapter
from runtimes.export.decoding import onnx_decoder
from runtimes.export.facts import GRAPH
from runtimes.export.grouped import GroupedDecoder
from runtimes.generation.decoding import generate
from runtimes.verification.receiver import verify_bundle
from tests.cli.test_genai import project
from tests.tiny import prompts

ADAPTER = "onnx/adapter.onnx_adapter"
PROMPTS = [[20, 8, 6], [7, 8, 9, 10, 11, 12, 13, 14], [30]]
NUM_UPDATES = 2 * 7 * 2  # layers, linear modules of each, A and B


def recipe(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learnt to answer, whose adapter is beside its graph."""
    folder = project(
        tmp_path_factory.mktemp("adapter"),
        method={"type": "lora", "rank": 4},
        export=[{"format": "onnx", "adapter": "separate"}],
    )
    found = recipe("run", str(folder / "recipe.json"), "--runs", str(folder / "runs"), "--target", "cpu")
    assert found.exit_code == 0, found.output
    return folder / "runs" / "tiny"


@pytest.fixture
def bundle(tuned: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be changed."""
    return Path(shutil.copytree(tuned / "bundle", tmp_path / "bundle"))


def test_the_plan_has_no_merge(tuned: Path) -> None:
    plan = json.loads((tuned / "plan.json").read_text(encoding="utf-8"))
    assert [step["step"] for step in plan["steps"]] == ["prepare", "train", "evaluate", "export", "verify", "package"]
    [export] = [step["export"] for step in plan["steps"] if step["step"] == "export"]
    assert (export["exporter"], export["adapter"]) == ("genai", "separate")


def test_the_gate_compares_the_graph_with_its_adapter_and_without(tuned: Path) -> None:
    report = json.loads((tuned / "report.json").read_text(encoding="utf-8"))
    edges = report["gates"]["verify"]["verification"]["edges"]
    assert [f"{edge['source']}-{edge['target']}" for edge in edges] == ["base-onnx-base", "trained-onnx"]
    assert {"outputs", "outputs_batch_1", "decisions"} <= {check["name"] for check in edges[0]["checks"]}
    assert {"outputs", "written_outputs", "written_tokens"} <= {check["name"] for check in edges[1]["checks"]}
    assert all(check["passed"] for edge in edges for check in edge["checks"])


def test_the_bundle_carries_the_adapter_and_its_receiver_verifies_it(tuned: Path) -> None:
    manifest = read_manifest(tuned / "bundle")
    assert manifest.adapter == ADAPTER and ADAPTER in manifest.files
    assert len(read_adapter(tuned / "bundle" / ADAPTER)) == NUM_UPDATES
    found = verify_bundle(tuned / "bundle", threads=1)
    assert found.passed
    assert "outputs_without_adapter" in {check.name for check in found.edges[0].checks}


def test_one_training_is_exported_merged_and_beside_its_graph(tuned: Path) -> None:
    folder = tuned.parents[1]
    exports = '["onnx", {"format": "onnx", "adapter": "separate"}]'
    changes = ("--set", f"/export={exports}", "--set", "/name=both")
    found = recipe("run", str(folder / "recipe.json"), "--runs", str(folder / "runs"), "--target", "cpu", *changes)
    assert found.exit_code == 0, found.output
    plan = json.loads((folder / "runs" / "both" / "plan.json").read_text(encoding="utf-8"))
    inputs = {step["id"]: step["inputs"] for step in plan["steps"]}
    assert (inputs["export-1"], inputs["export-2"]) == (["merge"], ["train"])
    assert inputs["verify-2"] == ["prepare", "train", "export-2"]
    merged, apart = (read_manifest(path) for path in sorted((folder / "runs" / "both").glob("bundle*")))
    assert (merged.adapter, apart.adapter) == ("", ADAPTER)


@pytest.mark.parametrize("adapted", [True, False])
def test_tokens_of_every_reader_are_those_of_the_model_with_its_adapter_or_without(tuned: Path, adapted: bool) -> None:
    import onnxruntime_genai
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from runtimes.pytorch.quiet import quiet

    folder = tuned / "bundle"
    opened = open_bundle(folder, threads=1)
    assert isinstance(opened.graph, GroupedDecoder) and opened.manifest.generation is not None
    ours = opened.graph if adapted else onnx_decoder(folder / GRAPH, threads=1)
    ends = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]["eos_token_id"]
    with quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(tuned.parents[1] / "model").eval()
        if adapted:
            model = PeftModel.from_pretrained(model, str(tuned / "adapter")).eval()
    reader = onnxruntime_genai.Model(str(folder))
    adapters = onnxruntime_genai.Adapters(reader)
    adapters.load(str(folder / ADAPTER), "tuned")
    answers = generate(ours, PROMPTS, opened.manifest.generation, eos_ids=ends, pad_id=0)
    for ids, answer in zip(PROMPTS, answers, strict=True):
        parameters = onnxruntime_genai.GeneratorParams(reader)
        parameters.set_search_options(max_length=len(ids) + 6)
        generator = onnxruntime_genai.Generator(reader, parameters)
        if adapted:
            generator.set_active_adapter(adapters, "tuned")
        generator.append_tokens(np.array([ids], np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        found = generator.get_sequence(0).tolist()[len(ids) :]
        with torch.inference_mode():
            options = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": ends, "pad_token_id": 0}
            expected = model.generate(input_ids=torch.tensor([ids]), **options)[0, len(ids) :].tolist()
        assert expected == list(answer.ids)
        assert found == [token for token in expected if token not in ends]


def test_predict_writes_what_was_learnt(tuned: Path, tmp_path: Path) -> None:
    rows = prompts(20)
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in rows), encoding="utf-8")
    found = recipe("predict", str(tuned / "bundle"), "--input", str(asked))
    assert found.exit_code == 0, found.output
    answers = [json.loads(line)["prediction"] for line in found.stdout.splitlines()]
    assert sum(answer["text"].startswith("very ") for answer in answers) > len(rows) / 2  # as every row's answer does
    bundle = open_bundle(tuned / "bundle", threads=1)
    base = replace(bundle, manifest=replace(bundle.manifest, adapter=""))
    assert [answer["text"] for answer in answers] != [answer["text"] for answer in base.predict(rows)]


def test_the_card_says_how_the_adapter_is_loaded_and_who_does_not(tuned: Path) -> None:
    card = (tuned / "bundle" / "README.md").read_text(encoding="utf-8")
    assert f'adapters.load("{ADAPTER}", "tuned")' in card
    assert "transformers.js loads none" in card and "library_name: onnx\n" in card


def test_its_layers_are_not_followed_and_it_is_said(tuned: Path) -> None:
    found = recipe("verify", str(tuned / "bundle"), "--bisect", "--source", str(tuned.parents[1] / "model"))
    assert found.exit_code == 4 and "E607" in found.output and "its layers are not followed" in found.output


def failed(folder: Path) -> set[str]:
    """The checks that fail over a bundle which is sealed again as it is."""
    seal(folder, read_manifest(folder))
    return {check.name for _, check in verify_bundle(folder, threads=1).failures()}


def test_another_adapter_is_caught_by_its_answers(bundle: Path) -> None:
    scale_updates(bundle)
    assert "outputs_batch_1" in failed(bundle)


def test_a_bundle_that_no_longer_names_its_adapter_is_caught_by_its_answers(bundle: Path) -> None:
    (bundle / ADAPTER).unlink()
    seal(bundle, replace(read_manifest(bundle), adapter=""))
    assert "outputs_batch_1" in {check.name for _, check in verify_bundle(bundle, threads=1).failures()}


def add_to_defaults(folder: Path) -> None:
    """Has the graph of a folder add something where it is given no adapter."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(folder / GRAPH)
    for tensor in graph.graph.initializer:
        if ".lora_A." in tensor.name or ".lora_B." in tensor.name:
            weights = numpy_helper.to_array(tensor) + np.float32(0.1)
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    onnx.save(graph, folder / GRAPH)


def scale_updates(folder: Path) -> None:
    """Has a folder hold another adapter."""
    updates = read_adapter(folder / ADAPTER)
    write_adapter(folder / ADAPTER, {name: np.float32(1.1) * update for name, update in updates.items()})


def test_a_graph_that_is_no_base_without_its_adapter_is_caught_by_its_receiver(bundle: Path) -> None:
    add_to_defaults(bundle)
    assert failed(bundle) == {"outputs_without_adapter"}


@pytest.mark.parametrize(
    ("damage", "failure"),
    [(scale_updates, "trained -> onnx: outputs"), (add_to_defaults, "base -> onnx-base: outputs")],
)
def test_a_worse_export_fails_the_gate_at_its_edge(
    tuned: Path, tmp_path: Path, damage: Callable[[Path], None], failure: str
) -> None:
    project = Path(shutil.copytree(tuned.parents[1], tmp_path / "project", symlinks=True))
    [adapter] = (project / "runs" / ".steps").glob(f"*/{ADAPTER}")
    export = adapter.parents[1]
    damage(export)
    receipt = json.loads((export / "receipt.json").read_text(encoding="utf-8"))
    receipt["outputs"] |= {name: sha256_of(export / name, None) for name in (ADAPTER, GRAPH)}
    (export / "receipt.json").write_text(json.dumps(receipt), encoding="utf-8")
    found = recipe("run", str(project / "recipe.json"), "--runs", str(project / "runs"), "--target", "cpu")
    assert found.exit_code == 3, found.output
    assert f"error[E602]: {failure}" in found.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda updates: {**dict([*updates.items()][1:])}, "has no update for model.layers."),
        (
            lambda updates: {**updates, "other": np.zeros((2, 2), np.float32)},
            "for other, which the graph does not take",
        ),
        (lambda updates: {name: update[:1] for name, update in updates.items()}, "has an update of shape [1, "),
    ],
)
def test_an_adapter_that_does_not_fit_the_graph_is_an_error_with_its_place(
    bundle: Path, change: Any, message: str
) -> None:
    write_adapter(bundle / ADAPTER, change(read_adapter(bundle / ADAPTER)))
    with pytest.raises(RunError) as caught:
        open_bundle(bundle, threads=1).load()
    assert caught.value.code == "E604" and message in caught.value.message


def test_a_missing_or_unreadable_adapter_is_an_error_with_its_place(bundle: Path) -> None:
    (bundle / ADAPTER).write_bytes(b"no adapter")
    with pytest.raises(RunError) as caught:
        open_bundle(bundle, threads=1).load()
    assert caught.value.code == "E604" and "can't be read" in caught.value.message
    (bundle / ADAPTER).unlink()
    with pytest.raises(RunError) as caught:
        open_bundle(bundle, threads=1)
    assert caught.value.code == "E601" and f"{ADAPTER} is missing" in caught.value.message
