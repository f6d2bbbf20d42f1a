"""Images -> pixels, as the model's image processor says: Pillow and numpy, and nothing else."""

# C = channels, H = height, W = width

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.data.images import content_of, inline, opened, shown
from compiler.data.readers import DataError
from compiler.images import ImageProcessor
from runtimes.errors import RunError

PIXELS = "pixel_values"
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class ImageReader:
    """An image processor, and the folder that the paths of images start from."""

    processor: ImageProcessor
    root: Path
    pad_id: int = 0  # no token fills anything up

    def pixels(self, image: str) -> Pixels:
        """[C, H, W] values from 0 to 255, not scaled yet. `image`: a path or a data URI. Raises RunError."""
        return cropped(as_array(self.resized(image)), self.processor.crop)

    def resized(self, image: str) -> Any:
        """The image as Pillow has it, resized but not cropped: read again it gives the same pixels. Raises RunError."""
        return _resized(self._picture(image), self.processor)

    def inlined(self, image: str) -> str:
        """A data URI that holds the resized image without loss."""
        return png(self.resized(image))

    def _picture(self, image: str) -> Any:
        try:
            content = content_of(image, self.root)
            with opened(content, image) as picture:
                return _with_channels(picture, len(self.processor.center), image)
        except DataError as error:
            raise RunError("E402", error.message, f"install it: {error.hint}") from error
        except ValueError as error:
            raise RunError("E412", str(error), "remove the row, or put a whole image there") from error


def _with_channels(picture: Any, num_channels: int, image: str) -> Any:
    """The picture upright, in colours or grey; what shines through is white. Raises ValueError for a broken one."""
    from PIL import Image, ImageOps

    try:
        picture = ImageOps.exif_transpose(picture)
        if "A" in picture.getbands() or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, (255, 255, 255))
            picture = Image.alpha_composite(white, picture)
        if picture.mode.startswith("I;16"):
            picture = picture.point(lambda value: value / 256).convert("L")  # Pillow would cut off what is above 255
        return picture.convert("RGB" if num_channels == 3 else "L")
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{shown(image)} is a broken image: {str(error).lower()}") from error


def _resized(picture: Any, processor: ImageProcessor) -> Any:
    width, height = picture.size
    wanted = (height, width)
    if processor.edge is not None:
        longer = int(processor.edge * max(width, height) / min(width, height))
        wanted = (longer, processor.edge) if width <= height else (processor.edge, longer)
    if processor.size is not None:
        wanted = processor.size
    return picture.resize(wanted[::-1], resample=processor.resample) if wanted != (height, width) else picture


def as_array(picture: Any) -> Pixels:
    """[C, H, W] the values of a picture."""
    values = np.asarray(picture, np.uint8)
    return np.ascontiguousarray(values[None] if values.ndim == 2 else values.transpose(2, 0, 1))


def cropped(pixels: Pixels, crop: tuple[int, int] | None) -> Pixels:
    """[C, H, W] the middle of an image; a smaller one gets black around it."""
    if crop is None:
        return pixels
    missing = [max(0, wanted - there) for wanted, there in zip(crop, pixels.shape[1:], strict=True)]
    around = [(-(-lack // 2), lack // 2) for lack in missing]
    padded = np.pad(pixels, [(0, 0), *around])
    top, left = ((there - wanted) // 2 for wanted, there in zip(crop, padded.shape[1:], strict=True))
    return padded[:, top : top + crop[0], left : left + crop[1]]


def png(picture: Any) -> str:
    """A data URI that holds a picture without loss."""
    file = BytesIO()
    picture.save(file, format="PNG")
    return inline(file.getvalue())


def variants(picture: Any) -> Iterator[tuple[str, Any]]:
    """Pictures that are made of one to show faults: in colours, in directions, in resizing."""
    from PIL import Image, ImageOps

    width, height = picture.size
    yield "mirrored", ImageOps.mirror(picture)
    yield "upside down", ImageOps.flip(picture)
    yield "turned left", picture.transpose(Image.Transpose.ROTATE_90)
    yield "inverted", ImageOps.invert(picture)
    yield "grey", picture.convert("L")
    yield "red and blue exchanged", Image.merge("RGB", picture.convert("RGB").split()[::-1])
    yield "half transparent", _half_transparent(picture)
    yield "larger and wider", picture.resize((3 * width, 2 * height))
    yield "smaller and narrower", picture.resize((max(1, width // 3), max(1, height // 2)))


def blanks(size: tuple[int, int]) -> Iterator[tuple[str, Any]]:
    """Pictures with nothing in them."""
    from PIL import Image

    yield "black", Image.new("RGB", size)
    yield "white", Image.new("RGB", size, (255, 255, 255))
    yield "one pixel", Image.new("RGB", (1, 1), (200, 100, 50))


def _half_transparent(picture: Any) -> Any:
    found = picture.convert("RGBA")
    found.putalpha(128)
    return found
