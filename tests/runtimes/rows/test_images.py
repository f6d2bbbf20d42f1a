"""Pixels beside those of transformers' own image processors."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compiler.data.images import inline
from compiler.images import processor_of
from runtimes.errors import RunError
from runtimes.rows.images import ImageReader, as_array, png

MEANS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.3, 0.25]}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTImageProcessorPil", {"size": {"height": 28, "width": 20}, "resample": 2}),
    "deit": ("DeiTImageProcessorPil", {"size": {"height": 32, "width": 32}, "crop_size": {"height": 28, "width": 28}}),
    "clip": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 30}, "crop_size": {"height": 28, "width": 24}}),
    "bit": ("BitImageProcessorPil", {"size": {"shortest_edge": 21}, "crop_size": {"height": 28, "width": 24}}),
    "convnext": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 28}, "crop_pct": 0.875}),
    "mobilenet_v2": (
        "MobileNetV2ImageProcessorPil",
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}},
    ),
    "siglip": ("SiglipImageProcessorPil", {"size": {"height": 28, "width": 28}, "do_rescale": False}),
}
SIZES = [(28, 28), (50, 31), (31, 77), (9, 14), (28, 20)]  # height, width


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def reader(config: dict[str, Any]) -> ImageReader:
    return ImageReader(processor=processor_of(config), root=Path())


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_model_reads_what_transformers_own_processor_gives_it(name: str, size: tuple[int, int]) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the torch extra")
    written, settings = PROCESSORS[name]
    module = __import__(f"transformers.models.{name}.image_processing_pil_{name}", fromlist=[written])
    assert transformers is not None
    theirs = getattr(module, written)(**settings, **MEANS)
    config = {**theirs.to_dict(), **settings, **MEANS, "image_processor_type": written}
    ours, made = reader(config), picture(*size)
    [expected] = theirs(made, return_tensors="np")["pixel_values"]
    pixels = ours.pixels(png(made))
    assert pixels.dtype == np.uint8
    center, spread = (np.array(part)[:, None, None] for part in (ours.processor.center, ours.processor.spread))
    # float32 of values up to 1020: they multiply by the rescale factor first
    np.testing.assert_allclose((pixels - center) / spread, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_resized_image_read_again_gives_the_same_pixels(name: str, size: tuple[int, int]) -> None:
    written, settings = PROCESSORS[name]
    ours = reader({**settings, **MEANS, "image_processor_type": written})
    image = png(picture(*size))
    assert np.array_equal(ours.pixels(ours.inlined(image)), ours.pixels(image))


def as_uri(made: Image.Image, form: str) -> str:
    file = BytesIO()
    made.save(file, format=form)
    return inline(file.getvalue(), form.lower())


PLAIN = {"image_processor_type": "ViTImageProcessor", "size": 16, **MEANS}


def test_grey_palettes_and_16_bits_become_colours() -> None:
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    deep = Image.fromarray(np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16))
    expected = np.broadcast_to(np.asarray(grey), (3, 16, 16))
    for made in (grey, grey.convert("P"), deep):
        assert np.array_equal(reader(PLAIN).pixels(as_uri(made, "PNG")), expected)


def test_what_shines_through_is_white() -> None:
    clear = Image.new("RGBA", (16, 16), (10, 20, 30, 0))
    assert (reader(PLAIN).pixels(as_uri(clear, "PNG")) == 255).all()


def test_one_channel_reads_grey() -> None:
    config = {**PLAIN, "image_mean": [0.5], "image_std": [0.5]}
    assert reader(config).pixels(png(picture(16, 16))).shape == (1, 16, 16)


def test_an_image_lies_upright_as_its_camera_says(tmp_path: Path) -> None:
    made = picture(16, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned right
    made.save(tmp_path / "turned.png", exif=exif)
    turned = made.transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(reader(PLAIN).pixels(str(tmp_path / "turned.png")), as_array(turned))


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.png").write_bytes(content)
    with pytest.raises(RunError, match=r"odd\.png.* is no image that can be read") as caught:
        ImageReader(processor=processor_of(PLAIN), root=tmp_path).pixels("odd.png")
    assert caught.value.code == "E412"


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_an_image_that_ends_too_early_is_named(tmp_path: Path, form: str) -> None:
    file = BytesIO()
    picture(64, 64).save(file, format=form)
    (tmp_path / "cut").write_bytes(file.getvalue()[:-600])
    with pytest.raises(RunError, match='"cut" is a broken image'):
        ImageReader(processor=processor_of(PLAIN), root=tmp_path).pixels("cut")


@pytest.mark.parametrize(
    ("uri", "says"),
    [("data:image/png,abc", "is written data:image/png;base64"), ("data:image/png;base64,a", "is not base64")],
)
def test_a_data_uri_that_holds_no_image_is_said(uri: str, says: str) -> None:
    with pytest.raises(RunError, match=says):
        reader(PLAIN).pixels(uri)
