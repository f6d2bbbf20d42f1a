"""A manifest that somebody changed: whatever it says, opening the bundle is one error that names the place."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="needs the onnx extra")

from compiler.tasks import ContinuedPretraining, ImageClassification, QuestionAnswering
from compiler.tasks.masking import Masking
from runtimes import tasks
from runtimes.bundles.bundle import open_bundle
from runtimes.bundles.manifest import MANIFEST, Manifest, read_manifest
from runtimes.bundles.manifest_checks import faults_of
from runtimes.errors import RunError

Change = Callable[[dict[str, Any]], object]
DEEP = "[" * 100_000


def refused(folder: Path) -> str:
    with pytest.raises(RunError) as caught:
        open_bundle(folder)
    assert caught.value.code == "E601"
    return caught.value.message.removeprefix(f"{folder}: ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["task"].pop("labels"), '/task/labels is "auto": what was found for it is missing'),
        (lambda m: m["task"].update(threshold=-1), "/task/threshold is -1.0, expected a number above 0, below 1"),
        (lambda m: m.update(max_length=-1), "/max_length is -1, expected a number at least 1, at most 2147483647"),
        (lambda m: m.update(max_length=10**30), "/max_length is 1000000000000000000000000000000, expected a number"),
        (lambda m: m["held_out"].update(rows=10**30), "expected one of at most 9007199254740992 in size"),
        (lambda m: m.update(columns={}), '/columns names none for "text"'),
        (lambda m: m.update(generation={}), "/generation is there: the task writes none"),
        (lambda m: m.update(precision="bf16"), "/precision is bf16, in which no graph is held"),
        (lambda m: m.update(precision="8 bits"), "/precision is 8 bits, in which no graph is held"),
        (lambda m: m.update(precision="fp8"), '/precision is "fp8", expected "fp32" or'),
        (lambda m: m.update(bundle=5), "a bundle of version 5, this program reads version 4"),
        (lambda m: m.update(bundle="4"), "/bundle: expected the number 4, the version that this program reads, found"),
        (lambda m: m.update(bundle="4"), 'found the text "4"'),
        (lambda m: m.update(bundle=4.0), "found the number 4.0"),
        (lambda m: m.update(bundle=True), "found true"),
        (lambda m: m.pop("tolerance"), 'manifest.json does not fit: it needs "tolerance"'),
        (
            lambda m: m.update(metrics=[{"type": "mse"}]),
            '/metrics/0 is "mse", which is not for the task: it has accuracy',
        ),
    ],
)
def test_what_does_not_fit_is_named_by_its_place(bundle_copy: Path, change: Change, said: str) -> None:
    value = json.loads((bundle_copy / MANIFEST).read_text())
    change(value)
    (bundle_copy / MANIFEST).write_text(json.dumps(value))
    assert said in refused(bundle_copy)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"max_excused": 0.02', '"max_excused": 1e999', "1e999 is more than a number of 64 bits can be"),
        ('"max_excused": 0.02', '"max_excused": Infinity', "Infinity is not a number in JSON"),
        ('"max_excused": 0.02', f'"max_excused": {DEEP}', "manifest.json is not JSON: it is nested too deeply"),
        ('"name"', '"name', "manifest.json is not JSON: "),
    ],
)
def test_what_is_no_json_says_so(bundle_copy: Path, old: str, new: str, said: str) -> None:
    text = (bundle_copy / MANIFEST).read_text()
    assert old in text
    (bundle_copy / MANIFEST).write_text(text.replace(old, new))
    assert said in refused(bundle_copy)


def test_answers_on_held_out_rows_that_are_cut_off_are_said(bundle_copy: Path) -> None:
    whole = (bundle_copy / "held_out.npy").read_bytes()
    for content in (b"", whole[:40], whole[:-3]):
        (bundle_copy / "held_out.npy").write_bytes(content)
        with pytest.raises(RunError, match=r"held_out\.npy can't be read"):
            open_bundle(bundle_copy).held_out()


def test_golden_rows_that_are_nested_too_deeply_are_said(bundle_copy: Path) -> None:
    (bundle_copy / "golden.jsonl").write_text(DEEP)
    with pytest.raises(RunError, match=r"golden\.jsonl can't be read: .*nested too deeply"):
        open_bundle(bundle_copy).golden()


def manifest_of(tiny, task: Any, columns: dict[str, str]) -> Manifest:
    return replace(read_manifest(tiny.bundle), task=task, columns=columns, metrics=())


def test_every_role_that_is_read_needs_a_column(tiny) -> None:
    task = QuestionAnswering(no_answer=False)
    assert [*faults_of(manifest_of(tiny, task, {"context": "c"}))] == ['/columns names none for "question"']
    assert [*faults_of(manifest_of(tiny, task, {"context": "c", "question": "q"}))] == []  # stride stays open


def test_what_is_open_inside_a_part_of_the_task_is_named(tiny) -> None:
    task = ContinuedPretraining(objective="masked", end="", masking=Masking(mask_id=4, special_ids=(0,)))
    assert [*faults_of(manifest_of(tiny, task, {"text": "t"}))] == [
        '/task/masking/vocab_size is "auto": what was found for it is missing'
    ]


def test_a_task_that_leaves_no_token_to_be_drawn_is_refused(tiny) -> None:
    task = ContinuedPretraining(objective="masked", masking=Masking(mask_id=1, special_ids=(0, 1), vocab_size=2))
    with pytest.raises(ValueError, match="none of 2 tokens is left to be drawn"):
        tasks.module_of(task).from_bundle(task, lambda name: {})


def test_images_of_another_shape_than_the_processor_makes_are_refused() -> None:
    task = ImageClassification(labels=("a", "b"), shape=(1, 8, 8))
    config = {"image_processor_type": "ViTImageProcessor", "size": 8, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    files = {"preprocessor_config.json": config, "labels.json": ["a", "b"]}
    with pytest.raises(ValueError, match="/task/shape is 1 by 8 by 8, and preprocessor_config"):
        tasks.module_of(task).from_bundle(task, files.__getitem__)
    whole = replace(task, shape=(3, 8, 8))
    assert tasks.module_of(whole).from_bundle(whole, files.__getitem__) == whole
