# Axes: N = rows

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs the onnx extra")
pytest.importorskip("onnx", reason="needs the onnx extra")

import onnx
from onnx import numpy_helper

from runtimes.bundles.golden import read_golden, write_golden
from runtimes.bundles.manifest import read_manifest, seal
from runtimes.errors import GateError, RunError
from runtimes.export.facts import GRAPH
from runtimes.verification.gate import Decisions, Metrics, Verification, require_passed
from runtimes.verification.receiver import verify_bundle

CHECKS = [
    "hashes",
    "labels",
    "tokens",
    "golden",
    "held_out",
    "allowed",
    "inputs",
    "outputs_batch_1",
    "outputs_batch_32",
    "decisions",
    "metrics",
    "card",
]
Damage = Callable[[Path], None]


def failed(verification: Verification) -> set[str]:
    return {check.name for _, check in verification.failures()}


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def scale_weight(folder: Path, wanted: str = r"^bert\.pooler\.dense\.weight$") -> None:
    """Multiplies one weight tensor of the graph by 1.01."""
    graph = onnx.load(folder / GRAPH)
    [weight] = [tensor for tensor in graph.graph.initializer if re.search(wanted, tensor.name)]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    onnx.save(graph, folder / GRAPH)


def swap_labels(folder: Path) -> None:
    """Exchanges the label names, in every file that has them."""
    (folder / "labels.json").write_text('["positive", "negative"]')
    edit_json(folder / "config.json", lambda config: config.update(id2label={"0": "positive", "1": "negative"}))


def change_lower_casing(folder: Path) -> None:
    """Makes the tokenizer keep upper case."""
    edit_json(folder / "tokenizer.json", lambda tokenizer: tokenizer["normalizer"].update(lowercase=False))


def test_an_untouched_bundle_passes_every_check(tiny) -> None:
    verification = verify_bundle(tiny.bundle)
    [edge] = verification.edges
    assert [check.name for check in edge.checks] == CHECKS
    assert verification.passed


@pytest.mark.parametrize(
    ("damage", "caught"),
    [
        (scale_weight, {"outputs_batch_1", "outputs_batch_32"}),
        (swap_labels, {"decisions", "metrics"}),
        (change_lower_casing, {"tokens", "outputs_batch_1"}),
    ],
)
def test_damage_that_was_sealed_again_is_caught_by_what_the_bundle_answers(
    bundle_copy: Path, reseal: Damage, damage: Damage, caught: set[str]
) -> None:
    damage(bundle_copy)
    reseal(bundle_copy)
    verification = verify_bundle(bundle_copy)
    assert caught <= failed(verification)
    assert "hashes" not in failed(verification)
    with pytest.raises(GateError) as error:
        require_passed(verification, code="E603")
    assert all(name in error.value.message for name in caught)


@pytest.mark.parametrize("damage", [scale_weight, swap_labels, change_lower_casing])
def test_damage_that_was_not_sealed_again_is_caught_by_the_hashes(bundle_copy: Path, damage: Damage) -> None:
    damage(bundle_copy)
    verification = verify_bundle(bundle_copy)
    assert verification.first_failure == "manifest -> bundle: hashes"


@pytest.mark.parametrize(
    ("loose", "said"),
    [
        ({"tolerance": 1.0}, "outputs by 1, 0.015 is the most"),
        ({"batch_tolerance": 0.1}, "beside other rows by 0.1, 0.015 is the most"),
        ({"max_excused": 0.5}, "near ties' share 0.5, 0.1 is the most"),
        ({"max_metric_drop": 0.1}, "metrics by 0.1, 0 is the most"),
        ({"tolerance": -1.0}, "outputs by -1, 0.015 is the most"),
        ({"precision": "int8", "tolerance": 1.0}, "outputs by 1, 0.38 is the most"),
    ],
)
def test_a_manifest_that_allows_more_than_a_receiver_takes_is_refused(
    bundle_copy: Path, loose: dict[str, Any], said: str
) -> None:
    seal(bundle_copy, replace(read_manifest(bundle_copy), **loose))
    if "precision" in loose:
        (bundle_copy / GRAPH).rename(bundle_copy / "onnx" / "model_int8.onnx")
        seal(bundle_copy, read_manifest(bundle_copy))
    verification = verify_bundle(bundle_copy)
    [check] = [check for edge in verification.edges for check in edge.checks if check.name == "allowed"]
    assert (check.passed, check.says()) == (False, said)


def test_what_a_manifest_allows_is_told(tiny) -> None:
    manifest = read_manifest(tiny.bundle)
    [edge] = verify_bundle(tiny.bundle, batch_sizes=(1,)).edges
    [check] = [check for check in edge.checks if check.name == "allowed"]
    allowed = f"outputs by {manifest.tolerance:.2g}, beside other rows by {manifest.batch_tolerance:.2g}"
    assert check.says() == f"by the bundle's word: {allowed}, near ties' share 0.02, metrics by 0"


def test_scaling_any_weight_that_the_answer_depends_on_is_caught(bundle_copy: Path, reseal: Damage) -> None:
    graph = onnx.load(bundle_copy / GRAPH)
    floats = [tensor for tensor in graph.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    names = [tensor.name for tensor in floats if np.prod(tensor.dims) > 1]  # the rest are constants
    assert len(names) >= 30
    missed = []
    for name in names:
        whole = (bundle_copy / GRAPH).read_bytes()
        scale_weight(bundle_copy, f"^{re.escape(name)}$")
        reseal(bundle_copy)
        missed += [name] if verify_bundle(bundle_copy, batch_sizes=(32,)).passed else []
        (bundle_copy / GRAPH).write_bytes(whole)
    # A key's bias adds the same number to every score of a row of attention: softmax does not see it.
    assert all(name.endswith("key.bias") for name in missed)


def test_renamed_and_missing_labels_fail_the_gate_and_do_not_crash(bundle_copy: Path, reseal: Damage) -> None:
    (bundle_copy / "labels.json").write_text('["negative", "glad"]')
    reseal(bundle_copy)
    assert failed(verify_bundle(bundle_copy)) == {"labels", "decisions", "metrics"}


def test_labels_swapped_in_one_file_only_are_caught_by_their_names(bundle_copy: Path, reseal: Damage) -> None:
    edit_json(bundle_copy / "config.json", lambda config: config.update(id2label={"0": "positive", "1": "negative"}))
    reseal(bundle_copy)
    assert failed(verify_bundle(bundle_copy)) == {"labels"}


def test_a_graph_that_ignores_padding_passes_alone_and_fails_in_a_batch(bundle_copy: Path, reseal: Damage) -> None:
    graph = onnx.load(bundle_copy / GRAPH)
    for node in graph.graph.node:
        node.input[:] = ["fault_ones" if name == "attention_mask" else name for name in node.input]
    graph.graph.node.insert(0, onnx.helper.make_node("Mul", ["attention_mask", "fault_zero"], ["fault_zeros"]))
    graph.graph.node.insert(1, onnx.helper.make_node("Add", ["fault_zeros", "fault_one"], ["fault_ones"]))
    graph.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), f"fault_{name}") for name, value in (("zero", 0), ("one", 1))
    )
    onnx.save(graph, bundle_copy / GRAPH)
    reseal(bundle_copy)
    found = failed(verify_bundle(bundle_copy))
    assert "outputs_batch_32" in found
    assert "outputs_batch_1" not in found


def test_a_graph_that_takes_one_row_at_a_time_fails_a_check_and_does_not_crash(
    bundle_copy: Path, reseal: Damage
) -> None:
    graph = onnx.load(bundle_copy / GRAPH)
    for given in graph.graph.input:
        given.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(graph, bundle_copy / GRAPH)
    reseal(bundle_copy)
    [(_, check)] = verify_bundle(bundle_copy).failures()
    assert check.name == "outputs_batch_32"
    assert "the graph does not run" in check.says()
    assert failed(verify_bundle(bundle_copy, batch_sizes=(32,))) == {"outputs_batch_32"}


def test_dropped_golden_rows_do_not_pass(bundle_copy: Path, reseal: Damage) -> None:
    write_golden(bundle_copy / "golden.jsonl", [])
    reseal(bundle_copy)
    assert {"tokens", "outputs_batch_1", "decisions", "metrics"} <= failed(verify_bundle(bundle_copy))


def test_golden_rows_are_those_that_the_manifest_tells_of(bundle_copy: Path, reseal: Damage) -> None:
    whole = read_golden(bundle_copy / "golden.jsonl")
    real = [number for number, row in enumerate(whole) if row.real]
    for left, said in ((whole[1:], f"{len(real) - 1} rows of {len(real)}"), (whole[1:2] + whole[1:], "other rows")):
        write_golden(bundle_copy / "golden.jsonl", left)
        reseal(bundle_copy)
        [golden] = [check for _, check in verify_bundle(bundle_copy).failures() if check.name == "golden"]
        assert said in golden.says()
    write_golden(bundle_copy / "golden.jsonl", whole)
    reseal(bundle_copy)
    edit_json(bundle_copy / "manifest.json", lambda manifest: manifest["golden"]["metrics"].update(accuracy=0.1))
    assert failed(verify_bundle(bundle_copy)) == {"golden"}


def says(verification: Verification) -> dict[str, str]:
    return {check.name: check.says() for _, check in verification.failures()}


@pytest.mark.parametrize(
    ("change", "check", "said"),
    [
        (lambda m: m["inputs"].remove("attention_mask"), "inputs", "attention_mask is not told of"),
        (lambda m: m["inputs"].append("pixel_values"), "inputs", "pixel_values is none"),
        (lambda m: m.update(metrics=[]), "golden", "accuracy, f1_macro"),
        (lambda m: m["metrics"].pop(), "golden", "f1_macro"),
        (lambda m: m["golden"]["metrics"].update(auroc=1.0), "golden", "auroc"),
        (lambda m: m["held_out"]["metrics"].pop("accuracy"), "golden", "accuracy of the held-out rows"),
        (lambda m: m["exported"].clear(), "golden", "accuracy of the export, f1_macro of the export"),
    ],
)
def test_a_manifest_that_tells_of_other_inputs_or_metrics_is_caught(
    bundle_copy: Path, reseal: Damage, change: Callable[[dict[str, Any]], None], check: str, said: str
) -> None:
    edit_json(bundle_copy / "manifest.json", change)
    reseal(bundle_copy)
    found = says(verify_bundle(bundle_copy))
    assert found[check] == said
    assert found.keys() <= {check, "metrics", "card"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda outputs_NC: outputs_NC[:-1], "119 rows of 120"),
        (lambda outputs_NC: outputs_NC * np.float32(1.01), "golden row 0 is not in it"),
        (np.zeros_like, "golden row 0 is not in it"),
    ],
)
def test_answers_on_held_out_rows_that_lack_the_golden_ones_are_caught(
    bundle_copy: Path, reseal: Damage, change: Callable[[Any], Any], said: str
) -> None:
    file = bundle_copy / "held_out.npy"
    np.save(file, change(np.load(file)))
    reseal(bundle_copy)
    found = says(verify_bundle(bundle_copy))
    assert found.keys() == {"held_out"}
    assert said in found["held_out"]


def test_answers_on_held_out_rows_are_computed_again_where_the_rows_are_given(
    tiny, bundle_copy: Path, reseal: Damage
) -> None:
    assert verify_bundle(bundle_copy, rows_of(tiny)).passed
    file = bundle_copy / "held_out.npy"
    np.save(file, np.load(file)[::-1])  # the golden ones are among them still
    reseal(bundle_copy)
    assert verify_bundle(bundle_copy).passed
    assert "outputs_rows" in says(verify_bundle(bundle_copy, rows_of(tiny)))
    np.save(file, np.load(file)[:-1])
    reseal(bundle_copy)
    found = says(verify_bundle(bundle_copy, rows_of(tiny)))
    assert found["outputs_rows"] == "outputs of shape [120, 2], the source has [119, 2]"


def test_a_file_that_never_ends_is_named_and_not_read(bundle_copy: Path) -> None:
    (bundle_copy / GRAPH).unlink()
    (bundle_copy / GRAPH).symlink_to("/dev/zero")
    [(_, check)] = verify_bundle(bundle_copy).failures()
    assert check.says() == f"no file {GRAPH}"


def test_a_missing_file_is_named_by_the_hashes_and_nothing_else_is_guessed(bundle_copy: Path) -> None:
    (bundle_copy / GRAPH).unlink()
    verification = verify_bundle(bundle_copy)
    [(_, check)] = verification.failures()
    assert check.says() == f"missing {GRAPH}"


def test_a_broken_bundle_that_was_sealed_again_is_an_error(bundle_copy: Path, reseal: Damage) -> None:
    (bundle_copy / "golden.jsonl").write_text("{\n")
    reseal(bundle_copy)
    with pytest.raises(RunError, match=r"golden\.jsonl can't be read: golden\.jsonl line 1") as caught:
        verify_bundle(bundle_copy)
    assert caught.value.code == "E601"


def rows_of(tiny, count: int | None = None) -> list[dict[str, str]]:
    labels = [("negative", "positive")[target] for target in tiny.targets]
    return [{"text": text, "label": label} for text, label in zip(tiny.texts, labels, strict=True)][:count]


def metrics_of(verification: Verification) -> Metrics:
    [found] = [check for check in verification.edges[0].checks if check.name == "metrics_rows"]
    assert isinstance(found, Metrics)
    return found


def test_the_held_out_rows_are_known_by_their_hash_and_their_metrics_checked(tiny, bundle_copy: Path) -> None:
    check = metrics_of(verify_bundle(tiny.bundle, rows_of(tiny)))
    assert (check.passed, check.note, check.other["accuracy"]) == (True, "", 0.9)
    manifest = read_manifest(bundle_copy)
    better = replace(manifest.held_out, metrics={"accuracy": 0.95, "f1_macro": 0.8})
    seal(bundle_copy, replace(manifest, held_out=better))
    check = metrics_of(verify_bundle(bundle_copy, rows_of(tiny)))
    assert (check.passed, check.fallen) == (False, ("accuracy",))


def test_the_metrics_over_the_held_out_rows_are_settled_by_what_the_trained_model_answered(
    tiny, bundle_copy: Path
) -> None:
    """Answers within the tolerance count as the trained model's; a decision far from a tie does not."""
    manifest = read_manifest(bundle_copy)
    outputs = np.load(bundle_copy / "held_out.npy")
    outputs[:6] = outputs[:6, ::-1]  # as if the trained model had decided six rows otherwise
    np.save(bundle_copy / "held_out.npy", outputs)
    seal(
        bundle_copy, replace(manifest, tolerance=100.0, batch_tolerance=100.0)
    )  # every row is a near tie: its decisions count
    loose = metrics_of(verify_bundle(bundle_copy, rows_of(tiny))).other["accuracy"]
    seal(bundle_copy, manifest)
    strict = metrics_of(verify_bundle(bundle_copy, rows_of(tiny))).other["accuracy"]
    assert strict == 0.9
    assert loose != 0.9


def test_other_rows_are_measured_for_information(tiny) -> None:
    check = metrics_of(verify_bundle(tiny.bundle, rows_of(tiny, 50)))
    assert check.passed
    assert check.other["accuracy"] == pytest.approx(0.9)
    assert "50 rows that are not the 120 held-out ones" in check.says()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "a", "label": "joy"}], '"joy" is none of the labels'),
        ([], "there are no rows"),
    ],
)
def test_rows_that_do_not_fit_are_an_error(tiny, rows: list[dict[str, str]], said: str) -> None:
    with pytest.raises(RunError, match=said) as caught:
        verify_bundle(tiny.bundle, rows)
    assert caught.value.code == "E605"


def test_a_near_tie_is_excused_and_counted(bundle_copy: Path) -> None:
    """Golden outputs that are as good as tied, and decided otherwise here: right for a few rows, not for many."""
    golden = list(read_golden(bundle_copy / "golden.jsonl"))
    manifest = read_manifest(bundle_copy)
    loose = replace(manifest, tolerance=100.0)  # now every row is a near tie
    for count, passed in ((2, True), (40, False)):
        rows = [row if number >= count else flipped(row) for number, row in enumerate(golden)]
        write_golden(bundle_copy / "golden.jsonl", rows)
        seal(bundle_copy, loose)
        verification = verify_bundle(bundle_copy)
        [check] = [check for check in verification.edges[0].checks if isinstance(check, Decisions)]
        assert (check.passed, len(check.excused), check.disagreeing) == (passed, count, ())


def flipped(row):
    return replace(
        row,
        outputs=tuple(outputs[::-1] for outputs in row.outputs),
        decision={"negative": "positive", "positive": "negative"}[row.decision],
    )
