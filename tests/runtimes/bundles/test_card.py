"""The model card of a bundle: the hub's library reads it back, its receiver writes it again, and its snippets run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData

from compiler import __version__
from compiler.methods import Full, LoRA, Scratch
from compiler.origin import Licence, Origin
from compiler.tasks import TASKS, TextClassification, TextRegression
from runtimes import tasks
from runtimes.bundles.bundle import open_bundle
from runtimes.bundles.card import body, compare_card
from runtimes.bundles.card_metadata import card
from runtimes.bundles.manifest import Manifest, read_manifest, seal
from runtimes.bundles.package import Parts, package
from runtimes.bundles.provenance import DataUsed, Evaluated, Provenance, Training
from runtimes.verification.receiver import verify_bundle

TRAINING = Training(
    method=LoRA(rank=4, alpha=8),
    rows=1000,
    steps=63,
    batch_size=16,
    learning_rate=3e-4,
    precision="fp32",
    seed=0,
    trained=1234,
    total=56789,
)
PROVENANCE = Provenance(
    origin=Origin(
        description="Tells good films from bad.",
        base_model="org/base",
        on_hub=True,
        licence=Licence(id="apache-2.0"),
        datasets=("org/films",),
    ),
    base_files={"model.safetensors": "a" * 64},
    data=(DataUsed(split="train", rows=1000, files=("b" * 64,)),),
    trainings=(TRAINING,),
    weights={"adapter/adapter_model.safetensors": "c" * 64},
    evaluated=Evaluated(split="test", rows=120, metrics={"accuracy": 0.9, "f1_macro": 0.89, "loss": 0.31}),
)


@pytest.fixture(scope="module")
def parts(tiny) -> Parts:
    return Parts(
        written=tiny.onnx_file.parent.parent,
        graphs=("onnx/model.onnx",),
        model_folder=tiny.model,
        tokenizer_folder=tiny.model,
        verify_folder=tiny.verified,
        key="1" * 64,
        versions={"onnxruntime": "1", "numpy": "2"},
        baseline={"majority": {"accuracy": 0.5, "f1_macro": 0.33}},
        provenance=PROVENANCE,
    )


@pytest.fixture(scope="module")
def bundle(tiny, parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "tiny-sentiment"
    assert package(tiny.package_step, parts, folder).passed
    return folder


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return read_manifest(bundle)


def read_back(manifests: Sequence[Manifest]) -> ModelCard:
    return ModelCard(card("name", manifests))


def data_of(found: ModelCard) -> ModelCardData:
    assert isinstance(found.data, ModelCardData)
    return found.data


def changed(manifest: Manifest, **changes: Any) -> Manifest:
    """The manifest with another provenance."""
    return replace(manifest, provenance=replace(manifest.provenance, **changes))


# --- metadata


def test_the_hub_s_library_reads_the_metadata_back(bundle: Path, manifest: Manifest) -> None:
    data = data_of(ModelCard.load(bundle / "README.md"))
    assert data.license == "apache-2.0"
    assert (data["base_model"], data["base_model_relation"]) == ("org/base", "finetune")
    assert (data.pipeline_tag, data.library_name) == ("text-classification", "transformers.js")
    assert (data.tags, data.datasets) == (["onnx", "recipec"], ["org/films"])
    assert data.metrics == ["accuracy", "f1"]
    assert data.model_name == "tiny-sentiment"
    found = {result.metric_name: (result.metric_type, result.metric_value) for result in data.eval_results or ()}
    assert found == {
        "accuracy": ("accuracy", manifest.exported["accuracy"]),
        "f1_macro": ("f1", manifest.exported["f1_macro"]),
    }
    assert {(r.task_type, r.dataset_type, r.dataset_split) for r in data.eval_results or ()} == {
        ("text-classification", "org/films", "test")
    }


def test_a_card_survives_the_hub_s_own_writer(bundle: Path) -> None:
    text = (bundle / "README.md").read_text(encoding="utf-8")
    assert str(ModelCard(text)) == text


def test_a_licence_of_its_own_name_keeps_name_and_page(manifest: Manifest) -> None:
    licence = Licence(id="other", name="films only", link="https://example.org/licence")
    found = read_back([changed(manifest, origin=replace(PROVENANCE.origin, licence=licence))])
    assert (data_of(found).license, data_of(found).license_name) == ("other", "films only")
    assert data_of(found).license_link == "https://example.org/licence"
    assert "licence [films only](https://example.org/licence)" in found.text


def test_an_unknown_licence_is_said_and_not_guessed(manifest: Manifest) -> None:
    found = read_back([changed(manifest, origin=replace(PROVENANCE.origin, licence=Licence()))])
    assert data_of(found).license == "unknown"
    assert "The base model's files name no licence" in found.text


def test_a_folder_is_no_model_of_the_hub(manifest: Manifest) -> None:
    found = read_back([changed(manifest, origin=replace(PROVENANCE.origin, on_hub=False, base_model="base"))])
    assert data_of(found).base_model is None
    assert "Tuned from the folder base" in found.text


def test_a_model_from_scratch_has_no_base(manifest: Manifest) -> None:
    found = read_back([changed(manifest, reads_base=False, trainings=(replace(TRAINING, method=Scratch()),))])
    assert data_of(found).base_model is None
    assert "Trained from scratch" in found.text


def test_a_model_that_was_only_converted_is_none_that_was_tuned(manifest: Manifest) -> None:
    found = read_back([changed(manifest, trainings=())])
    assert found.data["base_model_relation"] == "quantized"
    assert "- Converted from [org/base]" in found.text
    tuned = read_back([changed(manifest, trainings=(), origin=replace(PROVENANCE.origin, tuned=True))])
    assert tuned.data["base_model_relation"] == "finetune"
    assert "- Tuned from [org/base]" in tuned.text


def test_several_tasks_share_a_card(manifest: Manifest) -> None:
    valence = replace(manifest, part="valence", task=TextRegression(mean=0.0, deviation=1.0), exported={"r2": 0.5})
    mood = replace(manifest, part="mood")
    found = read_back([mood, valence])
    assert data_of(found).pipeline_tag == "text-classification"
    assert {result.task_name for result in data_of(found).eval_results or ()} == {"mood", "valence"}
    assert {result.metric_type for result in data_of(found).eval_results or ()} == {"accuracy", "f1", "r_squared"}
    assert "- **valence**: Gives a text a number." in found.text


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_says_what_the_hub_calls_it(name: str) -> None:
    known = {
        *("fill-mask", "image-classification", "question-answering", "summarization", "text-classification"),
        *("text-generation", "token-classification", "translation"),
    }
    task: Any = TASKS[name]
    task = replace(task, labels=("a", "b")) if hasattr(task, "labels") else task
    task = replace(task, no_answer=True) if hasattr(task, "no_answer") else task
    found = tasks.module_of(task).card(task)
    assert found.pipeline_tag in known
    assert found.says.endswith(".")


def test_labels_of_any_spelling_stay_in_one_line() -> None:
    task = TextClassification(labels=("a\n# b", "`c`", *(f"l{number}" for number in range(20))))
    says = tasks.module_of(task).card(task).says
    assert "`a # b`, `'c'`, `l0`" in says
    assert says.endswith("`l9` and 10 more.")


# --- text


def test_the_text_says_what_was_done_and_what_it_came_to(bundle: Path, manifest: Manifest) -> None:
    text = ModelCard.load(bundle / "README.md").text
    assert "Tells good films from bad." in text
    assert "Gives a text one of the labels `negative`, `positive`." in text
    accuracy = f"{manifest.exported['accuracy']:.4f}"
    assert f"| accuracy | 0.5000 | 0.9000 | {accuracy} |" in text
    assert "| loss (less is better) |  | 0.3100 |  |" in text
    assert "- Tuned from [org/base](https://huggingface.co/org/base), licence apache-2.0." in text
    assert "`lora` (rank 4, alpha 8" in text
    assert "63 steps of 16 over 1,000 rows, learning rate 0.0003, fp32, seed 0; 1,234 of 56,789 parameters." in text
    assert "- trained -> onnx: outputs, " in text
    assert "Rows are cut at 48 tokens." in text


def test_the_python_of_the_card_answers_as_the_bundle_does(bundle: Path) -> None:
    text = ModelCard.load(bundle / "README.md").text
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = code.replace('"..."', '"a GOOD film"')
    done = subprocess.run([sys.executable, "-c", code], cwd=bundle, capture_output=True, text=True, check=True)
    first, second = map(float, re.findall(r"-?\d+\.\d+(?:e-?\d+)?", done.stdout))
    [answer] = open_bundle(bundle, threads=1).predict([{"text": "a GOOD film"}])
    assert ("positive" if second > first else "negative") == answer["label"]


def test_no_code_is_shown_that_could_not_run(manifest: Manifest) -> None:
    pair = replace(manifest, columns={**manifest.columns, "text_pair": "other"})
    assert "```python" not in body("name", [pair])
    assert "recipe predict . --input rows.jsonl" in body("name", [pair])
    assert "```js" not in body("name", [replace(manifest, task=TextRegression(mean=0.0, deviation=1.0))])


def test_a_rounded_bundle_says_so(manifest: Manifest) -> None:
    text = body("name", [replace(manifest, precision="int8-static", max_metric_drop=0.01)])
    assert "The weights are rounded to int8-static: metrics may fall by 0.01." in text
    assert '"onnx/model_int8.onnx"' in text
    assert 'dtype: "int8"' in text


# --- the receiver's side


def test_the_same_manifest_gives_the_same_card(bundle: Path, manifest: Manifest) -> None:
    assert card(manifest.name, [manifest]) == (bundle / "README.md").read_text(encoding="utf-8")
    assert compare_card(bundle, manifest.name, [manifest]).passed


@pytest.mark.parametrize("damage", ["| 0.5000 | 0.9000 |", "licence apache-2.0", "a text one of"])
def test_a_card_that_was_embellished_and_sealed_again_is_caught(
    parts: Parts, tiny, damage: str, tmp_path: Path
) -> None:
    folder = tmp_path / "embellished"
    package(tiny.package_step, parts, folder)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert damage in text
    (folder / "README.md").write_text(text.replace(damage, "much better"), encoding="utf-8")
    seal(folder, read_manifest(folder))
    verification = verify_bundle(folder, threads=1)
    assert verification.first_failure == "manifest -> bundle: card"


def test_a_card_that_another_version_worded_is_not_compared(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (folder / "README.md").write_text("as it was worded before", encoding="utf-8")
    manifest = read_manifest(folder)
    seal(folder, replace(manifest, versions={**manifest.versions, "recipec": "0.0.1"}))
    assert "card" not in {check.name for edge in verify_bundle(folder).edges for check in edge.checks}
    seal(folder, replace(manifest, versions={**manifest.versions, "recipec": __version__}))
    assert [check.name for _, check in verify_bundle(folder).failures()] == ["card"]


def test_what_was_told_of_the_model_is_in_the_manifest(manifest: Manifest) -> None:
    assert manifest.provenance == PROVENANCE  # 8 is 8.0


def test_a_full_training_needs_no_options(manifest: Manifest) -> None:
    assert "- `full`: 63 steps" in body("name", [changed(manifest, trainings=(replace(TRAINING, method=Full()),))])
