"""One training, exported in every precision: each through the gate, into a bundle that its receiver verifies."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxscript", reason="needs the onnx extra")

import onnx
from onnx import numpy_helper

from runtimes.bundles.manifest import read_manifest, seal
from runtimes.export.facts import graph_names
from tests.cli.conftest import invoke
from tests.tiny import write_project

PRECISIONS = ("fp32", "fp16", "int8", "int8-static", "int4")
EXPORTS = [
    {"format": "onnx", "precision": precision, **({"max_metric_drop": 0.1} if precision != "fp32" else {})}
    for precision in PRECISIONS
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose run is done."""
    folder = write_project(tmp_path_factory.mktemp("precisions") / "project", export=EXPORTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.delenv("RECIPE_MIRROR", raising=False)
        done = invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu")
    assert done.exit_code == 0, done.output
    return folder


def bundle_of(folder: Path, precision: str) -> Path:
    return folder / "runs" / "tiny" / f"bundle-{PRECISIONS.index(precision) + 1}"


def gate_of(folder: Path, precision: str) -> Mapping[str, Any]:
    file = folder / "runs" / "tiny" / f"verification-{PRECISIONS.index(precision) + 1}.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def test_the_graph_in_float32_is_written_once_for_all(folder: Path) -> None:
    report = json.loads((folder / "runs" / "tiny" / "report.json").read_text())
    keys = {step["key"] for step in report["steps"] if step["id"].startswith("export")}
    assert len(keys) == 1
    assert {facts["precision"] for name, facts in report["exports"].items() if name.startswith("quantize")} == {
        *PRECISIONS[1:]
    }


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_rounding_is_an_edge_of_its_own_behind_one_that_is_exact(folder: Path, precision: str) -> None:
    exact, rounded = gate_of(folder, precision)["verification"]["edges"]
    assert (exact["source"], exact["target"]) == ("trained", "onnx")
    assert (rounded["source"], rounded["target"]) == ("onnx", f"onnx-{precision}")
    [check] = rounded["checks"]
    assert (check["name"], check["max_drop"]) == ("metrics", 0.1)
    assert "60 decided alike" in check["note"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_bundle_in_each_precision_is_verified_and_answers(folder: Path, precision: str, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(bundle_of(folder, precision), tmp_path / "bundle"))
    [graph] = graph_names(encodes=False, precision=precision)
    assert (bundle / graph).is_file()
    assert read_manifest(bundle).precision == precision
    verified = invoke("verify", bundle)
    assert verified.exit_code == 0, verified.output
    answered = invoke("predict", bundle, "--text", "the movie was very good")
    assert (answered.exit_code, answered.output.split()[0] in ("positive", "negative")) == (0, True)


def test_fewer_bits_are_fewer_bytes(folder: Path) -> None:
    """Of the weights: the nodes of a tiny graph are most of its file."""

    def bytes_of(precision: str) -> int:
        [name] = graph_names(encodes=False, precision=precision)
        graph = onnx.load(bundle_of(folder, precision) / name)
        return sum(numpy_helper.to_array(tensor).nbytes for tensor in graph.graph.initializer)

    assert bytes_of("fp32") > bytes_of("fp16") > bytes_of("int8")


def test_what_each_stage_costs_is_told_beside_its_metrics(folder: Path) -> None:
    told = invoke("report", folder / "runs" / "tiny").output
    for stage in ("trained", "onnx", *(f"onnx-{precision}" for precision in PRECISIONS[1:])):
        assert any(line.split()[:1] == [stage] and line.split()[-1].startswith("0.") for line in told.splitlines()), (
            stage
        )
    assert f"{len(os.sched_getaffinity(0))} cores" in told
    cost = gate_of(folder, "int8")["costs"]["onnx-int8"]
    assert cost["num_bytes"] > 0 and cost["seconds"] > 0 and cost["repeats"] >= 5


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_a_rounded_bundle_with_a_weight_scaled_is_caught_after_it_was_sealed_again(
    folder: Path, precision: str, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(bundle_of(folder, precision), tmp_path / "bundle"))
    [name] = graph_names(encodes=False, precision=precision)
    graph = onnx.load(bundle / name)
    fractions = [
        t for t in graph.graph.initializer if t.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    ]
    weight = max(fractions, key=lambda tensor: numpy_helper.to_array(tensor).size)
    array = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array((array * 1.5).astype(array.dtype), weight.name))
    onnx.save(graph, bundle / name)
    seal(bundle, read_manifest(bundle))
    found = invoke("verify", bundle)
    assert found.exit_code == 3, found.output
    assert "FAIL" in found.output and "hashes" not in found.output.partition("FAIL")[2].splitlines()[0]


def test_a_drop_over_what_is_allowed_fails_the_run(folder: Path, tmp_path: Path) -> None:
    """With weights of one value, whatever was learnt is lost by rounding; here the allowance is taken away instead."""
    project = Path(shutil.copytree(folder, tmp_path / "project", symlinks=True))
    verification = gate_of(folder, "int4")
    lost = [
        check["source"]["accuracy"] - check["other"]["accuracy"]
        for check in verification["verification"]["edges"][-1]["checks"]
    ]
    done = invoke(
        "run",
        project / "recipe.json",
        "--runs",
        project / "runs",
        "--target",
        "cpu",
        "--set",
        "/export/4/max_metric_drop=0",
        "--set",
        "/export=" + json.dumps([{**EXPORTS[4], "max_metric_drop": 0.0}]),
    )
    assert done.exit_code == (3 if max(lost) > 0 else 0), done.output
    assert not np.isnan(lost).any()


def test_which_of_several_exports_answers_is_said_once(folder: Path) -> None:
    run = folder / "runs" / "tiny"
    told = invoke("predict", run, "--text", "the movie was very good")
    assert told.exit_code == 0
    assert told.stderr.count(f"note: {run / 'bundle-1'} is taken, of {len(PRECISIONS)} exports") == 1
    assert "is taken" not in invoke("predict", run / "bundle-3", "--text", "the movie was very good").stderr


def test_each_bundle_of_a_run_is_verified_under_its_name(folder: Path) -> None:
    run = folder / "runs" / "tiny"
    done = invoke("verify", run)
    assert done.exit_code == 0, done.output
    assert "note:" not in done.stderr
    blocks = [line for line in done.stdout.splitlines() if not line.startswith("  ")]
    assert blocks == [str(run / f"bundle-{number}") for number in range(1, len(PRECISIONS) + 1)]
    assert done.stdout.count("\n  gate passed\n") == len(PRECISIONS)
    alone = invoke("verify", run / "bundle-3", "--json")
    together = json.loads(invoke("verify", "tiny", "--runs", folder / "runs", "--json").stdout)
    assert together["passed"] is True
    assert together["bundles"]["bundle-3"].keys() == json.loads(alone.stdout).keys()


def test_one_bad_bundle_of_a_run_fails_it_and_the_others_are_verified(folder: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(folder, tmp_path / "project", symlinks=True))
    run = project / "runs" / "tiny"
    (run / "bundle-2" / "README.md").write_text("another card", encoding="utf-8")
    failed = invoke("verify", run)
    assert failed.exit_code == 3
    assert "error[E603]: 1 of 5 bundles failed: bundle-2: manifest -> bundle: hashes: " in failed.stderr
    assert failed.stdout.count("\n  gate passed\n") == 4
    (run / "bundle-1" / "manifest.json").write_text("{}", encoding="utf-8")
    both = invoke("verify", run, "--json")
    assert both.exit_code == 3, both.output
    assert "2 of 5 bundles failed: bundle-1: " in both.stderr
    told = json.loads(both.stdout)
    assert {name: found["passed"] for name, found in told["bundles"].items()} == {
        "bundle-1": False,
        "bundle-2": False,
        "bundle-3": True,
        "bundle-4": True,
        "bundle-5": True,
    }
    assert told["bundles"]["bundle-1"]["error"]["code"] == "E601"


def test_a_bundle_of_a_run_that_can_not_be_read_is_no_gate_that_failed(folder: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(folder, tmp_path / "project", symlinks=True))
    run = project / "runs" / "tiny"
    (run / "bundle-4" / "manifest.json").write_text("{}", encoding="utf-8")
    done = invoke("verify", run)
    assert done.exit_code == 4
    assert f"{run / 'bundle-4'}\n  error[E601]: " in done.stdout
    assert "error[E601]: 1 of 5 bundles failed: bundle-4: " in done.stderr
