"""`recipe export`: a model as it stands, through the gate into a bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from compiler.cli.export import refuse_there
from compiler.cli.found import find, read_data
from compiler.recipe import Onnx, Precision
from compiler.tasks import TextClassification
from runtimes.untuned import plan_of
from tests.foreign import LABELS, save_classifier, write_rows
from tests.tiny import save_encoder

pytest.importorskip("onnxscript", reason="needs the onnx extra")
Recipe = Callable[..., Result]
COLUMNS = ("--column", "text=snippet", "--column", "label=sentiment")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("model") / "classifier")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


def manifest_of(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    return found


def test_a_classifier_becomes_a_bundle_that_is_verified_and_predicts(
    model: Path, rows: Path, recipe: Recipe, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    done = recipe("export", model, "--data", rows, *COLUMNS, "-o", out)
    assert done.exit_code == 0, done.output
    assert "compared on 60 rows with answers" in done.output
    assert "ok    source -> onnx: metrics" in done.output
    assert manifest_of(out)["held_out"]["rows"] == 60
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".bundle")] == []
    verified = recipe("verify", out, "--data", rows)
    assert verified.exit_code == 0, verified.output
    assert "metrics_rows" in verified.output
    answer = json.loads(recipe("predict", out, "--text", "a great movie", "--json").output)["prediction"]
    assert answer["label"] in LABELS


@pytest.mark.slow
@pytest.mark.long
def test_a_graph_over_two_gib_keeps_its_weights_beside_it(
    model: Path, rows: Path, recipe: Recipe, tmp_path: Path
) -> None:
    """More than a protobuf file can hold; it takes 5 GiB of disk and 12 of memory."""
    from transformers import AutoModelForSequenceClassification

    large = Path(shutil.copytree(model, tmp_path / "large"))
    grown: Any = AutoModelForSequenceClassification.from_pretrained(model)
    grown.resize_token_embeddings(18_000_000, mean_resizing=False)
    grown.save_pretrained(large)
    out = tmp_path / "bundle"
    done = recipe("export", large, "--data", rows, *COLUMNS, "-o", out)
    assert done.exit_code == 0, done.output
    assert (out / "onnx" / "model.onnx").stat().st_size < 2**20
    assert (out / "onnx" / "model.onnx_data").stat().st_size > 2**31
    assert recipe("verify", out).exit_code == 0


def test_without_rows_it_says_that_no_metric_was_measured_and_compares_all_the_same(
    model: Path, recipe: Recipe, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    done = recipe("export", model, "-o", out)
    assert done.exit_code == 0, done.output
    assert "no metric is measured (rows with answers in --data would measure some)" in done.output
    assert "source -> onnx: decisions" in done.output
    assert "source -> onnx: metrics" not in done.output
    assert manifest_of(out)["metrics"] == []
    assert recipe("verify", out).exit_code == 0


def test_a_gate_that_fails_leaves_no_bundle_and_what_was_written_apart(
    model: Path, rows: Path, recipe: Recipe, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    done = recipe("export", model, "--data", rows, "--column", "snippet", "--precision", "int4", "-o", out)
    assert done.exit_code == 3, done.output
    assert "error[E602]: onnx -> onnx-int4: agreement" in done.output
    assert not out.exists()
    failed = tmp_path / "bundle.failed"
    assert (failed / "quantize" / "onnx" / "model_q4.onnx").is_file()
    assert (failed / "verify" / "disagreements.jsonl").is_file()
    assert str(failed) in done.output


def test_a_model_without_a_head_says_which_architecture_it_has(recipe: Recipe, tmp_path: Path) -> None:
    save_encoder(tmp_path / "bare")
    done = recipe("export", tmp_path / "bare")
    assert done.exit_code == 1
    assert "error[R252]" in done.output
    assert "has no head that answers a task: its architecture is BertModel" in done.output
    assert "recipe init" in done.output


def test_a_task_that_the_head_does_not_answer_is_refused_with_those_that_it_does(model: Path, recipe: Recipe) -> None:
    done = recipe("export", model, "--task", "question-answering")
    assert done.exit_code == 1
    assert 'has no head for the task "question-answering": its architecture is BertForSequenceClass' in done.output
    assert "--task text-classification" in done.output


def test_an_unknown_task_names_the_nearest(model: Path, recipe: Recipe) -> None:
    done = recipe("export", model, "--task", "text-clasification")
    assert done.exit_code == 2
    assert 'did you mean "text-classification"?' in done.output


def test_a_model_that_names_no_architecture_asks_for_the_task(recipe: Recipe, tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "classifier")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    done = recipe("export", folder)
    assert done.exit_code == 1
    assert "error[R253]" in done.output
    assert "--task text-classification" in done.output


def test_a_missing_column_names_the_nearest(model: Path, rows: Path, recipe: Recipe) -> None:
    done = recipe("export", model, "--data", rows, "--column", "text=snipet")
    assert done.exit_code == 1
    assert "error[R304]" in done.output
    assert 'did you mean "snippet"?' in done.output


def test_a_column_for_answers_that_is_named_and_not_there_is_an_error_too(
    model: Path, rows: Path, recipe: Recipe, tmp_path: Path
) -> None:
    named = ("--column", "text=snippet", "--column", "label=sentimnt")
    found = recipe("export", model, "--data", rows, *named, "-o", tmp_path / "out")
    assert (found.exit_code, "R304" in found.output, 'did you mean "sentiment"?' in found.output) == (1, True, True)
    assert not (tmp_path / "out").exists()


def test_an_unknown_role_names_those_of_the_task(model: Path, rows: Path, recipe: Recipe) -> None:
    done = recipe("export", model, "--data", rows, "--column", "lable=sentiment")
    assert done.exit_code == 2
    assert 'did you mean "label"?' in done.output


def test_a_label_that_the_model_does_not_know_is_an_error_about_its_row(
    model: Path, recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "negative"}\n{"text": "b", "label": "positiv"}\n')
    done = recipe("export", model, "--data", tmp_path / "rows.jsonl")
    assert done.exit_code == 1
    assert "rows.jsonl:2:1: error[R312]" in done.output


def test_rows_without_answers_are_read_and_said(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = {"text": "snippet", "label": "label"}
    found, answered = read_data(TextClassification(labels=LABELS), columns, rows)
    assert not answered
    assert len(found) == 60
    assert 'has no column "label": no metric is measured (name it with --column label=NAME)' in capsys.readouterr().err


def test_labels_that_the_command_line_names_are_as_many_as_the_outputs(model: Path, recipe: Recipe) -> None:
    task = json.dumps({"type": "text-classification", "labels": ["a", "b", "c"]})
    done = recipe("export", model, "--task", task)
    assert done.exit_code == 1
    assert "--task names 3 outputs, and the head of" in done.output


def test_a_place_that_is_taken_is_left_alone(model: Path, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    done = recipe("export", model, "-o", tmp_path)
    assert done.exit_code == 2
    assert "is there already" in done.output
    assert (tmp_path / "kept.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    refuse_there(tmp_path / "empty")


def test_whole_numbers_by_ranges_are_exported_with_what_they_cost(
    model: Path, rows: Path, recipe: Recipe, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    static = ("--precision", "int8-static", "--max-metric-drop", "0.2")
    done = recipe("export", model, "--data", rows, *COLUMNS, *static, "-o", out)
    assert done.exit_code == 0, done.output
    assert "onnx -> onnx-int8-static: metrics" in done.output
    assert "MiB" in done.output
    assert manifest_of(out)["precision"] == "int8-static"
    assert recipe("verify", out).exit_code == 0


def test_the_key_of_ranges_holds_the_rows_that_they_are_of(model: Path, tmp_path: Path) -> None:
    def keys(count: int, precision: Precision) -> dict[str, str]:
        given = write_rows(tmp_path / f"{count}.jsonl", count)
        sizes: dict[str, Any] = {"rows": None, "max_length": None, "revision": None, "tolerance_factor": 8.0}
        found = find(str(model), None, given, ("text=snippet", "label=sentiment"), **sizes)
        return plan_of(found, Onnx(precision=precision, opset=18)).keys()

    assert keys(20, "int8") == keys(30, "int8")
    few, many = keys(20, "int8-static"), keys(30, "int8-static")
    assert few == keys(20, "int8-static")
    assert {name for name in few if few[name] != many[name]} == {"quantize", "verify", "package"}


def test_ranges_are_seen_on_rows_that_have_to_be_given(model: Path, recipe: Recipe) -> None:
    done = recipe("export", model, "--precision", "int8-static")
    assert done.exit_code == 2
    assert "give some with --data" in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--precision", "int8", "--max-metric-drop", "nan"], "nan is no number"),
        (["--tolerance-factor", "nan"], "nan is no number"),
        (["--precision", "bf16"], "the format onnx is not written in bf16"),
        (["--max-metric-drop", "0.1"], "nothing reads --max-metric-drop where nothing is rounded"),
        (["--bits", "4"], "nothing reads --bits"),
        (["--format", "mlx", "--opset", "18"], "nothing reads --opset"),
    ],
)
def test_an_option_that_means_nothing_is_refused(model: Path, recipe: Recipe, arguments: list[str], said: str) -> None:
    done = recipe("export", model, *arguments)
    assert done.exit_code == 2
    assert said in done.output
