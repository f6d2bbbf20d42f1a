"""How an image becomes the numbers that a model reads, as its preprocessor_config.json says it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROCESSOR = "preprocessor_config.json"
_SUFFIX = re.compile(r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)$")
_BILINEAR, _BICUBIC = 2, 3  # Pillow's numbers
_RESCALE = 1 / 255
_WARPS_FROM = 384  # pixels: ConvNeXT crops smaller images and warps larger ones
_LARGEST = 4096  # pixels of a side


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a kind of image processor does where its file does not say it."""

    resample: int = _BICUBIC
    crops: bool = False
    square: bool = True  # whether a size of one number is that of both sides, or of the shorter one


_KINDS: Mapping[str, _Kind] = {
    "Beit": _Kind(),
    "Bit": _Kind(crops=True, square=False),
    "CLIP": _Kind(crops=True, square=False),
    "ConvNext": _Kind(square=False),
    "DeiT": _Kind(crops=True),
    "MobileNetV1": _Kind(_BILINEAR, crops=True, square=False),
    "MobileNetV2": _Kind(_BILINEAR, crops=True, square=False),
    "Siglip": _Kind(),
    "ViT": _Kind(_BILINEAR),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageProcessor:
    """Resize, cut the middle out, scale. Heights stand before widths."""

    edge: int | None  # pixels of the shorter side after resizing, the image's shape kept
    size: tuple[int, int] | None  # pixels after resizing, whatever the image's shape
    crop: tuple[int, int] | None
    resample: int  # Pillow's number of the filter
    center: tuple[float, ...]  # of each channel: a model reads (value - center) / spread of values from 0 to 255
    spread: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what a model reads."""
        height, width = self.crop or self.size or (0, 0)
        return len(self.center), height, width


def read_processor(file: Path) -> ImageProcessor:
    """The image processor in a file. Raises ValueError with what is wrong."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} can't be read, so nothing says how images are read: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file.name} is not a JSON object")
    try:
        return processor_of(config)
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from None


def processor_of(config: Mapping[str, Any]) -> ImageProcessor:
    """The image processor that a preprocessor_config.json describes. Raises ValueError for one that is not known."""
    written = config.get("image_processor_type") or config.get("feature_extractor_type")
    name = _SUFFIX.sub("", str(written))
    if name not in _KINDS:
        raise ValueError(f"the image processor {written} is not known; known ones: {', '.join(sorted(_KINDS))}")
    kind = _KINDS[name]
    if config.get("do_pad"):
        raise ValueError("images are padded, each to its own size")
    edge, size = _size(config.get("size"), square=kind.square) if config.get("do_resize", True) else (None, None)
    crop = _side_pair(config.get("crop_size"), "crop_size") if config.get("do_center_crop", kind.crops) else None
    if name == "ConvNext" and edge is not None:
        crop, size = ((edge, edge), None) if edge < _WARPS_FROM else (None, (edge, edge))
        edge = int(edge / float(config.get("crop_pct") or 224 / 256)) if crop else None
    if crop is None and size is None:
        raise ValueError("images keep shapes of their own, and a batch has one")
    center, spread = _scale(config)
    resample = config.get("resample", kind.resample)
    if resample not in range(6):
        raise ValueError(f"resample is {resample}, expected one of Pillow's numbers from 0 to 5")
    return ImageProcessor(edge=edge, size=size, crop=crop, resample=resample, center=center, spread=spread)


def _size(value: object, *, square: bool) -> tuple[int | None, tuple[int, int] | None]:
    """The shorter side, or height and width."""
    if isinstance(value, Mapping) and set(value) == {"shortest_edge"}:
        return _side(value["shortest_edge"], "size"), None
    if isinstance(value, int) and not square:
        return _side(value, "size"), None
    return None, _side_pair(value, "size")


def _side_pair(value: object, name: str) -> tuple[int, int]:
    match value:
        case {"height": height, "width": width} | [height, width]:
            return _side(height, name), _side(width, name)
        case _:
            side = _side(value, name)
            return side, side


def _side(value: object, name: str) -> int:
    if type(value) is not int or not 0 < value <= _LARGEST:
        raise ValueError(f"{name} is {json.dumps(value)}, expected pixels from 1 to {_LARGEST}")
    return value


def _scale(config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The center and spread of each channel, in values from 0 to 255."""
    rescale = float(config.get("rescale_factor", _RESCALE)) if config.get("do_rescale", True) else 1.0
    means: tuple[float, ...] = (0.0, 0.0, 0.0)
    deviations: tuple[float, ...] = (1.0, 1.0, 1.0)
    if config.get("do_normalize", True):
        means, deviations = _channels(config, "image_mean"), _channels(config, "image_std")
    if (
        len(means) != len(deviations)
        or len(means) not in (1, 3)
        or not rescale > 0
        or not all(d > 0 for d in deviations)
    ):
        raise ValueError("image_mean and image_std are of one or three channels each, and image_std is above 0")
    return tuple(mean / rescale for mean in means), tuple(deviation / rescale for deviation in deviations)


def _channels(config: Mapping[str, Any], name: str) -> tuple[float, ...]:
    value = config.get(name)
    if not (isinstance(value, list) and value and all(type(item) in (int, float) for item in value)):
        raise ValueError(f"{name} is {json.dumps(value)}, expected a number for each channel")
    return tuple(map(float, value))
