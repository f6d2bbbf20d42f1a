"""A gate that fails: the run exits 3, names the edge and check, and writes the rows."""

import json
import shutil
from pathlib import Path

import pytest

from runtimes.verification.edges import Report, read_report
from runtimes.verification.gate import Outputs


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


def test_a_failed_gate_names_the_layer_the_operator_and_the_weight(damaged: Path, recipe) -> None:
    done = recipe("run", damaged / "recipe.json", "--runs", damaged / "runs", "--target", "cpu")
    assert (
        ": bert.embeddings.word_embeddings is the first layer that leaves the noise (embedding; max |Δ| " in done.output
    )
    assert "by the operator Gather " in done.output
    assert "is 1.01 times the source's bert.embeddings.word_embeddings.weight" in done.output
    folder = (damaged / "runs" / "tiny" / "verification.json").resolve().parent
    found = json.loads((damaged / "runs" / "tiny" / "bisect.json").read_text())
    assert found["layer"] == "bert.embeddings.word_embeddings"
    layers = {layer["layer"]: layer["right"] for layer in found["layers"]}
    assert layers["bert.embeddings.position_embeddings"] and not layers["bert.encoder.layer.1"]
    report = read_report(folder)
    assert report.localised is not None and report.localised.layer == found["layer"]
    assert report.localised.rows == (read_outputs(report).row,)


def read_outputs(report: Report) -> Outputs:
    """The first check that failed."""
    [(_, check), *_] = report.verification.failures()
    assert isinstance(check, Outputs)
    return check


def test_layers_of_a_run_are_compared_on_demand(damaged: Path, recipe) -> None:
    found = recipe("verify", damaged / "runs" / "tiny", "--bisect")
    assert found.exit_code == 3, found.output
    assert found.output.startswith("verify  row ")
    assert "bert.embeddings.word_embeddings is the first layer that leaves the noise" in found.output
    assert "error[E603]: verify: bert.embeddings.word_embeddings does not compute as its source" in found.output


def test_a_healthy_run_leaves_the_noise_nowhere(project: Path, recipe) -> None:
    found = recipe("verify", "tiny", "--runs", project / "runs", "--bisect", "--json")
    assert found.exit_code == 0, found.output
    told = json.loads(found.output)["verify"]
    assert told["layer"] is None and len(told["layers"]) > 30
    assert all(layer["right"] and layer["max_abs"] <= layer["allowed"] for layer in told["layers"])


def test_a_bundle_is_compared_with_the_folder_of_its_source(project: Path, recipe) -> None:
    bundle, source = project / "runs" / "tiny" / "bundle", project / "runs" / "tiny" / "model"
    found = recipe("verify", bundle, "--bisect", "--source", source)
    assert found.exit_code == 0, found.output
    assert "no layer leaves the noise" in found.output
    tokenizer = json.loads((bundle / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (bundle / "tokenizer.json").write_text(json.dumps(tokenizer))
    found = recipe("verify", bundle, "--bisect", "--source", source)
    assert found.exit_code == 3, found.output
    assert "it is read otherwise than its source was" in found.output
    assert "the tokenizer or the image processor is at fault" in found.output


def test_the_source_of_a_comparison_of_layers_may_be_an_id(
    project: Path, recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = project / "runs" / "tiny" / "bundle"
    shutil.copytree(project / "runs" / "tiny" / "model", project / "mirror" / "org" / "tuned")
    monkeypatch.setenv("RECIPE_MIRROR", str(project / "mirror"))
    found = recipe("verify", bundle, "--bisect", "--source", "org/tuned", "--revision", "main")
    assert found.exit_code == 0, found.output
    assert "no layer leaves the noise" in found.output
    for arguments in ([bundle, "--bisect"], ["--bundle", bundle], ["--bundle", bundle, "--bisect"]):
        found = recipe("verify", *arguments, "--source", "org/tunde")
        assert found.exit_code == 4, found.output
        assert "error[R403]" in found.output and 'did you mean "org/tuned"' in found.output


def test_a_bundle_without_a_source_can_not_be_compared_by_layer(project: Path, recipe) -> None:
    found = recipe("verify", project / "runs" / "tiny" / "bundle", "--bisect")
    assert found.exit_code == 4
    assert "error[E607]" in found.output and "--source" in found.output
    found = recipe("verify", project / "runs" / "tiny", "--source", project)
    assert found.exit_code == 2


def test_options_that_a_comparison_of_layers_does_not_read_are_refused(project: Path, recipe) -> None:
    for option in (("--data", "rows.jsonl"), ("--column", "text=a"), ("--bundle", project)):
        found = recipe("verify", project / "runs" / "tiny", "--bisect", *option)
        assert found.exit_code == 2
        assert f"nothing reads {option[0]} with" in found.output
