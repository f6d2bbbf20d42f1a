# Axes: N = texts, T = tokens, C = classes

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs the onnx extra")

from compiler.files import write_text
from compiler.tasks import Example, TextClassification
from runtimes.bundles.bundle import Bundle, open_bundle
from runtimes.bundles.manifest import TogetherManifest, check_hashes, files_in, read_manifest, read_together, seal
from runtimes.errors import RunError
from runtimes.rows.batches import collate
from runtimes.rows.tokens import Encoder
from runtimes.tasks.labels import softmax
from runtimes.tasks.text_classification import name_faults


def rows_of(*texts: str) -> list[dict[str, str]]:
    return [{"text": text} for text in texts]


def examples(*texts: str) -> list[Example]:
    return [Example(row=row, target=0) for row in rows_of(*texts)]


@pytest.mark.parametrize("parts", [(), ("..",), ("moods", "../other"), ("/etc",), ("",)])
def test_parts_of_a_bundle_are_folders_in_it(tmp_path: Path, parts: tuple[str, ...]) -> None:
    seal(tmp_path, TogetherManifest(name="several", parts=parts, plan_key="0" * 64))
    with pytest.raises(RunError, match="names no parts, or one that is no folder in it"):
        read_together(tmp_path)


def test_predictions_keep_the_order_of_their_texts_whatever_the_batch(tiny) -> None:
    bundle = open_bundle(tiny.bundle)
    rows = rows_of(*tiny.texts[:30], "", "GREAT film " * 40)
    one_by_one = [bundle.predict([row])[0] for row in rows]
    for batch_size in (1, 4, 100):
        found = bundle.predict(rows, batch_size)
        assert [prediction["label"] for prediction in found] == [prediction["label"] for prediction in one_by_one]
        assert [prediction["score"] for prediction in found] == pytest.approx(
            [prediction["score"] for prediction in one_by_one], abs=1e-5
        )


def test_a_prediction_names_every_label_and_its_probabilities_sum_to_one(tiny) -> None:
    [found] = open_bundle(tiny.bundle).predict(rows_of("a good film"))
    assert tuple(found["scores"]) == ("negative", "positive")
    assert sum(found["scores"].values()) == pytest.approx(1, abs=1e-12)
    assert found["score"] == max(found["scores"].values()) == found["scores"][found["label"]]


def test_the_bundle_answers_as_the_model_that_it_is_from(tiny) -> None:
    from runtimes.pytorch.loading import load_source
    from runtimes.pytorch.noise import outputs

    bundle = open_bundle(tiny.bundle)
    rows = examples(*tiny.texts[:8])
    expected = outputs(load_source(tiny.model), collate(bundle.encode(rows), np.arange(8)), bundle.head)
    assert np.abs(bundle.outputs(rows).values - expected).max() <= bundle.manifest.tolerance


def test_a_text_is_cut_at_the_maximum_and_keeps_its_special_tokens(tiny) -> None:
    bundle = open_bundle(tiny.bundle)
    encoder, table = bundle.encoder, bundle.encode(examples("film", "film " * 500))
    short, long = (table.row(row)["input_ids"] for row in range(2))
    assert len(long) == 48
    assert (long[0], long[-1]) == (short[0], short[-1])
    assert isinstance(encoder, Encoder)
    assert (encoder.cuts("film"), encoder.cuts("film " * 500)) == (False, True)


def test_rows_are_padded_on_the_right_with_a_mask(tiny) -> None:
    table = open_bundle(tiny.bundle).encode(examples("film", "the film was good"))
    inputs = collate(table, np.arange(2)).inputs
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0], [1] * 6]
    assert inputs["input_ids"][0].tolist() == [*table.row(0)["input_ids"], 0, 0, 0]
    assert {values.dtype for values in inputs.values()} == {np.dtype(np.int64)}


def test_no_texts_give_no_predictions(tiny) -> None:
    assert open_bundle(tiny.bundle).predict([]) == []


def test_the_graph_is_loaded_on_first_use_and_once(tiny) -> None:
    bundle = open_bundle(tiny.bundle, threads=1)
    assert "session" not in vars(bundle)
    bundle.predict(rows_of("film"))
    assert bundle.graph is bundle.graph


def test_softmax_is_stable_and_uniform_where_scores_are_equal() -> None:
    found = softmax(np.array([[1e30, 1e30], [0, np.log(3)]], np.float32))
    assert found[0].tolist() == [0.5, 0.5]
    assert found[1] == pytest.approx([0.25, 0.75], abs=1e-7)  # log 3 is rounded to float32


def test_labels_of_a_configuration_are_ordered_by_number_not_by_text() -> None:
    names = {str(number): f"label {number}" for number in range(12)}
    task = TextClassification(labels=tuple(names.values()))
    assert name_faults(task, {"id2label": dict(sorted(names.items()))}) == (12, ())
    assert name_faults(task, {}) == (0, ("12 in labels.json, 0 in config.json",))


def test_a_sealed_folder_is_whole_and_every_kind_of_change_is_named(bundle_copy: Path) -> None:
    manifest = read_manifest(bundle_copy)
    assert (
        set(manifest.files)
        == set(files_in(bundle_copy))
        >= {"onnx/model.onnx", "tokenizer.json", "tokenizer_config.json"}
    )
    assert check_hashes(bundle_copy, manifest) == ()
    (bundle_copy / "labels.json").write_text("[]")
    (bundle_copy / "config.json").unlink()
    (bundle_copy / "deep").mkdir()
    (bundle_copy / "deep" / "new.txt").write_text("new")
    assert check_hashes(bundle_copy, manifest) == ("missing config.json", "extra deep/new.txt", "changed labels.json")


def test_sealing_keeps_the_facts_and_gives_the_same_bytes(bundle_copy: Path) -> None:
    before = (bundle_copy / "manifest.json").read_bytes()
    manifest = read_manifest(bundle_copy)
    assert seal(bundle_copy, manifest) == manifest
    assert (bundle_copy / "manifest.json").read_bytes() == before
    assert b"/tmp" not in before


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: write_text(folder / name, text)


def edit_manifest(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        value = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**value, **changes}))

    return edit


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove("manifest.json"), "manifest.json can't be read: No such file"),
        (write("manifest.json", "{"), "manifest.json is not JSON"),
        (write("manifest.json", "[]"), "manifest.json does not fit"),
        (write("manifest.json", '{"bundle": 1}'), "a bundle of version 1, this program reads version 4"),
        (write("manifest.json", "{}"), "expected the number 4, the version that this program reads, found no value"),
        (remove("held_out.npy"), "held_out.npy is missing"),
        (edit_manifest(surprise=1), 'has no key "surprise"'),
        (edit_manifest(max_length="long"), '/max_length is "long", expected an integer'),
        (edit_manifest(tolerance=float("inf")), "Infinity is not a number"),
        (remove("onnx/model.onnx"), "onnx/model.onnx is missing"),
        (remove("tokenizer.json"), "tokenizer.json is missing"),
        (write("tokenizer.json", "{}"), "tokenizer.json can't be read"),
        (write("labels.json", '{"0": "negative"}'), "labels.json is not a list"),
        (write("labels.json", '["same", "same"]'), "labels.json has a name twice"),
    ],
)
def test_a_broken_bundle_is_one_error_that_names_its_fault(
    bundle_copy: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(bundle_copy)
    with pytest.raises(RunError, match=said) as caught:
        open_bundle(bundle_copy)
    assert caught.value.code == "E601"


def test_a_folder_that_is_not_there_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"manifest\.json can't be read") as caught:
        open_bundle(tmp_path / "nothing")
    assert caught.value.code == "E601"


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x07" * 40])
def test_a_file_that_is_no_graph_is_one_error(bundle_copy: Path, content: bytes) -> None:
    (bundle_copy / "onnx/model.onnx").write_bytes(content)
    bundle: Bundle = open_bundle(bundle_copy)
    with pytest.raises(RunError) as caught:
        bundle.predict(rows_of("film"))
    assert caught.value.code == "E604"


def test_labels_that_are_too_few_for_the_graph_are_an_error(bundle_copy: Path) -> None:
    (bundle_copy / "labels.json").write_text('["only"]')
    with pytest.raises(RunError, match="the task has 1 outputs for a row, the graph gives 2"):
        open_bundle(bundle_copy).predict(rows_of("film"))
