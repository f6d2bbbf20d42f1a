"""Rows that name images: by paths, within themselves, or by folders; what is wrong with them is said of the recipe."""

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from compiler.diagnostics import RecipeError, render
from compiler.driver import Compiled, compile_recipe
from compiler.facts import LocalFacts
from compiler.loading import load
from compiler.placement import parse_target
from compiler.plan import Prepare

PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": 8,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def png(value: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a model, and 40 images in folders of their labels."""
    write_model(tmp_path / "model", "vit", {f"layers.{n}.attention.q_proj.weight": (4, 4) for n in range(2)})
    for number in range(40):
        path = tmp_path / "photos" / ("red", "black")[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number * 5))
    return tmp_path


def write_model(folder: Path, kind: str, shapes: dict[str, tuple[int, ...]], **config: Any) -> None:
    folder.mkdir(exist_ok=True)
    written = {"model_type": kind, "architectures": [], **config}
    (folder / "config.json").write_text(json.dumps(written), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR), encoding="utf-8")
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def compiled(project: Path, train: str = "photos", **changes: Any) -> Compiled:
    recipe = {
        "recipe": 1,
        "name": "case",
        "task": "image-classification",
        "dataset": {"train": train},
        "model": "./model",
        **changes,
    }
    (project / "r.json").write_text(json.dumps(recipe), encoding="utf-8")
    return compile_recipe(load(project / "r.json"), LocalFacts(offline=True), parse_target("cpu"))


def report(project: Path, train: str = "photos", **changes: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        compiled(project, train, **changes)
    return render(caught.value.diagnostics, "text")


def write_rows(project: Path, images: list[str]) -> str:
    names = ("red", "black")
    rows = [json.dumps({"image": image, "label": names[n % 2]}) for n, image in enumerate(images)]
    (project / "data").mkdir(exist_ok=True)
    (project / "data" / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return "data/rows.jsonl"


def images(project: Path) -> list[str]:
    return [f"../photos/{('red', 'black')[number % 2]}/{number:02}.png" for number in range(40)]


def test_a_folder_is_a_table_of_its_images_and_their_labels(project: Path) -> None:
    found = compiled(project)
    assert found.data.labels == ("black", "red")
    assert sum(split.num_rows for split in found.resolved.splits) == 40
    step = found.plan.step("prepare")
    assert isinstance(step, Prepare)
    [file] = step.splits[0].files
    assert (file.path, file.format, len(file.images), step.max_length) == ("photos", "folder", 64, 1)
    assert sorted(step.tokenizer.files) == ["config.json", "preprocessor_config.json"]


def test_the_plan_knows_what_is_in_the_images(project: Path) -> None:
    before = compiled(project, write_rows(project, images(project))).plan.keys()["prepare"]
    (project / "photos" / "red" / "00.png").write_bytes(png(255))
    assert compiled(project, "data/rows.jsonl").plan.keys()["prepare"] != before


def test_images_may_stand_within_rows(project: Path) -> None:
    uris = [f"data:image/png;base64,{base64.b64encode(png(number)).decode()}" for number in range(40)]
    assert compiled(project, write_rows(project, uris)).data.num_rows("train") == 32


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no image", '"../photos/red/04.png" is no image that can be read: its format is not known'),
        (png(1)[:-24], '"../photos/red/04.png" is a broken image'),
        (None, '"../photos/red/04.png" can\'t be read: no such file or directory'),
    ],
)
def test_a_broken_image_is_one_finding_with_its_name(project: Path, content: bytes | None, says: str) -> None:
    path = project / "photos" / "red" / "04.png"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    found = report(project, write_rows(project, images(project)))
    assert found.count("error[") == 1
    assert "rows.jsonl:5:1: error[R313]" in found
    assert says in found


def test_an_image_may_not_lie_outside_of_the_project(project: Path) -> None:
    (project / "inside").mkdir()
    for name in ("model", "photos"):
        (project / name).rename(project / "inside" / name)
    (project / "inside" / ".git").mkdir()
    (project / "secret.png").write_bytes(png(0))
    inside = project / "inside"
    found = report(inside, write_rows(inside, ["../../secret.png", *images(inside)[1:]]))
    assert "is outside of the project" in found
    (inside / "photos" / "red" / "link.png").symlink_to(project / "secret.png")
    assert "is outside of the project" in report(inside)


def test_an_image_in_no_folder_of_a_label_is_named(project: Path) -> None:
    (project / "photos" / "loose.png").write_bytes(png(0))
    assert 'the image "loose.png" is in no folder of its label' in report(project)


def test_an_image_that_stands_twice_is_said(project: Path) -> None:
    (project / "photos" / "red" / "99.png").write_bytes(png(0))
    [finding] = [one for one in compiled(project).findings if one.code == "R311"]
    assert "the image of an earlier one" in finding.message or "in train as well" in finding.message


def test_a_folder_of_images_is_no_file_of_texts(project: Path) -> None:
    assert '"photos" is a folder' in report(project, task="text-classification")


def test_tokens_are_not_counted(project: Path) -> None:
    assert 'nothing reads "max_length"' in report(project, training={"max_length": 12})


def test_another_shape_than_the_processors_is_refused(project: Path) -> None:
    found = report(project, task={"type": "image-classification", "shape": [3, 9, 9]})
    assert "/task/shape is 3 by 9 by 9, and preprocessor_config.json makes 3 by 8 by 8" in found


def test_an_unknown_image_processor_is_named(project: Path) -> None:
    processor = {**PROCESSOR, "image_processor_type": "SamImageProcessor"}
    (project / "model" / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    assert "the image processor SamImageProcessor is not known" in report(project)


def test_a_model_without_an_image_processor_is_refused(project: Path) -> None:
    (project / "model" / "preprocessor_config.json").unlink()
    found = report(project)
    assert "error[R407] /model/id: the model has no preprocessor_config.json, which images are read with" in found


def test_a_model_of_texts_sees_nothing(project: Path) -> None:
    write_model(project / "model", "bert", {"encoder.layer.0.attention.self.query.weight": (4, 4)})
    assert "the model is an encoder (bert), and the task tunes vision models" in report(project)


def test_a_model_of_convolutions_has_nothing_for_low_rank_updates(project: Path) -> None:
    shapes = {f"encoder.stages.{n}.layers.0.layer.0.convolution.weight": (4, 4, 3, 3) for n in range(3)}
    write_model(project / "model", "resnet", shapes, depths=[3, 4, 6])
    found = report(project, method="lora")
    assert "error[R205] /method: the model has no linear modules (resnet)" in found


def test_layers_of_a_model_of_convolutions_are_its_stages(project: Path) -> None:
    shapes = {f"encoder.stages.{n}.layers.5.layer.0.convolution.weight": (4, 4, 3, 3) for n in range(3)}
    write_model(project / "model", "resnet", shapes, depths=[3, 4, 6])
    assert compiled(project, method={"type": "freeze", "layers": 2}).model.num_layers == 3
    assert "freezes 3 of 3 layers" in report(project, method={"type": "freeze", "layers": 3})
