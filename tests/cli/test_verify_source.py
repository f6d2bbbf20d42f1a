"""`recipe verify --source`: graphs as other tools write them, each with a fault of its own or none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.foreign import (
    TOKENIZER,
    changed,
    export_classifier,
    rename,
    save_classifier,
    scale_a_weight,
    take_int32,
    write_rows,
)

pytest.importorskip("onnxscript", reason="needs the onnx extra")
Recipe = Callable[..., Result]
COLUMNS = ("--column", "text=snippet", "--column", "label=sentiment")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a classifier, rows, its graph, and one that is frozen to the size of its trace."""
    folder = tmp_path_factory.mktemp("foreign")
    save_classifier(folder / "classifier")
    write_rows(folder / "rows.jsonl")
    export_classifier(folder / "classifier", folder / "good" / "model.onnx")
    export_classifier(folder / "classifier", folder / "frozen" / "model.onnx", varies=False)
    export_classifier(folder / "classifier", folder / "scripted" / "model.onnx", scripted=True)
    return folder


@pytest.fixture
def verified(made: Path, recipe: Recipe) -> Callable[..., Result]:
    """`recipe verify --source` of a graph against the classifier, on its rows."""

    def verify(bundle: Path, *arguments: str) -> Result:
        rows = ("--data", made / "rows.jsonl", *COLUMNS)
        return recipe("verify", "--source", made / "classifier", "--bundle", bundle, *rows, *arguments)

    return verify


def good(made: Path) -> Path:
    return made / "good" / "model.onnx"


def failed(done: Result) -> list[str]:
    """The names of the checks that failed."""
    return [line.split(": ")[1].split()[0] for line in done.stdout.splitlines() if line.startswith("FAIL")]


def test_a_graph_by_another_tool_that_answers_alike_passes(made: Path, verified: Callable[..., Result]) -> None:
    done = verified(made / "good")
    assert done.exit_code == 0, done.output
    assert "ok    source -> bundle: outputs " in done.output
    assert "ok    source -> bundle: metrics" in done.output


def test_the_report_is_json_for_a_script(made: Path, verified: Callable[..., Result]) -> None:
    report = json.loads(verified(good(made), "--json").stdout)
    [edge] = report["edges"]
    assert report["passed"] is True
    assert (edge["source"], edge["target"]) == ("source", "bundle")


def test_without_rows_it_compares_on_made_up_ones_and_says_so(made: Path, recipe: Recipe) -> None:
    done = recipe("verify", "--source", made / "classifier", "--bundle", good(made))
    assert done.exit_code == 0, done.output
    assert "no metric is measured" in done.output


def test_the_rows_that_are_said_to_be_compared_are_those_that_were_asked_for(
    made: Path, verified: Callable[..., Result], recipe: Recipe
) -> None:
    rows = ("--data", made / "rows.jsonl", "--column", "snippet")
    done = recipe("verify", "--source", made / "classifier", "--bundle", good(made), *rows, "--rows", "12")
    assert "note: compared on 12 of 60 rows without answers" in done.output
    assert "; 12 rows" in done.output
    assert "; 12 rows" in verified(good(made), "--rows", "12").output


def test_inputs_of_32_bits_in_a_folder_of_olive_s_names_pass(
    made: Path, verified: Callable[..., Result], tmp_path: Path
) -> None:
    changed(good(made), tmp_path / "onnx" / "model_optimized.onnx", take_int32)
    assert verified(tmp_path).exit_code == 0


def test_an_only_output_of_another_name_is_taken(made: Path, verified: Callable[..., Result], tmp_path: Path) -> None:
    assert verified(changed(good(made), tmp_path / "model.onnx", rename("logits", "output_0"))).exit_code == 0


def test_a_weight_that_was_changed_is_caught_by_the_outputs(
    made: Path, verified: Callable[..., Result], tmp_path: Path
) -> None:
    done = verified(changed(good(made), tmp_path / "model.onnx", scale_a_weight))
    assert done.exit_code == 3
    assert failed(done)[0] == "outputs"


@pytest.mark.parametrize("exporter", ["good", "scripted"])
def test_the_layer_that_fails_is_named_whatever_the_exporter_called_it(
    made: Path, verified: Callable[..., Result], tmp_path: Path, exporter: str
) -> None:
    file = changed(made / exporter / "model.onnx", tmp_path / "model.onnx", scale_a_weight)
    layer = "bert.encoder.layer.1.output.dense"
    for arguments in ([], ["--bisect"]):
        done = verified(file, *arguments)
        assert done.exit_code == 3, done.output
        assert f"{layer} is the first layer that leaves the noise" in done.output
        assert f"is 1.05 times the source's {layer}.weight" in done.output
    report = json.loads(verified(file, "--json").stdout)
    assert report["localised"]["layer"] == layer
    [found] = json.loads(verified(file, "--bisect", "--json").stdout).values()
    assert found["operator"]["op_type"] == "MatMul"


@pytest.mark.parametrize("exporter", ["good", "scripted", "frozen"])
def test_no_layer_of_a_graph_that_answers_alike_leaves_the_noise(
    made: Path, verified: Callable[..., Result], exporter: str
) -> None:
    done = verified(made / exporter / "model.onnx", "--bisect")
    assert done.exit_code == 0, done.output
    assert "no layer leaves the noise" in done.output


def test_the_layer_of_an_output_of_another_name_is_named(
    made: Path, verified: Callable[..., Result], tmp_path: Path
) -> None:
    def damage(graph: Any) -> None:
        rename("logits", "output_0")(graph)
        scale_a_weight(graph)

    done = verified(changed(made / "frozen" / "model.onnx", tmp_path / "model.onnx", damage), "--bisect")
    assert done.exit_code == 3, done.output
    assert "bert.encoder.layer.1.output.dense is the first layer" in done.output


def test_a_frozen_graph_is_named_as_that_and_compared_in_its_size(made: Path, verified: Callable[..., Result]) -> None:
    done = verified(made / "frozen")
    assert done.exit_code == 3, done.output
    assert failed(done) == ["sizes"]
    assert "it is frozen to batches of 2" in done.output
    assert "it is frozen to rows of 16 tokens" in done.output
    assert "ok    source -> bundle: outputs " in done.output


def test_a_graph_that_hides_its_traced_size_fails_with_a_sentence(
    made: Path, verified: Callable[..., Result], tmp_path: Path
) -> None:
    def say_it_varies(graph: Any) -> None:
        for value in graph.input:
            for place, name in enumerate(("batch", "sequence")):
                value.type.tensor_type.shape.dim[place].dim_param = name

    done = verified(changed(made / "frozen" / "model.onnx", tmp_path / "model.onnx", say_it_varies))
    assert done.exit_code == 3, done.output
    assert failed(done) == ["sizes"]
    assert "does not run" in done.output


def test_a_wrong_label_map_is_a_finding_of_its_own(made: Path, verified: Callable[..., Result], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made / "good", tmp_path / "swapped"))
    config = json.loads((made / "classifier" / "config.json").read_text(encoding="utf-8"))
    config["id2label"] = {"0": "positive", "1": "negative"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    done = verified(folder)
    assert done.exit_code == 3
    assert failed(done) == ["labels"]
    assert "output 0 is positive, of the source negative" in done.output


def test_a_tokenizer_that_no_longer_lower_cases_is_a_finding_of_its_own(
    made: Path, verified: Callable[..., Result], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(made / "good", tmp_path / "cased"))
    for name in (*TOKENIZER, "config.json"):
        shutil.copyfile(made / "classifier" / name, folder / name)
    assert verified(folder).exit_code == 0
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    done = verified(folder)
    assert done.exit_code == 3
    assert failed(done) == ["tokens"]


def test_a_graph_that_does_not_read_the_mask_is_named(
    made: Path, verified: Callable[..., Result], tmp_path: Path
) -> None:
    def forget_the_mask(graph: Any) -> None:
        import onnx

        [mask] = [value for value in graph.input if value.name == "attention_mask"]
        graph.input.remove(mask)
        shape = onnx.helper.make_node("Shape", ["input_ids"], ["mask.shape"])
        one = onnx.helper.make_tensor("mask.one", onnx.TensorProto.INT64, [1], [1])
        ones = onnx.helper.make_node("ConstantOfShape", ["mask.shape"], ["attention_mask"], value=one)
        graph.node.insert(0, ones)
        graph.node.insert(0, shape)

    done = verified(changed(good(made), tmp_path / "model.onnx", forget_the_mask))
    assert done.exit_code == 3
    assert failed(done)[:2] == ["sizes", "outputs"]
    assert "it does not take attention_mask" in done.output


def test_a_quantized_graph_is_told_by_its_operators_and_asked_for_decisions_and_metrics(
    made: Path, verified: Callable[..., Result], tmp_path: Path
) -> None:
    from onnxruntime.quantization import quantize_dynamic

    plain = changed(good(made), tmp_path / "plain.onnx", lambda graph: graph.ClearField("value_info"))
    quantize_dynamic(str(plain), str(tmp_path / "model_quantized.onnx"))
    done = verified(tmp_path / "model_quantized.onnx", "--max-metric-drop", "0.2")
    assert "its weights are rounded: " in done.output
    assert "MatMulInteger" in done.output
    names = {
        check["name"]
        for check in json.loads(verified(tmp_path / "model_quantized.onnx", "--json").stdout)["edges"][0]["checks"]
    }
    assert names == {"sizes", "metrics", "agreement"}
    exact = verified(tmp_path / "model_quantized.onnx", "--max-metric-drop", "0")
    assert exact.exit_code == 3
    followed = verified(tmp_path / "model_quantized.onnx", "--bisect")
    assert followed.exit_code == 4
    assert "every layer of it differs" in followed.output


def test_several_graphs_in_a_folder_have_to_be_told_apart(
    made: Path, verified: Callable[..., Result], tmp_path: Path
) -> None:
    for name in ("model.onnx", "model_quantized.onnx"):
        shutil.copyfile(good(made), tmp_path / name)
    done = verified(tmp_path)
    assert done.exit_code == 4
    assert "error[E611]" in done.output
    assert "model.onnx, model_quantized.onnx" in done.output


def test_an_input_without_a_match_names_what_was_found_and_expected(
    made: Path, verified: Callable[..., Result], tmp_path: Path
) -> None:
    done = verified(changed(good(made), tmp_path / "model.onnx", rename("attention_mask", "attn_mask")))
    assert done.exit_code == 4
    assert "error[E610]" in done.output
    assert "the graph takes input_ids, attn_mask, token_type_ids" in done.output
    assert 'did you mean "attention_mask"?' in done.output


def test_a_folder_without_a_graph_is_one_error(verified: Callable[..., Result], tmp_path: Path) -> None:
    done = verified(tmp_path)
    assert done.exit_code == 4
    assert "there is no ONNX file in it" in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--source", "m"], "name what is compared with --bundle"),
        ([], "name a bundle or a run; or --source MODEL and --bundle DIR"),
        (["b", "--max-length", "9"], "nothing reads --max-length without --source"),
        (["b", "--column", "text=a"], "nothing reads --column without --source"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(recipe: Recipe, arguments: list[str], said: str) -> None:
    done = recipe("verify", *arguments)
    assert done.exit_code == 2
    assert said in done.output
