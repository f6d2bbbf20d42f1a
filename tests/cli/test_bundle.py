"""`recipe predict` and `recipe verify` on the bundle of a run."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from compiler.hashes import sha256_of


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


def test_a_manifest_that_names_no_graph_s_precision_is_one_error(finished: Path, bundle: Path, recipe) -> None:
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"precision": "fp32"', '"precision": "bf16"'))
    source, columns = finished / "runs" / "tiny" / "model", ("text=snippet", "label=sentiment")
    rows = ("--data", finished / "rows.jsonl", *(word for column in columns for word in ("--column", column)))
    for command in (
        ("predict", bundle, "--text", "a"),
        ("verify", bundle),
        ("verify", "--source", source, "--bundle", bundle, *rows),
    ):
        done = recipe(*command)
        assert done.exit_code == 4, done.output
        assert "/precision is bf16, in which no graph is held, and there is no function" in done.output
        assert done.output.count("error[E601]") == 1


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


def test_what_no_receiver_can_recompute_is_told_as_the_sender_s_word(bundle: Path, recipe) -> None:
    done = recipe("verify", bundle)
    told = [line for line in done.output.splitlines() if line.startswith("told  ")]
    assert told[0] == "told  base model model, licence unknown"
    assert told[1] == "told  full, 210 rows, 56 steps"
    assert told[2] == "told  sha256 of 1 file of rows, 1 file of tuned weights"
    assert told[3].startswith("told  the trained model on 60 test rows: accuracy 0.")
    assert told[3].endswith(" (not measured here: the rows are not in the bundle)")
    assert done.output.count("manifest -> bundle: card") == 1
    word = json.loads(recipe("verify", bundle, "--json").output)["senders_word"]
    assert [(used["split"], used["rows"]) for used in word["data"]] == [
        ("train", 210),
        ("validation", 30),
        ("test", 60),
    ]


def test_the_hashes_of_weights_rows_and_base_are_those_of_the_files(finished: Path, bundle: Path) -> None:
    word = json.loads((bundle / "manifest.json").read_text())["provenance"]
    assert {digest for used in word["data"] for digest in used["files"]} == {sha256_of(finished / "rows.jsonl", None)}
    base = finished / "model"
    assert word["base_files"]["model.safetensors"] == sha256_of(base / "model.safetensors", None)
    tuned = finished / "runs" / "tiny" / "model" / "model.safetensors"
    assert word["weights"] == {"model/model.safetensors": sha256_of(tuned, None)}


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
    from runtimes.bundles.manifest import read_manifest, seal

    damage(bundle)
    seal(bundle, read_manifest(bundle))
    done = recipe("verify", bundle)
    assert done.exit_code == 3
    failed = [line.split()[4] for line in done.output.splitlines() if line.startswith("FAIL")]
    assert check in failed
    assert "hashes" not in failed
    assert "error[E603]: manifest -> bundle: " in done.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "8000", "--text", "a"], "--port goes with --serve"),
        (["--max-rows", "9", "--text", "a"], "--max-rows goes with --serve"),
        (["--serve", "--text", "a"], "--text does not go with --serve: rows are sent to POST /predict"),
        (["--serve", "--json"], "--json does not go with --serve"),
        (["--serve", "--max-batch", "0"], "0 is not in the range"),
    ],
)
def test_options_of_a_server_and_of_rows_exclude_each_other(
    bundle: Path, recipe, options: list[str], said: str
) -> None:
    done = recipe("predict", bundle, *options)
    assert done.exit_code == 2
    assert said in done.output


def test_a_folder_that_is_no_bundle_is_not_served(recipe, tmp_path: Path) -> None:
    done = recipe("predict", tmp_path, "--serve", "--port", "0")
    assert (done.exit_code, "E601" in done.output) == (4, True)


def test_a_server_without_its_packages_names_the_extra_that_brings_them(recipe, bundle: Path, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "runtimes.serving.endpoint", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = recipe("predict", bundle, "--serve", "--port", "0")
    assert done.exit_code == 4
    assert 'error[E402]: this needs the package "uvicorn"' in done.output
    assert "pip install 'recipec[serve]'" in done.output


def has_core_ml() -> bool:
    import onnxruntime

    return "CoreMLExecutionProvider" in onnxruntime.get_available_providers()


@pytest.mark.parametrize("command", [("predict", "--text", "a good film"), ("verify",), ("predict", "--serve")])
def test_core_ml_is_refused_where_onnxruntime_has_none(bundle: Path, recipe, command: tuple[str, ...]) -> None:
    if has_core_ml():
        pytest.skip("onnxruntime has Core ML here")
    name, *options = command
    done = recipe(name, bundle, *options, "--provider", "coreml", *(["--port", "0"] if "--serve" in options else []))
    assert done.exit_code == 4
    assert "error[E508]: onnxruntime" in done.output
    assert "has no CoreMLExecutionProvider on this machine, but" in done.output
    assert "Traceback" not in done.output


def test_the_provider_of_a_bundle_s_receiver_is_the_cpu_unless_asked(bundle: Path, recipe) -> None:
    assert recipe("verify", bundle, "--provider", "cpu").exit_code == 0
    done = recipe("verify", bundle, "--bisect", "--provider", "coreml")
    assert done.exit_code == 2
    assert "without --source and --bisect" in done.output


def test_core_ml_gives_the_labels_that_the_cpu_gives(bundle: Path, recipe) -> None:
    if not has_core_ml():
        pytest.skip("this onnxruntime has no Core ML: it is a part of macOS")
    asked = ("predict", bundle, "--text", "a good film", "--text", "an awful plot", "--json", "--provider")
    labels = [
        [json.loads(line)["prediction"]["label"] for line in recipe(*asked, provider).output.splitlines()]
        for provider in ("cpu", "coreml")
    ]
    assert len(labels[0]) == 2
    assert labels[0] == labels[1]
