"""A gate that fails: the run exits 3, names the edge and check, and writes the rows."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compiler.hashes import sha256_of


@pytest.fixture
def damaged(project: Path) -> Path:
    """A project whose exported graph has one weight scaled by 1.01, and a receipt that says so."""
    [graph_file] = (project / "runs" / ".steps").glob("*/onnx/model.onnx")
    graph = onnx.load(graph_file)
    weight = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    onnx.save(graph, graph_file)
    receipt = graph_file.parent.with_name("receipt.json")
    value = json.loads(receipt.read_text())
    value["outputs"]["onnx/model.onnx"] = sha256_of(graph_file, None)
    receipt.write_text(json.dumps(value))
    return project


def test_a_worse_export_fails_the_run_with_its_edge_check_and_rows(damaged: Path, recipe) -> None:
    done = recipe("run", damaged / "recipe.json", "--runs", damaged / "runs", "--target", "cpu")
    assert done.exit_code == 3, done.output
    assert "error[E602]: trained -> onnx: outputs" in done.output
    verification = damaged / "runs" / "tiny" / "verification.json"
    rows = verification.resolve().with_name("disagreements.jsonl").read_text().splitlines()
    assert {"row", "values", "source", "other"} <= set(json.loads(rows[0]))
    report = json.loads((damaged / "runs" / "tiny" / "report.json").read_text())
    assert (report["state"], report["gate_passed"]) == ("gate failed", False)


def test_a_failed_gate_leaves_no_bundle(damaged: Path, recipe) -> None:
    recipe("run", damaged / "recipe.json", "--runs", damaged / "runs", "--target", "cpu")
    assert not (damaged / "runs" / "tiny" / "bundle" / "onnx" / "model.onnx").exists()
    assert (damaged / "runs" / "tiny" / "model" / "model.safetensors").exists()
