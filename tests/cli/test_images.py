"""A task whose model reads no tokens, from its recipe through the gate to its bundle: images instead of texts."""

import contextlib
import itertools
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from compiler.data.images import inline
from compiler.files import write_text
from compiler.plan import Plan, Train
from compiler.tasks import ImageClassification
from runtimes.backends import backend
from runtimes.bundles.bundle import open_bundle
from runtimes.errors import Interrupted
from runtimes.loop import train
from runtimes.rows.batches import as_it_is, collate
from runtimes.rows.features import Features
from runtimes.rows.images import PIXELS
from runtimes.tasks import image_classification
from tests.cli.conftest import invoke
from tests.runtimes.tiny import placed
from tests.serving import serving
from tests.tiny import save_image_processor

pytestmark = pytest.mark.slow

SIDE = 8
RECIPE = {
    "recipe": 1,
    "name": "tiny",
    "task": {"type": "image-classification", "augmentation": {"crop": 1, "brightness": 0.1}},
    "dataset": {"train": "photos", "validation": {"fraction": 0.1}, "test": {"fraction": 0.2}},
    "model": "./model",
    "training": {"epochs": 3, "learning_rate": 3e-3, "batch_size": 16},
    "export": ["onnx"],
}


def write_project(folder: Path, num_rows: int = 200) -> Path:
    """The folder, with model/, photos/ in folders by their label, and recipe.json in it."""
    folder.mkdir(parents=True)
    save_vit(folder / "model")
    random = np.random.default_rng(0)
    for number in range(num_rows):
        label = ("dark", "light")[number % 2]
        size = (int(random.integers(6, 20)), int(random.integers(6, 20)), 3)
        pixels = random.integers(0, 160, size).astype(np.uint8) + np.uint8(90 * (number % 2))
        path = folder / "photos" / label / f"{number:03}.{('png', 'jpg')[number % 4 == 0]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (folder / "photos" / "notes.txt").write_text("no image", encoding="utf-8")
    write_text(folder / "recipe.json", json.dumps(RECIPE))
    return folder


def save_vit(folder: Path) -> None:
    """A random ViT without a head, with its image processor."""
    import torch
    from transformers import ViTConfig, ViTModel

    from runtimes.pytorch.quiet import quiet

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=SIDE,
        patch_size=4,
        initializer_range=0.1,
    )
    with quiet():
        ViTModel(config).save_pretrained(folder)
    save_image_processor(folder, config, SIDE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="needs the torch extra")
    pytest.importorskip("onnxscript", reason="needs the onnx extra")
    folder = write_project(tmp_path_factory.mktemp("images") / "project")
    done = invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu")
    assert done.exit_code == 0, done.output
    assert "tokens" not in done.output
    assert "rows/s" in done.output
    assert "--image '...'" in done.output
    return folder


def bundle(folder: Path) -> Path:
    return folder / "runs" / "tiny" / "bundle"


def photos(folder: Path) -> list[Path]:
    return sorted((folder / "photos").rglob("*.[pj][np]g"))


def test_it_learns_what_is_light(folder: Path) -> None:
    evaluation = json.loads((folder / "runs" / "tiny" / "report.json").read_text())["evaluation"]
    assert evaluation["metrics"]["accuracy"] > 0.9
    assert evaluation["baseline"]["majority"]["accuracy"] == pytest.approx(0.5)


def test_the_gate_compares_probes_of_other_sizes_and_colours(folder: Path) -> None:
    golden = [json.loads(line) for line in (bundle(folder) / "golden.jsonl").read_text().splitlines()]
    assert {"mirrored", "inverted", "grey", "larger and wider", "black"} <= {row["probe"] for row in golden}
    assert all(row["row"]["image"].startswith("data:image/png;base64,") for row in golden)
    report = json.loads((folder / "runs" / "tiny" / "report.json").read_text())
    assert report["gate_passed"] is True


def test_a_receiver_verifies_the_bundle_without_the_images(folder: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(bundle(folder), tmp_path / "bundle")
    done = invoke("verify", alone, "--json")
    assert done.exit_code == 0, done.output
    [edge] = json.loads(done.output)["edges"]
    checks = {check["name"]: check for check in edge["checks"]}
    assert checks["pixels"]["compared"] > 50


def test_a_bundle_that_scales_images_otherwise_is_caught(folder: Path, tmp_path: Path) -> None:
    from runtimes.bundles.manifest import read_manifest, seal

    other = shutil.copytree(bundle(folder), tmp_path / "bundle")
    file = other / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.4] * 3}))
    seal(other, read_manifest(other))
    assert invoke("verify", other).exit_code == 3
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.5] * 3, "resample": 0}))
    seal(other, read_manifest(other))
    assert "FAIL  manifest -> bundle: pixels" in invoke("verify", other).output


def test_the_held_out_rows_are_known_by_their_pixels_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    prepared = next((folder / "runs" / ".steps").glob("*/test/rows.jsonl"))
    moved = shutil.copytree(prepared.parent / "images", tmp_path / "elsewhere")
    rows = [json.loads(line) for line in prepared.read_text().splitlines()]
    lines = [json.dumps({**row, "image": f"{moved.name}/{Path(row['image']).name}"}) for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    done = invoke("verify", bundle(folder), "--data", tmp_path / "rows.jsonl", "--json")
    assert done.exit_code == 0, done.output
    [edge] = json.loads(done.output)["edges"]
    assert edge["checks"][-1]["note"] == ""
    assert edge["checks"][-1]["source"] == pytest.approx(edge["checks"][-1]["other"])


def test_predictions_are_those_of_transformers_pipeline_on_the_saved_folder(folder: Path) -> None:
    from transformers import pipeline

    from runtimes.pytorch.quiet import quiet

    chosen = photos(folder)[:6]
    with quiet():
        answers = pipeline("image-classification", model=str(folder / "runs" / "tiny" / "model"), device="cpu")(
            [str(path) for path in chosen]
        )
    ours = open_bundle(bundle(folder)).predict([{"image": str(path)} for path in chosen])
    for expected, found in zip(answers, ours, strict=True):
        scores = {each["label"]: each["score"] for each in expected}
        assert found["scores"] == pytest.approx(scores, abs=1e-5)
        assert found["label"] == expected[0]["label"]


def test_predict_takes_files_rows_and_folders(folder: Path, tmp_path: Path) -> None:
    one, other = photos(folder)[0], photos(folder)[-1]
    done = invoke("predict", folder / "runs" / "tiny", "--image", one, "--image", other)
    assert [line.split()[0] for line in done.output.splitlines()] == ["dark", "light"]
    rows = tmp_path / "rows.jsonl"
    shutil.copy(one, tmp_path / "near.jpg")
    rows.write_text(json.dumps({"image": "near.jpg", "id": 7}) + "\n" + json.dumps({"image": str(other)}))
    found = [json.loads(line) for line in invoke("predict", bundle(folder), "--input", rows).output.splitlines()]
    assert [row["prediction"]["label"] for row in found] == ["dark", "light"]
    assert (found[0]["image"], found[0]["id"]) == ("near.jpg", 7)
    shutil.copy(other, tmp_path / "far.png")
    found = [json.loads(line) for line in invoke("predict", bundle(folder), "--input", tmp_path).output.splitlines()]
    assert {row["image"]: row["prediction"]["label"] for row in found} == {"near.jpg": "dark", "far.png": "light"}


def test_predict_says_what_the_task_reads(folder: Path, tmp_path: Path) -> None:
    done = invoke("predict", bundle(folder), "--text", "a photo")
    assert (done.exit_code, "give them with --image" in done.output) == (2, True)
    done = invoke("predict", bundle(folder), "--image", tmp_path / "missing.png")
    assert done.exit_code == 4
    assert "missing.png\" can't be read: no such file" in done.output


def test_a_server_takes_images_within_rows_and_reads_no_file(folder: Path) -> None:
    photo = photos(folder)[0]
    within = inline(photo.read_bytes(), photo.suffix[1:])
    expected = json.loads(invoke("predict", bundle(folder), "--image", photo, "--json").output)["prediction"]
    with serving(bundle(folder)) as running:
        status, value = running.predict({"rows": [{"image": within}]})
        assert (status, value["answers"][0]["prediction"]["label"]) == (200, expected["label"])
        for image in (str(photo), f"file://{photo}", "../" * 9 + str(photo)):
            status, value = running.predict({"rows": [{"image": within}, {"image": image}]})
            assert (status, value["error"]["code"], value["error"]["row"]) == (422, "E622", 1)
            assert "no file is read here" in value["error"]["message"]
        for image in ("data:image/png;base64,AAAA", "data:image/png;base64,???", "data:image/png,AAAA"):
            status, value = running.predict({"rows": [{"image": within}, {"image": image}]})
            assert (status, value["error"]["code"], value["error"]["row"]) == (422, "E412", 1)
        status, value = running.predict({"text": "a"})
        assert (status, value["error"]["message"]) == (422, 'a text alone is no row here: rows have "image"')


def test_only_held_out_images_are_copied(folder: Path) -> None:
    [prepared] = (path.parent for path in (folder / "runs" / ".steps").glob("*/data.json"))
    rows = {split: (prepared / split / "rows.jsonl").read_text().splitlines() for split in ("train", "test")}
    assert sum(path.stat().st_size for path in (prepared / "train").rglob("*.[pj][np]g")) == 0
    named = [json.loads(line)["image"] for line in rows["train"]]
    assert {*named} <= {path.name for path in photos(folder)}
    assert all((prepared / "test" / json.loads(line)["image"]).is_file() for line in rows["test"])
    assert len(list((prepared / "test" / "images").iterdir())) == len(rows["test"])


def test_an_image_that_changes_after_the_plan_was_made_stops_the_run(folder: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    for name in ("model", "photos"):
        shutil.copytree(folder / name, project / name)
    shutil.copy(folder / "recipe.json", project / "recipe.json")
    assert invoke("plan", project / "recipe.json", "-o", project / "plan.json", "--target", "cpu").exit_code == 0
    Image.new("RGB", (9, 9)).save(project / "photos" / "dark" / "002.png")
    done = invoke("run", project / "plan.json", "--runs", tmp_path / "runs")
    assert "error[R409]: an image of photos has changed since the plan was made" in done.output


def test_a_plan_with_an_image_less_is_another_one(folder: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    for name in ("model", "photos"):
        shutil.copytree(folder / name, project / name)
    shutil.copy(folder / "recipe.json", project / "recipe.json")
    before = invoke("plan", project / "recipe.json", "--target", "cpu", "--json").output
    assert before == invoke("plan", project / "recipe.json", "--target", "cpu", "--json").output
    (project / "photos" / "dark" / "002.png").unlink()
    assert before != invoke("plan", project / "recipe.json", "--target", "cpu", "--json").output


@pytest.mark.parametrize("engine", ["pytorch", "mlx"])
def test_a_resumed_training_varies_its_images_as_if_it_had_not_stopped(folder: Path, tmp_path: Path, engine) -> None:
    if engine == "mlx":
        pytest.importorskip("mlx.core", reason="needs the mlx extra")
    step, rows = planned(folder)

    def trained(name: str, stops_after: int | None) -> dict[str, np.ndarray]:
        """The weights after six steps over two epochs; the losses are in its reports."""
        asked = itertools.count(1)
        loaded = backend(engine).load_engine(step, folder / "model", tmp_path / "init.safetensors", placed(engine))
        reports = train(
            loaded,
            rows,
            None,
            step,
            folder=tmp_path / name,
            micro_batch_size=16,
            stop=lambda: next(asked) == stops_after,
        )
        with contextlib.suppress(Interrupted):
            list(reports)
        loaded.save_state(tmp_path / name)
        return load_file(tmp_path / name / "state.safetensors")

    whole = trained("whole", None)
    stopped = trained("parts", 4)
    assert any(not np.array_equal(stopped[name], value) for name, value in whole.items())
    resumed = trained("parts", None)
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(resumed[name], value) for name, value in whole.items())


def test_augmentation_changes_what_is_learnt_from_and_not_what_is_measured(folder: Path) -> None:
    step, rows = planned(folder)
    assert isinstance(step.task, ImageClassification)
    places = np.arange(16)
    vary = partial(image_classification.vary, step.task, seed=step.seed, epoch=0)
    stored, varied = (collate(rows, places, vary=each).inputs[PIXELS] for each in (as_it_is, vary))
    assert (stored != varied).any(axis=(1, 2, 3)).all()
    assert np.array_equal(collate(rows, places).inputs[PIXELS], stored)


def planned(folder: Path) -> tuple[Train, Features]:
    """The train step, cut to six steps of two epochs, and its rows."""
    plan = Plan.from_json(json.loads((folder / "runs" / "tiny" / "plan.json").read_text()))
    step = plan.step("train")
    assert isinstance(step, Train)
    rows = Features(folder / "runs" / ".steps" / plan.keys()["prepare"] / "train")
    size = -(-len(rows) // 3)
    return replace(step, num_steps=6, batch_size=size, selection=None, evaluate_every=0, checkpoint_every=50), rows
