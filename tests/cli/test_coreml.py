"""Core ML packages through the command line: written, compared without being run, and never called proven for that."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("coremltools", reason="needs the coreml extra")

from compiler.plan import Plan, VerifyExport
from compiler.recipe import CoreMl, Onnx
from runtimes.execute import _can_go_on
from runtimes.export import unrun
from tests.cli.conftest import invoke
from tests.tiny import write_project

ELSEWHERE = pytest.mark.skipif(sys.platform == "darwin", reason="says what is not run where Core ML is not")
ON_MACOS = pytest.mark.skipif(sys.platform != "darwin", reason="Core ML runs on macOS alone")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has exported a package in float32 and one in half precision."""
    half = {"format": "coreml", "precision": "fp16"}
    folder = write_project(tmp_path_factory.mktemp("coreml") / "project", export=["coreml", half])
    done = invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu")
    assert done.exit_code == 0, done.output
    return folder / "runs" / "tiny"


def report(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "report.json").read_text(encoding="utf-8"))
    return found


def test_each_edge_is_compared_as_far_as_it_can_be_here(run: Path) -> None:
    for gate in report(run)["gates"].values():
        traced, package = gate["verification"]["edges"]
        assert (traced["source"], traced["target"], package["target"]) == ("trained", "traced", "coreml")
        assert [check["name"] for check in traced["checks"][:3]] == ["outputs", "outputs_batch_1", "outputs_probes"]
        interface, weights, *_ = package["checks"]
        assert (interface["name"], interface["compared"], interface["passed"]) == ("interface", 4, True)
        assert (weights["name"], weights["compared"], weights["passed"]) == ("weights", 41, True)


@ELSEWHERE
def test_what_is_not_run_is_neither_passed_nor_failed(run: Path) -> None:
    found = report(run)
    assert (found["state"], found["gate_passed"]) == ("done", None)
    for gate in found["gates"].values():
        assert (gate["verification"]["passed"], gate["verification"]["first_failure"]) == (None, None)
        assert [*gate["stages"]] == ["trained", "traced"]
        unrun_check = gate["verification"]["edges"][1]["checks"][-1]
        assert unrun_check["type"] == "unrun"
        assert "passed" not in unrun_check


@ELSEWHERE
def test_the_report_and_the_list_of_runs_say_so(run: Path) -> None:
    said = invoke("report", run).output
    assert "----  traced -> coreml: outputs" in said
    assert "not run here: Core ML runs on macOS, and this is " in said
    assert "gate undecided: traced -> coreml: outputs could not be run here, so the export is not proven" in said
    assert "gate passed" not in said
    assert "gate unrun" in invoke("runs", "--runs", run.parent).output


@ON_MACOS
def test_core_ml_answers_as_the_model(run: Path) -> None:
    assert report(run)["gate_passed"] is True


def test_no_bundle_is_made_and_predict_says_where_the_package_is(run: Path) -> None:
    assert not [*run.glob("bundle*")]
    done = invoke("predict", run, "--text", "a good film")
    assert done.exit_code == 2
    assert "coreml-1/model.mlpackage, which apps on Apple's systems open" in done.output


def test_a_package_lies_beside_what_its_rows_are_read_with(run: Path) -> None:
    names = {path.name for path in (run / "coreml-1").iterdir()}
    assert {"model.mlpackage", "config.json", "tokenizer.json"} <= names
    facts, half = report(run)["exports"]["export-1"], report(run)["exports"]["export-2"]
    assert facts["inputs"] == ["input_ids", "attention_mask", "token_type_ids"]
    assert (facts["outputs"], facts["most_rows"], facts["most_tokens"]) == (["logits"], 16, 20)
    assert half["num_bytes"] < 0.8 * facts["num_bytes"]


@ELSEWHERE
def test_a_gate_that_was_left_undecided_is_decided_where_it_can_be(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan.from_json(json.loads((run / "plan.json").read_text(encoding="utf-8")))
    step = plan.step("verify-1")
    assert isinstance(step, VerifyExport)
    folder = (run / "verification-1.json").resolve().parent
    assert not _can_go_on(step, folder)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert _can_go_on(step, folder)
    assert not unrun(CoreMl())


def test_other_formats_run_everywhere() -> None:
    assert not unrun(Onnx())
