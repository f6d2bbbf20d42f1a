"""A run of several exports of which the gate refuses one: the others are tried, the refused one is no bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxscript", reason="needs the onnx extra")

import onnx
from click.testing import Result
from onnx import numpy_helper

from compiler.cli.main import explain_failure
from compiler.facts import LocalFacts
from compiler.hashes import sha256_of
from compiler.placement import Placement
from compiler.plan import Plan
from runtimes.errors import Interrupted
from runtimes.events import StepFailed
from runtimes.execute import execute
from tests.cli.conftest import invoke
from tests.tiny import write_project

EXPORTS = (
    {"format": "onnx", "precision": "fp16", "max_metric_drop": 0.1},
    {"format": "onnx", "precision": "int8", "max_metric_drop": 0.2},
    {"format": "onnx"},
)
CPU = Placement(engine="pytorch", engine_reason="", device="cpu", device_reason="", micro_batch_size=16)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose run is done."""
    folder = write_project(tmp_path_factory.mktemp("gates") / "project", export=EXPORTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.delenv("RECIPE_MIRROR", raising=False)
        done = run(folder)
    assert done.exit_code == 0, done.output
    assert [line for line in done.output.splitlines() if line.startswith("bundle: ")] == [
        f"bundle: {folder / 'runs' / 'tiny' / f'bundle-{number}'}" for number in (1, 2, 3)
    ]
    return folder


def test_the_gates_ask_what_they_share_once(whole: Path) -> None:
    """Seconds are never measured twice to the last digit."""
    costs = [
        json.loads((step_folder(whole, f"verify-{n}") / "verification.json").read_text())["costs"] for n in (1, 2, 3)
    ]
    for name in ("trained", "onnx"):
        assert len({json.dumps(each[name]) for each in costs}) == 1
    assert costs[0]["onnx-fp16"] != costs[1]["onnx-int8"]


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    """A copy in which the graph in half precision forgot its words, and no gate but that one's was asked yet."""
    folder = Path(shutil.copytree(whole, tmp_path / "project", symlinks=True))
    for step in ("verify-1", "verify-2", "verify-3", "package-1", "package-2", "package-3"):
        shutil.rmtree(step_folder(folder, step))
    forget(step_folder(folder, "quantize-1") / "onnx" / "model_fp16.onnx")
    return folder


def run(folder: Path, *options: str) -> Result:
    return invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu", *options)


def step_folder(folder: Path, step_id: str) -> Path:
    [step] = [step for step in report_of(folder)["steps"] if step["id"] == step_id]
    return folder / "runs" / ".steps" / str(step["key"])


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "runs" / "tiny" / "report.json").read_text(encoding="utf-8"))
    return found


def forget(file: Path) -> None:
    """Writes zeros over the largest tensor of a graph, and the graph's hash into the step's receipt."""
    graph = onnx.load(file)
    weight = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(weight)), weight.name))
    onnx.save(graph, file)
    receipt = file.parent.with_name("receipt.json")
    value = json.loads(receipt.read_text(encoding="utf-8"))
    value["outputs"][f"onnx/{file.name}"] = sha256_of(file, None)
    receipt.write_text(json.dumps(value), encoding="utf-8")


def events(output: str) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in output.splitlines() if line.startswith("{"))


def kinds(output: str, *names: str) -> dict[str, list[str]]:
    """The steps by the kind of event that was told of them."""
    return {name: [event["step"] for event in events(output) if event["event"] == name] for name in names}


def test_the_other_exports_are_tried_and_the_refused_one_is_not_packaged(damaged: Path) -> None:
    done = run(damaged)
    assert done.exit_code == 3, done.output
    assert "error[E602]: onnx -> onnx-fp16: " in done.output
    assert "package-1 is left out: verify-1 failed" in done.output
    assert sorted(path.name for path in (damaged / "runs" / "tiny").glob("bundle*")) == ["bundle-2", "bundle-3"]
    assert not step_folder(damaged, "package-1").exists()
    report = report_of(damaged)
    assert (report["state"], report["gate_passed"]) == ("gate failed", False)
    verdicts = {name: gate["verification"]["passed"] for name, gate in report["gates"].items()}
    assert verdicts == {"verify-1": False, "verify-2": True, "verify-3": True}
    told = [line.strip() for line in done.output.splitlines() if line.startswith("    gate ")]
    assert told == ["gate failed at onnx -> onnx-fp16: metrics", "gate passed", "gate passed"]


def test_what_passed_is_not_done_again_and_what_failed_is(damaged: Path, whole: Path) -> None:
    first = run(damaged, "--json")
    assert kinds(first.output, "StepFailed", "StepSkipped") == {
        "StepFailed": ["verify-1"],
        "StepSkipped": ["package-1"],
    }
    again = run(damaged, "--json")
    assert again.exit_code == 3
    assert kinds(again.output, "StepStarted", "StepSkipped") == {
        "StepStarted": ["verify-1"],
        "StepSkipped": ["package-1"],
    }
    told = invoke("report", damaged / "runs" / "tiny").output.splitlines()
    assert told[-1].startswith("  reused: prepare, train, ") and "verify-1" not in told[-1]
    assert not [line for line in told if line.startswith("  seconds: ")], "a gate that failed has no receipt"
    for name in ("onnx/model_fp16.onnx", "receipt.json"):
        shutil.copy(step_folder(whole, "quantize-1") / name, step_folder(damaged, "quantize-1") / name)
    mended = run(damaged, "--json")
    assert mended.exit_code == 0, mended.output
    assert kinds(mended.output, "StepStarted") == {"StepStarted": ["verify-1", "package-1"]}
    assert report_of(damaged)["state"] == "done"


def test_every_gate_that_failed_is_in_the_one_error(damaged: Path) -> None:
    [graph] = (step_folder(damaged, "quantize-2") / "onnx").glob("*.onnx")
    forget(graph)
    done = run(damaged)
    assert done.exit_code == 3
    assert "error[E602]: 2 gates failed: verify-1: onnx -> onnx-fp16: " in done.output
    assert "; verify-2: onnx -> onnx-int8: " in done.output
    assert [path.name for path in (damaged / "runs" / "tiny").glob("bundle*")] == ["bundle-3"]


def test_another_error_ends_the_run_where_it_stands(damaged: Path) -> None:
    shutil.rmtree(step_folder(damaged, "verify-2"), ignore_errors=True)
    step_folder(damaged, "verify-2").write_text("in the way", encoding="utf-8")
    done = run(damaged, "--json")
    assert done.exit_code == 4, done.output
    assert kinds(done.output, "StepFailed", "StepFinished")["StepFailed"] == ["verify-1"]
    assert "verify-3" not in kinds(done.output, "StepStarted")["StepStarted"]
    assert report_of(damaged)["state"] == "failed"


def to_the_end(told: Iterator[Any], failed: list[StepFailed]) -> None:
    """Runs, and notes the gates that fail when they do."""
    for event in told:
        failed += [event] if isinstance(event, StepFailed) else []


def test_a_run_that_is_stopped_after_a_gate_has_failed_names_that_gate(damaged: Path) -> None:
    plan = Plan.from_json(json.loads((damaged / "runs" / "tiny" / "plan.json").read_text(encoding="utf-8")))
    failed: list[StepFailed] = []
    told = execute(
        plan,
        CPU,
        runs=damaged / "runs",
        root=damaged,
        sources=LocalFacts(offline=True).sources,
        stop=lambda: bool(failed),
    )
    named = "stopped before the step verify-2; .*; before that a gate has failed: verify-1: onnx -> onnx-fp16: "
    with pytest.raises(Interrupted, match=named) as stopped:
        to_the_end(told, failed)
    assert explain_failure(stopped.value)[0] == 130
    assert report_of(damaged)["state"] == "interrupted"


def test_links_of_an_older_version_go_when_the_run_is_made_again(whole: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(whole, tmp_path / "project", symlinks=True))
    made = project / "runs" / "tiny"
    for number in (1, 2, 3):
        (made / f"verification-{number}.json").rename(made / f"verification.json-{number}")
    done = run(project)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in made.glob("verification*")) == [
        f"verification-{number}.json" for number in (1, 2, 3)
    ]


def test_the_bundle_that_is_left_of_several_is_verified_under_its_name(damaged: Path) -> None:
    made = damaged / "runs" / "tiny"
    run(damaged)
    (made / "bundle-3").unlink()
    done = invoke("verify", made)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{made / 'bundle-2'}\n  ok    manifest -> bundle: hashes")
    assert f"warning: the gate of {made} failed" in done.stderr
