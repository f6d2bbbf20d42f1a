"""Several tasks from their recipe through a gate for each to one bundle that answers them all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxscript", reason="needs the onnx extra")

from huggingface_hub import ModelCard, ModelCardData

from compiler.hashes import sha256_of
from compiler.plan import VerifyExport
from runtimes import steps
from runtimes.bundles.manifest import read_manifest, read_together, seal
from runtimes.bundles.together import open_together
from runtimes.errors import GateError
from tests.cli.conftest import invoke
from tests.serving import serving
from tests.several import FACTS, MOODS, SENTIMENT, VALENCE, compiled, write_several
from tests.tiny import BAD, GOOD

pytestmark = pytest.mark.slow
PARTS = {"sentiment": SENTIMENT, "moods": MOODS, "valence": VALENCE}
LORA = {"type": "lora", "rank": 8}
LEARNS = {"epochs": 12, "learning_rate": 5e-3, "batch_size": 16}
TEXTS = [f"the movie was {word}" for word in (GOOD[0], BAD[0])]


def done(folder: Path, **recipe: Any) -> Path:
    """A project that was run to its end."""
    write_several(folder, **recipe)
    found = invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu", "--quiet")
    assert found.exit_code == 0, found.output
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes: dict[str, Any] = {"training": LEARNS, "task": {"loss_weights": "uncertainty"}}
    return done(tmp_path_factory.mktemp("several") / "project", parts=PARTS, method=LORA, num_rated=240, **changes)


@pytest.fixture
def bundle(finished: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to change."""
    return Path(shutil.copytree(finished / "runs" / "several" / "bundle", tmp_path / "bundle"))


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "runs" / "several" / "report.json").read_text())
    return found


def test_each_task_is_learnt_and_measured_beside_its_baseline(finished: Path) -> None:
    found = {name: each["evaluation"] for name, each in report_of(finished)["tasks"].items()}
    assert found["sentiment"]["metrics"]["accuracy"] > 0.8
    assert found["sentiment"]["baseline"]["majority"]["accuracy"] == 0.5
    assert found["valence"]["metrics"]["r2"] > 0.5 > found["valence"]["baseline"]["mean"]["r2"]
    assert found["moods"]["metrics"]["f1_micro"] > found["moods"]["baseline"]["majority"]["f1_micro"] + 0.1
    assert set(report_of(finished)["training"]["weights"]) == set(PARTS)


def test_each_task_has_a_gate_of_its_own(finished: Path) -> None:
    report = report_of(finished)
    assert report["gate_passed"] is True
    assert list(report["gates"]) == [f"verify-{name}" for name in sorted(PARTS)]
    for gate in report["gates"].values():
        assert [f"{edge['source']} {edge['target']}" for edge in gate["verification"]["edges"]] == [
            "trained merged",
            "merged onnx",
        ]
    shown = invoke("report", finished / "runs" / "several").output
    assert "losses weighed at the end: " in shown


def test_the_graph_has_one_trunk_and_an_output_for_each_task(finished: Path) -> None:
    import onnxruntime

    graph = finished / "runs" / "several" / "bundle" / "onnx" / "model.onnx"
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == sorted(PARTS)
    weights = sum(file.stat().st_size for file in (finished / "model").glob("*.safetensors"))
    assert graph.stat().st_size < 1.5 * weights


def test_a_bundle_answers_each_text_for_all_tasks(finished: Path) -> None:
    run = finished / "runs" / "several"
    found = invoke("predict", run, *(word for text in TEXTS for word in ("--text", text)), "--json")
    assert found.exit_code == 0, found.output
    answers = [json.loads(line)["prediction"] for line in found.output.splitlines()]
    assert [answer["sentiment"]["label"] for answer in answers] == ["positive", "negative"]
    assert ["good" in answer["moods"]["labels"] for answer in answers] == [True, False]
    assert answers[0]["valence"]["value"] > 0 > answers[1]["valence"]["value"]
    alone = invoke("predict", run / "bundle" / "valence", "--text", TEXTS[0], "--json")
    said = json.loads(alone.output)["prediction"]
    assert said["value"] == pytest.approx(answers[0]["valence"]["value"], abs=1e-5)
    shown = invoke("predict", run, "--text", TEXTS[0]).output
    assert "; sentiment positive  " in shown
    assert shown.rstrip().endswith(TEXTS[0])


def test_rows_of_a_file_are_answered_as_texts_are(finished: Path, tmp_path: Path) -> None:
    run, output = finished / "runs" / "several", tmp_path / "answers.jsonl"
    rows = "".join(json.dumps({"snippet": text}) + "\n" for text in TEXTS)
    (tmp_path / "rows.jsonl").write_text(rows)
    assert invoke("predict", run, "--input", tmp_path / "rows.jsonl", "-o", output).exit_code == 0
    [first, _] = [json.loads(line)["prediction"] for line in output.read_text().splitlines()]
    assert first["sentiment"]["label"] == "positive"
    wrong = invoke("predict", run, "--image", "x.png")
    assert (wrong.exit_code, "--text" in wrong.output) == (2, True)


def test_the_card_of_several_tasks_has_a_table_for_each(bundle: Path) -> None:
    card = ModelCard.load(bundle / "README.md")
    assert isinstance(card.data, ModelCardData)
    assert {result.dataset_config for result in card.data.eval_results or ()} == {*PARTS}
    assert all(f"\n{name}, on " in card.text and f"\n- **{name}**: " in card.text for name in PARTS)
    told = read_manifest(bundle / "moods").provenance
    shared = {"model/own.safetensors", "model/shared.safetensors"}  # what tasks share is stored once
    assert {*told.weights} == {"adapter/adapter_model.safetensors", *shared}
    assert [training.method.type for training in told.trainings] == ["lora"]


def test_a_server_answers_for_all_tasks(bundle: Path) -> None:
    rows = [{"snippet": text} for text in TEXTS]
    answers = open_together(bundle, threads=1).predict({name: [{"text": text} for text in TEXTS] for name in PARTS})
    with serving(bundle) as running:
        status, value = running.predict({"rows": rows})
        typed = running.predict({"text": TEXTS[0]})
        [facts, wrong] = [running.get("/metadata"), running.predict({"rows": [{"text": TEXTS[0]}]})]
    assert (status, typed[0], facts[0], wrong[0]) == (200, 200, 200, 422)
    for found, expected in zip(value["answers"], answers, strict=True):
        assert found["prediction"]["sentiment"]["label"] == expected["sentiment"]["label"]
        assert found["prediction"]["valence"]["value"] == pytest.approx(expected["valence"]["value"], abs=1e-5)
    assert typed[1]["answers"][0]["snippet"] == TEXTS[0]
    assert sorted(facts[1]["task"]) == sorted(facts[1]["parts"]) == sorted(PARTS)


def test_tasks_that_are_asked_of_different_rows_share_the_session(bundle: Path) -> None:
    opened = open_together(bundle, threads=1)
    alike = opened.predict({name: [{"text": text} for text in TEXTS] for name in PARTS})
    turned = {name: [{"text": text} for text in TEXTS[:: -1 if name == "valence" else 1]] for name in PARTS}
    answers = opened.predict(turned)
    sessions = [graph.inner for graph in (opened.graph, *(cast(Any, part.graph) for part in opened.parts.values()))]
    assert all(session is sessions[0] for session in sessions)
    for found, expected, other in zip(answers, alike, reversed(alike), strict=True):
        assert found["sentiment"]["label"] == expected["sentiment"]["label"]
        assert found["valence"]["value"] == pytest.approx(other["valence"]["value"], abs=1e-5)


def test_a_receiver_verifies_each_task(bundle: Path) -> None:
    found = invoke("verify", bundle, "--json")
    assert found.exit_code == 0, found.output
    assert [edge["target"] for edge in json.loads(found.output)["edges"]] == ["bundle", *sorted(PARTS)]
    refused = invoke("verify", bundle, "--data", bundle / "rows.jsonl")
    assert (refused.exit_code, "verify" in refused.output) == (2, True)


def swapped(graph: Path, one: str, other: str) -> None:
    """Gives two outputs of a graph each other's name."""
    import onnx

    model = onnx.load(graph)
    names = {one: other, other: one}
    for output in model.graph.output:
        output.name = names.get(output.name, output.name)
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
        node.input[:] = [names.get(name, name) for name in node.input]
    onnx.save(model, graph)


def test_a_bundle_whose_heads_were_swapped_and_sealed_again_is_caught(bundle: Path) -> None:
    swapped(bundle / "onnx" / "model.onnx", "sentiment", "moods")
    seal(bundle, read_together(bundle))
    found = invoke("verify", bundle)
    assert found.exit_code == 3
    assert "ok    manifest -> bundle: hashes" in found.output
    for name in ("sentiment", "moods"):
        assert f"FAIL  manifest -> {name}: outputs_batch_1" in found.output
    assert "FAIL  manifest -> valence" not in found.output


def test_a_file_that_was_changed_is_named(bundle: Path) -> None:
    labels = bundle / "sentiment" / "labels.json"
    labels.write_text(json.dumps(["positive", "negative"]))
    found = invoke("verify", bundle)
    assert found.exit_code == 3
    assert "changed sentiment/labels.json" in found.output
    assert read_manifest(bundle / "sentiment").part == "sentiment"


def test_the_gate_names_the_task_whose_output_is_another_s(finished: Path, tmp_path: Path) -> None:
    made = compiled(finished)
    keys, store = made.plan.keys(), finished / "runs" / ".steps"
    step = made.plan.step("verify-sentiment")
    assert isinstance(step, VerifyExport)
    exported = Path(shutil.copytree(store / keys["export"], tmp_path / "export"))
    inputs = {name: store / keys[name] for name in step.inputs}
    context = steps.Context(
        plan=made.plan,
        key="",
        folder=tmp_path,
        inputs=inputs,
        root=finished,
        sources=FACTS.sources,
        placement=made.placement,
        stop=lambda: False,
    )
    list(steps.execute(step, context))  # it passes as it is
    swapped(exported / "onnx" / "model.onnx", "sentiment", "moods")
    with pytest.raises(GateError) as caught:
        list(steps.execute(step, replace(context, inputs={**inputs, "export": exported})))
    assert caught.value.code == "E602"
    assert "merged -> onnx: outputs" in str(caught.value)


def test_each_task_s_folder_is_opened_by_transformers_in_a_process_of_its_own(finished: Path) -> None:
    run = finished / "runs" / "several"
    code = (
        "import sys, torch\n"
        "from transformers import AutoModelForSequenceClassification as A, AutoTokenizer as T\n"
        "model, t = A.from_pretrained(sys.argv[1]).eval(), T.from_pretrained(sys.argv[1])\n"
        "with torch.no_grad(): print(model(**t(sys.argv[2], return_tensors='pt')).logits.tolist()[0])\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"}
    told = subprocess.run(
        [sys.executable, "-c", code, str(run / "model" / "valence"), TEXTS[0]],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    [value] = json.loads(told.stdout)
    said = json.loads(invoke("predict", run / "bundle" / "valence", "--text", TEXTS[0], "--json").output)
    assert value == pytest.approx(said["prediction"]["value"], abs=1e-5)


def test_nothing_is_done_twice_and_the_plan_s_file_runs_too(finished: Path, tmp_path: Path) -> None:
    runs = finished / "runs"
    again = invoke("run", finished / "recipe.json", "--runs", runs, "--target", "cpu", "--json")
    events = {json.loads(line)["event"] for line in again.output.splitlines() if line.startswith("{")}
    assert events == {"StepReused"}
    planned = invoke("plan", finished / "recipe.json", "--target", "cpu", "-o", finished / "plan.json")
    assert planned.exit_code == 0, planned.output
    assert invoke("run", finished / "plan.json", "--runs", runs, "--quiet").exit_code == 0
    shown = invoke("check", finished / "recipe.json").output
    assert "sentiment: 210 rows" in shown or "sentiment: 210 train" in shown
    listed = invoke("runs", "--runs", runs).output
    assert "gate passed" in listed and "sentiment accuracy 1.0" in listed and "valence mse 0." in listed, listed
    [facts] = report_of(finished)["exports"].values()
    assert facts["num_nodes"] > 50


def test_mlx_runs_several_tasks_through_their_gates(tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="needs the mlx extra")
    folder = done(tmp_path / "project", runtime="mlx", training={"max_steps": 12, "batch_size": 16})
    report = report_of(folder)
    assert report["gate_passed"] is True
    assert report["training"]["engines"] == [{"engine": "mlx", "after_step": 0}]
    assert np.isfinite(report["tasks"]["valence"]["evaluation"]["metrics"]["mse"])


@pytest.mark.parametrize("name", ["onnx/model.onnx", "tokenizer.json", "sentiment/manifest.json"])
def test_a_shared_file_that_is_damaged_fails_by_its_hash(bundle: Path, name: str) -> None:
    whole = (bundle / name).read_bytes()
    (bundle / name).write_bytes(whole[: len(whole) // 2])
    found = invoke("verify", bundle)
    assert found.exit_code == 3, found.output
    assert f"FAIL  manifest -> bundle: hashes  changed {name}" in found.output


def test_a_task_whose_gate_fails_leaves_the_others_theirs_and_no_bundle(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "project", symlinks=True))
    keys, store = compiled(folder).plan.keys(), folder / "runs" / ".steps"
    graph = store / keys["export"] / "onnx" / "model.onnx"
    swapped(graph, "sentiment", "moods")
    receipt = graph.parent.with_name("receipt.json")
    value = json.loads(receipt.read_text(encoding="utf-8"))
    value["outputs"]["onnx/model.onnx"] = sha256_of(graph, None)
    receipt.write_text(json.dumps(value), encoding="utf-8")
    found = invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu")
    assert found.exit_code == 3, found.output
    assert "error[E602]: 2 gates failed: verify-moods: merged -> onnx: " in found.output
    assert "; verify-sentiment: merged -> onnx: outputs" in found.output
    assert "package is left out: verify-" in found.output
    verdicts = {name: gate["verification"]["passed"] for name, gate in report_of(folder)["gates"].items()}
    assert verdicts == {"verify-sentiment": False, "verify-moods": False, "verify-valence": True}
    assert not (folder / "runs" / "several" / "bundle").exists()
