"""Functions for MLX through the command line: exported, gated, packaged, and run by a receiver who has MLX alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

import mlx.core as mx

from runtimes.bundles.manifest import read_manifest, seal
from runtimes.export.functions import FUNCTION
from tests.blocked import only
from tests.cli.conftest import invoke
from tests.tiny import write_project

ROOT = Path(__file__).parents[2]
RECEIVED = """
import json, sys
from pathlib import Path
from typing import Any
from runtimes.bundles.bundle import open_bundle
from runtimes.verification.receiver import verify_bundle

folder = Path(sys.argv[1])
answers = open_bundle(folder).predict([{"text": "a GOOD film"}, {"text": ""}])
tops = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([[one["label"] for one in answers], verify_bundle(folder).passed, sorted(tops)]))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose run has exported a function in float32, one of 8 bits, and a graph for onnxruntime."""
    pytest.importorskip("onnxscript", reason="needs the onnx extra")
    rounded = {"format": "mlx", "bits": 8, "group_size": 32}
    folder = write_project(tmp_path_factory.mktemp("functions") / "project", export=["mlx", rounded, "onnx"])
    done = invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu")
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def bundle(project: Path, tmp_path: Path) -> Path:
    """The bundle of the function in float32, to damage."""
    return Path(shutil.copytree(project / "runs" / "tiny" / "bundle-1", tmp_path / "bundle"))


def report(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project / "runs" / "tiny" / "report.json").read_text(encoding="utf-8"))
    return found


def test_the_gate_compares_a_function_number_by_number_and_a_rounded_one_by_its_metrics(project: Path) -> None:
    edges = {
        name: {f"{edge['source']} -> {edge['target']}": len(edge["checks"]) for edge in gate["verification"]["edges"]}
        for name, gate in report(project)["gates"].items()
    }
    assert edges["verify-1"] == {"trained -> mlx": 6}
    assert edges["verify-2"] == {"trained -> mlx-fp32": 6, "mlx-fp32 -> mlx": 1}
    assert report(project)["gate_passed"]


def test_the_report_says_at_which_shapes_a_function_was_traced(project: Path) -> None:
    facts = report(project)["exports"]
    assert facts["export-1"]["shapes"] == {"batch_sizes": [1, 4, 16], "lengths": [8, 16, 20]}
    assert (facts["export-2"]["quantized_layers"], facts["export-2"]["precision"]) == (12, "8 bits")
    choices = {choice["pointer"]: choice["value"] for choice in report(project)["choices"]}
    assert choices["/export/0"] == "1, 4, 16 rows by 3 lengths up to 20 tokens"
    assert "/export/2" not in choices


@pytest.mark.parametrize("number", [1, 2])
def test_a_bundle_of_a_function_answers_as_that_of_the_graph(project: Path, number: int) -> None:
    texts = ("--text", "a good film", "--text", "the plot was awful and very very dull")
    run = project / "runs" / "tiny"
    here, there = (invoke("predict", run / name, *texts, "--json") for name in (f"bundle-{number}", "bundle-3"))
    assert here.exit_code == 0, here.output
    for one, other in zip(here.output.splitlines(), there.output.splitlines(), strict=True):
        found, expected = json.loads(one)["prediction"], json.loads(other)["prediction"]
        assert found["label"] == expected["label"]
        assert found["score"] == pytest.approx(expected["score"], abs=1e-5 if number == 1 else 0.02)


@pytest.mark.parametrize("number", [1, 2])
def test_a_receiver_verifies_a_bundle(project: Path, number: int) -> None:
    rows = ("--data", project / "rows.jsonl")
    done = invoke("verify", project / "runs" / "tiny" / f"bundle-{number}", *rows)
    assert done.exit_code == 0, done.output
    assert "outputs_batch_32" in done.output


def test_a_receiver_needs_mlx_tokenizers_and_numpy_alone(bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", only("numpy", "mlx", "tokenizers") + RECEIVED, str(bundle)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    labels, passed, modules = json.loads(done.stdout)
    assert (labels[0], passed) == ("positive", True)
    assert not {"torch", "transformers", "onnxruntime", "mlx_lm", "safetensors"} & set(modules)


def test_a_damaged_function_is_not_given_to_mlx(bundle: Path) -> None:
    file = bundle / FUNCTION
    content = bytearray(file.read_bytes())
    content[40:48] = b"\xff" * 8  # a length, of which MLX would reserve as much
    file.write_bytes(content)
    verified = invoke("verify", bundle)
    assert verified.exit_code == 3
    assert f"changed {FUNCTION}" in verified.output
    answered = invoke("predict", bundle, "--text", "a good film")
    assert answered.exit_code == 4
    assert "is not the one that was sealed: its hash differs" in answered.output


def test_a_function_of_other_weights_is_caught_by_what_it_answers(bundle: Path) -> None:
    imported: Any = mx.import_function(str(bundle / FUNCTION), return_metadata=True)
    inner, text = imported
    described = json.loads(text)

    def scaled(**given: mx.array) -> list[mx.array]:
        return [1.01 * inner(**given)[0]]

    shapes = described["shapes"]
    examples = [
        {name: mx.zeros((rows, length), mx.int64) for name in described["arguments"]}
        for rows in shapes["batch_sizes"]
        for length in shapes["lengths"]
    ]
    mx.eval([inner(**example) for example in examples])  # else its arrays are yet to be loaded, and can't be written
    with mx.exporter(str(bundle / "other.mlxfn"), scaled, metadata=text) as trace:
        for example in examples:
            trace(**example)
    (bundle / "other.mlxfn").replace(bundle / FUNCTION)
    seal(bundle, read_manifest(bundle))
    verified = invoke("verify", bundle)
    assert verified.exit_code == 3
    assert "outputs_batch_1" in verified.output
    assert "changed" not in verified.output


def test_a_bundle_without_its_function_is_not_whole(bundle: Path) -> None:
    (bundle / FUNCTION).unlink()
    done = invoke("predict", bundle, "--text", "a good film")
    assert done.exit_code == 4
    assert f"{FUNCTION} is missing" in done.output
