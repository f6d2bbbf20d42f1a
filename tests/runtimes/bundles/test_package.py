import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="needs the onnx extra")

from compiler.tasks import TextClassification
from runtimes.bundles.manifest import MANIFEST, files_in, read_manifest
from runtimes.bundles.package import Parts, package
from runtimes.errors import GateError, RunError
from runtimes.export.facts import GRAPH
from runtimes.verification.edges import read_report


@pytest.fixture
def parts(tiny) -> Parts:
    return Parts(
        written=tiny.onnx_file.parent.parent,
        graphs=(GRAPH,),
        model_folder=tiny.model,
        tokenizer_folder=tiny.model,
        verify_folder=tiny.verified,
        key="1" * 64,
        versions={"onnxruntime": "1"},
        baseline={"majority": {"accuracy": 0.5}},
    )


def test_a_bundle_is_made_whole_and_its_manifest_says_where_it_is_from(tiny, parts: Parts, tmp_path: Path) -> None:
    assert package(tiny.package_step, parts, tmp_path / "bundle").passed
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]  # nothing is left beside it
    manifest, report = read_manifest(tmp_path / "bundle"), read_report(tiny.verified)
    assert (manifest.plan_key, manifest.baseline) == ("1" * 64, {"majority": {"accuracy": 0.5}})
    assert (manifest.gate, manifest.held_out, manifest.tolerance) == (
        report.verification,
        report.held_out,
        report.tolerance,
    )
    assert manifest.inputs == ("input_ids", "attention_mask", "token_type_ids")


def test_the_configuration_of_the_bundle_names_the_labels(tiny) -> None:
    config = json.loads((tiny.bundle / "config.json").read_text())
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    assert config["model_type"] == "bert"


def test_the_same_parts_give_the_same_bytes(tiny, parts: Parts, tmp_path: Path) -> None:
    for name in ("one", "two"):
        package(tiny.package_step, parts, tmp_path / name)
    files = [*files_in(tmp_path / "one"), MANIFEST]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_bundle_that_answers_otherwise_is_not_made_and_the_old_one_stays(tiny, parts: Parts, tmp_path: Path) -> None:
    package(tiny.package_step, parts, tmp_path / "bundle")
    before = (tmp_path / "bundle" / "manifest.json").read_bytes()
    other = tmp_path / "tokenizer"
    other.mkdir()
    text = (tiny.model / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"lowercase": true', '"lowercase": false'))
    with pytest.raises(GateError, match="manifest -> bundle: tokens") as caught:
        package(tiny.package_step, replace(parts, tokenizer_folder=other), tmp_path / "bundle")
    assert caught.value.code == "E603"
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "tokenizer"]


def test_labels_in_another_order_than_the_model_s_do_not_pass(tiny, parts: Parts, tmp_path: Path) -> None:
    step = replace(tiny.package_step, task=TextClassification(labels=("positive", "negative")))
    with pytest.raises(GateError, match="manifest -> bundle: decisions"):
        package(step, parts, tmp_path / "bundle")


def test_a_missing_part_is_named(tiny, parts: Parts, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"gone\.onnx") as caught:
        package(tiny.package_step, replace(parts, graphs=("onnx/gone.onnx",)), tmp_path / "bundle")
    assert caught.value.code == "E606"
    assert not (tmp_path / "bundle").exists()


def test_a_gate_that_failed_makes_no_bundle(tiny, parts: Parts, tmp_path: Path) -> None:
    folder = tmp_path / "verified"
    folder.mkdir()
    report = json.loads((tiny.verified / "verification.json").read_text())
    report["verification"]["passed"] = False
    report["verification"]["first_failure"] = "trained -> onnx: outputs"
    (folder / "verification.json").write_text(json.dumps(report))
    with pytest.raises(GateError, match="trained -> onnx: outputs") as caught:
        package(tiny.package_step, replace(parts, verify_folder=folder), tmp_path / "bundle")
    assert caught.value.code == "E602"
