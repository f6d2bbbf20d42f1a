"""`recipe predict` and `recipe verify` on the bundle of a run."""

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def bundle(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished / "runs" / "tiny" / "bundle", tmp_path / "bundle"))


def test_a_text_is_answered_with_its_label_and_score(bundle: Path, recipe) -> None:
    done = recipe("predict", bundle, "--text", "a great movie", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.output)["prediction"]
    assert answer["label"] in ("negative", "positive")
    assert answer["score"] == max(answer["scores"].values())
    assert sum(answer["scores"].values()) == pytest.approx(1)


def test_a_run_answers_as_its_bundle_does(finished: Path, bundle: Path, recipe) -> None:
    by_bundle = recipe("predict", bundle, "--text", "a great movie")
    assert recipe("predict", finished / "runs" / "tiny", "--text", "a great movie").output == by_bundle.output
    assert recipe("predict", "tiny", "--runs", finished / "runs", "--text", "a great movie").output == by_bundle.output


def test_rows_are_answered_in_order_into_a_file(finished: Path, bundle: Path, recipe, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    done = recipe("predict", bundle, "--input", finished / "rows.jsonl", "-o", out)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (finished / "rows.jsonl").read_text().splitlines()]
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [answer["snippet"] for answer in answers] == [row["snippet"] for row in rows]
    right = sum(answer["prediction"]["label"] == answer["sentiment"] for answer in answers)
    assert right / len(answers) > 0.9


def test_a_missing_column_is_named_with_the_nearest_one(bundle: Path, recipe, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"snipet": "a great movie"}\n')
    done = recipe("predict", bundle, "--input", tmp_path / "rows.jsonl")
    assert done.exit_code == 1
    assert 'did you mean "snipet"?' in done.output


def test_a_bad_row_in_the_middle_leaves_no_half_written_file(bundle: Path, recipe, tmp_path: Path) -> None:
    rows = '{"snippet": "a"}\n' * 2000 + '{"snippet": 3}\n'
    (tmp_path / "rows.jsonl").write_text(rows)
    done = recipe("predict", bundle, "--input", tmp_path / "rows.jsonl", "-o", tmp_path / "out" / "answers.jsonl")
    assert done.exit_code == 1
    assert 'rows.jsonl:2001:1: error[R313] the column "snippet": expected text, found the number 3' in done.output
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_is_no_bundle_is_one_error(recipe, tmp_path: Path) -> None:
    done = recipe("predict", tmp_path, "--text", "a")
    assert done.exit_code == 4
    assert "E601" in done.output
    assert "Traceback" not in done.output


def test_a_run_without_an_export_says_how_to_get_one(finished: Path, recipe, tmp_path: Path) -> None:
    project = Path(shutil.copytree(finished, tmp_path / "project", symlinks=True))
    changes = ["--set", "/export=[]", "--set", "/name=bare", "--target", "cpu", "--runs", project / "runs", "--quiet"]
    assert recipe("run", project / "recipe.json", *changes).exit_code == 0
    done = recipe("predict", project / "runs" / "bare", "--text", "a")
    assert done.exit_code == 2
    assert 'its recipe has no export; add "export": ["onnx"]' in done.output


def test_a_link_that_was_copied_without_its_bundle_says_how_to_copy_it(recipe, tmp_path: Path) -> None:
    (tmp_path / "bundle").symlink_to("gone")
    done = recipe("verify", tmp_path / "bundle")
    assert done.exit_code == 2
    assert "cp -rL" in done.output


def test_a_whole_bundle_is_verified(bundle: Path, recipe) -> None:
    done = recipe("verify", bundle)
    assert done.exit_code == 0, done.output
    assert done.output.strip().endswith("gate passed")


def test_a_bundle_is_measured_on_the_receivers_rows(finished: Path, bundle: Path, recipe, tmp_path: Path) -> None:
    done = recipe("verify", bundle, "--data", finished / "rows.jsonl", "--json")
    assert done.exit_code == 0, done.output
    [edge] = json.loads(done.output)["edges"]
    assert edge["checks"][-1]["other"]["accuracy"] > 0.9


def scale_a_weight(bundle: Path) -> None:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(bundle / "onnx" / "model.onnx")
    weight = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(weight) * 1.01
    weight.CopyFrom(numpy_helper.from_array(values.astype("float32"), weight.name))
    onnx.save(graph, bundle / "onnx" / "model.onnx")


def swap_labels(bundle: Path) -> None:
    labels = json.loads((bundle / "labels.json").read_text())
    (bundle / "labels.json").write_text(json.dumps(labels[::-1]))
    config = json.loads((bundle / "config.json").read_text())
    config["id2label"] = {str(number): label for number, label in enumerate(labels[::-1])}
    config["label2id"] = {label: number for number, label in enumerate(labels[::-1])}
    (bundle / "config.json").write_text(json.dumps(config))


def stop_lower_casing(bundle: Path) -> None:
    tokenizer = json.loads((bundle / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (bundle / "tokenizer.json").write_text(json.dumps(tokenizer))


DAMAGES = [(scale_a_weight, "outputs_batch_1"), (swap_labels, "decisions"), (stop_lower_casing, "outputs_batch_1")]


@pytest.mark.parametrize(("damage", "check"), DAMAGES)
def test_damage_is_caught_by_the_hashes(bundle: Path, recipe, damage, check: str) -> None:
    damage(bundle)
    done = recipe("verify", bundle)
    assert done.exit_code == 3
    assert "manifest -> bundle: hashes" in done.output


@pytest.mark.parametrize(("damage", "check"), DAMAGES)
def test_damage_that_was_sealed_again_is_caught_by_what_the_bundle_answers(
    bundle: Path, recipe, damage, check: str
) -> None:
    from runtimes.manifest import read_manifest, seal

    damage(bundle)
    seal(bundle, read_manifest(bundle))
    done = recipe("verify", bundle)
    assert done.exit_code == 3
    failed = [line.split()[4] for line in done.output.splitlines() if line.startswith("FAIL")]
    assert check in failed
    assert "hashes" not in failed
    assert "error[E603]: manifest -> bundle: " in done.output
