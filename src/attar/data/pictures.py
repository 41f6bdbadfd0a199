"""Picture files: their size at a glance, and their pixels at the size that is wanted."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from attar.data.convert import Array, to_images
from attar.data.images import DataError

SUFFIXES = frozenset(".bmp .gif .jfif .jp2 .jpeg .jpg .pbm .pgm .png .ppm .tif .tiff .webp".split())  # noqa: SIM905
_GREY_MODES = ("1", "L", "LA", "F")  # and I, I;16, I;16B and others that begin so
_ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 are turned by a quarter

Source = Path | BytesIO
"""A picture file on disk, or in memory."""


@dataclass(frozen=True)
class Header:
    """What a picture's first bytes say. Upright `height` and `width`, pixels."""

    height: int
    width: int
    grey: bool


class BadPictureError(Exception):
    """A picture that cannot be decoded; the message is the reason."""


def pillow() -> Any:
    """The Pillow package's Image module. Raises DataError where it is missing."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("reading picture files needs Pillow: pip install 'attar[images]'") from error
    return Image


def read_header(source: Source) -> Header:
    """Raises BadPictureError."""
    image_module = pillow()
    try:
        with image_module.open(source) as picture:
            width, height = picture.size
            exif = image_module.Image.getexif(picture)  # the PNG reader's own method decodes everything
            if exif.get(_ORIENTATION, 1) >= 5:
                width, height = height, width
            return Header(height, width, picture.mode in _GREY_MODES or picture.mode.startswith("I"))
    except Exception as error:  # Pillow's decoders raise nearly anything on bad files
        raise BadPictureError(_reason(error)) from error


def read_picture(source: Source, shape: tuple[int, int, int]) -> Array:
    """A picture file as uint8 (C, H, W): grey for C = 1, RGB for C = 3; of 16 bits the upper 8, of fractions 0..1 all.

    What is transparent shows white. Turned upright, scaled (bicubic, antialiased) to cover H x W, and cut in the middle.
    Raises BadPictureError.
    """
    channels, height, width = shape
    image_module = pillow()
    from PIL import ImageOps

    try:
        with image_module.open(source) as opened:
            opened.draft(None, (2 * max(height, width),) * 2)  # a JPEG much larger than needed is decoded smaller
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I"):
                picture = image_module.fromarray(_of_16_bits(np.asarray(picture)))
            elif picture.mode == "F":
                picture = image_module.fromarray(to_images(np.asarray(picture)[None], "its pixels")[0, 0].numpy())
            if picture.has_transparency_data:  # what lies under it may be any colour
                white = image_module.new("RGBA", picture.size, "white")
                picture = image_module.alpha_composite(white, picture.convert("RGBA"))
            picture = picture.convert("L" if channels == 1 else "RGB")
            if picture.size != (width, height):
                picture = ImageOps.fit(picture, (width, height), image_module.Resampling.BICUBIC)
            return np.asarray(picture).reshape(height, width, channels).transpose(2, 0, 1)
    except Exception as error:
        raise BadPictureError(_reason(error)) from error


def _of_16_bits(pixels: Array) -> Array:
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 65535:
        raise BadPictureError(f"its pixels are {pixels.dtype} from {low} to {high}; attar takes 8 or 16 bits: 0..65535")
    if 0 < high <= 255:
        raise BadPictureError(
            f"its pixels are {pixels.dtype} from {low} to {high}, which is black by 16 bits; save it with 8 bits"
        )
    upper: Array = (pixels >> 8).astype(np.uint8)
    return upper


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).partition(" '")[0].partition(" <")[0]  # Pillow repeats the path, or names the object
    return text or type(error).__name__
