"""Any fundus photograph's bytes to RGB uint8, safely, or a PhotoError with the reason."""

import re
import warnings
from collections.abc import Callable
from io import BytesIO
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.errors import PhotoError

MAX_PIXELS: Final = 120_000_000
"""Larger photographs are refused from the header. The largest fundus cameras make 50 million pixels."""

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".tif", ".tiff", ".bmp", ".webp"})
"""Of files that ought to be photographs, in lower case. What a file is, its content decides: see `sniff`."""

# Opened by class, not by Image.open: no other format is ever tried, a JPEG with a second picture inside (MPO) is read
# as the JPEG it starts with, and Pillow's own warning about size does not fire.
_OPENERS: Final[dict[str, Callable[[BytesIO], ImageFile.ImageFile]]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "TIFF": TiffImageFile,
    "BMP": BmpImageFile,
    "WEBP": WebPImageFile,
}
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_16_TO_8: Final = np.round(np.arange(65536) / 257).astype(np.uint8)
_PILLOW: Final = ("ignore", None, UserWarning, re.compile(r"PIL\."), 0)


class Photo(NamedTuple):
    """A photograph, upright (its EXIF orientation applied), perhaps decoded at a fraction of its size."""

    image: NDArray[np.uint8]  # (ceil(height / scale), ceil(width / scale), 3) RGB
    width: int  # of the whole photograph, upright, pixels
    height: int
    scale: int  # 1, 2, 4 or 8 pixels of the photograph to one of `image`


def sniff(head: bytes | memoryview) -> str | None:
    """The format that a file's first 16 bytes announce: "JPEG", "PNG", "TIFF", "BMP", "WEBP", or None."""
    head = bytes(head[:16])
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    # Two letters are too few to tell a bitmap from a text: its reserved zeros and the size of its header are asked too.
    if head.startswith(b"BM") and head[6:10] == bytes(4) and head[14:] in (b"\x0c\0", b"\x28\0", b"\x6c\0", b"\x7c\0"):
        return "BMP"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    return None


def read_photo(data: bytes | memoryview, *, cover: int | None = None) -> Photo:
    """Decode a JPEG (MPO: its first picture), PNG, TIFF, BMP or WebP to RGB.

    With `cover`, the image comes at the largest scale (of 1, 2, 4, 8) that leaves at least `cover` pixels on its
    shorter side. A JPEG is then decoded at that scale (a quarter of the time or less); other formats are averaged, with
    twice the pixels left because an average is a poorer filter.

    16-bit grey is scaled v / 257, 16-bit colour keeps its upper byte (at most one level apart). Transparency is
    composited on black. CMYK JPEGs are read inverted, as Adobe writes them, with or without Adobe's marker, as browsers
    do. An EXIF orientation that is no orientation is ignored.

    A photograph cut off anywhere is refused.

    Raises PhotoError with the reason, in one line, for anything else. Safe to call from several threads.
    """
    kind = sniff(data)
    if kind is None:
        raise PhotoError(_not_an_image(bytes(data[:512])))
    if _PILLOW not in warnings.filters:
        # Oddities of metadata are no concern of ours; catch_warnings would not be safe among threads.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    try:
        picture = _OPENERS[kind](BytesIO(data))
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise PhotoError(f"{width} x {height} pixels, more than the {MAX_PIXELS:,} allowed")
        scale = _scale(min(width, height), cover if cover is None or kind == "JPEG" else 2 * cover)
        if kind == "JPEG":
            picture.draft(None, (width // scale, height // scale))
        picture.load()
        turn = _UPRIGHT.get(_orientation(picture))
        rgb = _rgb(picture, 1 if kind == "JPEG" else scale)
        if turn is not None:
            rgb = rgb.transpose(turn)
            if turn.name in ("TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"):
                width, height = height, width
        return Photo(np.asarray(rgb), width, height, scale)
    except PhotoError:
        raise
    except Exception as error:  # damaged files make Pillow raise a dozen kinds of exception
        cut = "truncated" in str(error)
        raise PhotoError(f"cut off: {error}" if cut else f"damaged {kind}: {error}") from error


def _scale(short: int, cover: int | None) -> int:
    if cover is None:
        return 1
    return next((scale for scale in (8, 4, 2) if short >= scale * cover), 1)


def _orientation(picture: Image.Image) -> object:
    try:
        return picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # junk where EXIF should be does not spoil the photograph
        return None


def _rgb(picture: Image.Image, factor: int) -> Image.Image:
    if picture.mode.startswith("I"):
        picture = Image.fromarray(_16_TO_8[np.asarray(picture)])
    elif picture.mode == "F":
        raise PhotoError("its pixels are floating-point numbers; save it with 8 or 16 bits a channel")
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
    elif picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGB")
    if factor > 1:
        picture = picture.reduce(factor)
    if picture.mode == "RGBA":
        black = Image.new("RGB", picture.size)
        black.paste(picture, mask=picture.getchannel("A"))
        return black
    return picture.convert("RGB")


def _not_an_image(head: bytes) -> str:
    if not head:
        return "empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the photograph; run `git lfs pull`"
    if re.match(rb"\s*<(!doctype html|html|\?xml|head|body)", head, re.IGNORECASE):
        return "not an image: HTML text"
    if head.isascii() and head.decode().isprintable():
        return "not an image: text"
    return "not an image: no JPEG, PNG, TIFF, BMP or WebP"
