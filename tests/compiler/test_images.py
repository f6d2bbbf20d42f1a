"""What a preprocessor_config.json says, and what of it is not known."""

import json
from pathlib import Path
from typing import Any

import pytest

from compiler.images import processor_of, read_processor

VIT: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 28, "width": 32},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.5, 0.25],
}


def test_pixels_are_scaled_by_means_and_deviations_of_values_from_0_to_255() -> None:
    found = processor_of(VIT)
    assert found.shape == (3, 28, 32)
    assert found.center == pytest.approx((127.5, 102.0, 76.5))
    assert found.spread == pytest.approx((127.5, 127.5, 63.75))


@pytest.mark.parametrize(
    ("changes", "edge", "size", "crop"),
    [
        ({"size": 28}, None, (28, 28), None),
        ({"feature_extractor_type": "ViTFeatureExtractor", "image_processor_type": None}, None, (28, 32), None),
        ({"image_processor_type": "DeiTImageProcessorFast", "crop_size": 20}, None, (28, 32), (20, 20)),
        ({"image_processor_type": "CLIPImageProcessor", "size": 40, "crop_size": 30}, 40, None, (30, 30)),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}}, 256, None, (224, 224)),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}}, None, (384, 384), None),
        ({"do_resize": False, "do_center_crop": True, "crop_size": [24, 25]}, None, None, (24, 25)),
    ],
)
def test_the_kinds_of_processors_resize_and_crop_as_transformers_has_it(changes, edge, size, crop) -> None:
    found = processor_of({**VIT, **changes})
    assert (found.edge, found.size, found.crop) == (edge, size, crop)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_processor_type": "SamImageProcessor"}, "the image processor SamImageProcessor is not known"),
        ({"do_pad": True}, "images are padded"),
        ({"image_processor_type": "SiglipImageProcessor", "do_resize": False}, "shapes of their own"),
        ({"size": {"longest_edge": 3}}, "size is"),
        ({"size": {"height": 0, "width": 3}}, "size is 0, expected pixels"),
        ({"image_mean": 0.5}, "image_mean is 0.5"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std is above 0"),
        ({"resample": "bilinear"}, "resample is bilinear"),
    ],
)
def test_what_is_not_known_is_said(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        processor_of({**VIT, **changes})


@pytest.mark.parametrize(("text", "says"), [("{", "can't be read"), ("[]", "not a JSON object")])
def test_a_file_that_is_no_processor_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "preprocessor_config.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"preprocessor_config.json .*{says}"):
        read_processor(file)


def test_a_processor_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(VIT), encoding="utf-8")
    assert read_processor(file) == processor_of(VIT)
