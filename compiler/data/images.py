"""The images that rows name: by a path from the file that names them, or by a data URI that holds the image itself."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from compiler.data.readers import DataError, Format, Row, read_rows
from compiler.data.texts import BadValueError, found
from compiler.diagnostics import printable

INSTALL = 'pip install "recipec[image]"'
_INLINE = "data:image/"
_SHOWN = 60  # characters of a path in a message


def image_of(values: Mapping[str, object], column: str) -> str:
    """What names the image in a column: a path, or a data URI. Raises BadValueError."""
    value = values.get(column)
    if not isinstance(value, str) or not value or "\0" in value:
        raise BadValueError(column, f"expected the path of an image, found {found(values, column)}")
    return value


def is_inline(image: str) -> bool:
    """Whether it is a data URI, which holds the image itself."""
    return image.startswith(_INLINE)


def inline(content: bytes, kind: str = "png") -> str:
    """The data URI of an image's bytes."""
    return f"{_INLINE}{kind};base64,{base64.b64encode(content).decode('ascii')}"


def shown(image: str) -> str:
    """What names an image, for a message."""
    if is_inline(image):
        return "an image within the row"
    return f'"{printable(image if len(image) <= _SHOWN else "..." + image[-_SHOWN:])}"'


def content_of(image: str, folder: Path) -> bytes:
    """The bytes of an image; paths start from `folder`. Raises ValueError, which says what is wrong."""
    if is_inline(image):
        head, comma, data = image.partition(",")
        if not comma or not head.endswith(";base64"):
            raise ValueError("an image within a row is written data:image/png;base64,...")
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"an image within a row is not base64: {error}") from None
    try:
        return (folder / image).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{shown(image)} can't be read: {reason.lower()}") from None


def check_image(content: bytes, image: str) -> None:
    """Nothing for bytes that are an image. Raises ValueError, which says what is wrong; DataError without Pillow."""
    with opened(content, image) as picture:
        try:
            picture.draft(None, (1, 1))  # a JPEG is decoded coarsely: broken ones show all the same
            picture.load()
        except Exception as error:  # noqa: BLE001 - the errors of Pillow's decoders share no base
            raise ValueError(f"{shown(image)} is a broken image: {_reason(error)}") from None


def opened(content: bytes, image: str) -> Any:
    """The image in some bytes, as Pillow opens it. Raises ValueError; DataError without Pillow."""
    try:
        from PIL import Image
    except ImportError:
        raise DataError(Path(image), 0, "reading images needs Pillow", INSTALL) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of pixels that would fill the memory
            return Image.open(BytesIO(content))
    except Exception as error:  # noqa: BLE001 - the errors of Pillow's decoders share no base
        raise ValueError(f"{shown(image)} is no image that can be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return "its format is not known" if type(error).__name__ == "UnidentifiedImageError" else str(error).lower()


class Contents:
    """One sha256 over the images that the rows of a file name, in order: over their names and what is in them."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, image: str, content: bytes) -> bytes:
        """The sha256 of one image, which is added."""
        own = hashlib.sha256(content)
        self._digest.update(json.dumps(["" if is_inline(image) else image, own.hexdigest()]).encode())
        return own.digest()

    @property
    def sha256(self) -> str:
        """The digest of all so far."""
        return self._digest.hexdigest()


def digest_of_images(path: Path, form: Format, column: str) -> str:
    """The digest of the images that the rows of a file name. Raises DataError for one that can't be read."""
    contents = Contents()
    for row, image in images_in(path, form, column):
        try:
            contents.add(image, content_of(image, folder_of(path, form)))
        except ValueError as error:
            raise DataError(path, row.line, str(error), "put it back, or compile the recipe again") from None
    return contents.sha256


def images_in(path: Path, form: Format, column: str) -> Iterator[tuple[Row, str]]:
    """The rows of a file that name an image, each with what names it."""
    for row in read_rows(path, form):
        try:
            yield row, image_of(row.values, column)
        except BadValueError:
            continue


def placed(values: Mapping[str, object], column: str | None, folder: Path) -> Mapping[str, object]:
    """The values of a row, in which the path of its image starts from a folder. `column`: of the images, if any."""
    image = values.get(column) if column is not None else None
    if column is None or not isinstance(image, str) or not image or is_inline(image):
        return values
    return {**values, column: str(folder / image)}


def folder_of(path: Path, form: Format) -> Path:
    """The folder that the paths in a file of rows start from."""
    return path if form == "folder" else path.parent
