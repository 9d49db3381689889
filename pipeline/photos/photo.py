"""Any fundus photograph's bytes to RGB uint8, safely, or a PhotoError with the reason."""

import re
from collections.abc import Callable
from io import BytesIO
from typing import Final, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.errors import PhotoError
from pipeline.storage.artifacts import is_drawn_here

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
_ON_ITS_SIDE: Final = frozenset(_UPRIGHT[orientation] for orientation in (5, 6, 7, 8))
_16_TO_8: Final = np.round(np.arange(65536) / 257).astype(np.uint8)


class Photo(NamedTuple):
    """A photograph, upright (its EXIF orientation applied), perhaps decoded at a fraction of its size."""

    image: NDArray[np.uint8]  # (ceil(height / scale), ceil(width / scale), 3) RGB
    width: int  # of the whole photograph, upright, pixels
    height: int
    scale: int  # 1, 2, 4 or 8 pixels of the photograph to one of `image`
    damaged: bool  # a JPEG that decodes, but with warnings of corrupt data


def sniff(head: bytes | memoryview) -> str | None:
    """The format that a file's first 16 bytes announce: "JPEG", "PNG", "TIFF", "BMP", "WEBP", or None."""
    head = bytes(head[:16])
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    # Two letters are too few to tell a bitmap from a text, so the size of the header that follows is asked too.
    if head.startswith(b"BM") and int.from_bytes(head[14:], "little") in (12, 16, 40, 52, 56, 64, 108, 124):
        return "BMP"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    return None


def read_photo(data: bytes | memoryview, *, cover: int | None = None) -> Photo:
    """Decode a photograph of any size, depth and colour model to RGB.

    With `cover`, it comes at the smallest scale of 1, 1/2, 1/4 and 1/8 that leaves its shorter side at least `cover`
    pixels. JPEGs are then decoded at that scale, several times faster; other formats are averaged after decoding, and
    keep twice `cover`, because an average is the poorer filter.

    * 16-bit grey is scaled v / 257; of 16-bit colour the upper byte is taken, which differs by one level at most.
    * Transparency is composited on black.
    * CMYK JPEGs are inverted, as Adobe writes them, whether or not they carry Adobe's marker: so do browsers.
    * An EXIF orientation is applied; one that makes no sense is ignored.
    * Of several pictures in a file (MPO, TIFF) the first is taken.
    * A file cut off anywhere is refused, a JPEG that lacks nothing but its end marker included: whether only the marker
      is missing or also some of the picture cannot be told for certain.
    * A JPEG whose damage libjpeg gets over with a warning (a bad code, bytes too many or too few) is decoded and called
      damaged: how much of the picture is hurt, a few bytes behind it or half of it, the warning does not say.

    Pillow gives a UserWarning of odd metadata and reads on. What becomes of it the process decides: commands ignore it
    (pipeline.machine.ignore_odd_metadata), and where warnings are errors it is raised.

    Raises PhotoError with the reason. Safe to call from several threads.
    """
    kind = sniff(data)
    if kind is None:
        raise PhotoError(_why_no_photo(bytes(data[:512])))
    if is_drawn_here(data):
        raise PhotoError("a picture that this program drew, no photograph")
    try:
        picture = _OPENERS[kind](BytesIO(data))
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise PhotoError(f"{width} x {height} pixels, more than the {MAX_PIXELS:,} allowed")
        scale = _scale(min(width, height), cover if cover is None or kind == "JPEG" else 2 * cover)
        damaged = False
        if isinstance(picture, JpegImageFile):
            picture.draft(None, (width // scale, height // scale))
            intact = _decode_intact(data, picture)
            damaged = intact is None
            rgb = np.asarray(_rgb(picture, 1)) if intact is None else intact
        else:
            rgb = np.asarray(_rgb(picture, scale))
        turn = _UPRIGHT.get(_orientation(picture))  # TIFFs are turned by Pillow, and then say so no longer
    except (PhotoError, MemoryError, Warning):
        raise
    except Exception as error:  # Pillow raises a dozen kinds of exception on damaged files
        verdict = "cut off" if "truncated" in str(error).lower() else f"damaged {kind}"
        raise PhotoError(f"{verdict}: {str(error) or type(error).__name__}") from error
    upright = rgb if turn is None else np.asarray(Image.fromarray(rgb).transpose(turn))
    if turn in _ON_ITS_SIDE:
        width, height = height, width
    return Photo(upright, width, height, scale, damaged)


def _scale(short: int, cover: int | None) -> int:
    if cover is None:
        return 1
    return next((scale for scale in (8, 4, 2) if short >= scale * cover), 1)


def _decode_intact(data: bytes | memoryview, picture: JpegImageFile) -> NDArray[np.uint8] | None:
    """The JPEG in RGB, of the size that was drafted; None where libjpeg warns of corrupt data.

    Pillow decodes to the same pixels, more slowly, and keeps the warnings to itself.
    """
    colours = "CMYK" if picture.mode == "CMYK" else "RGB"
    try:
        pixels = simplejpeg.decode_jpeg(data, colours, min_height=picture.height, min_width=picture.width)
    except ValueError:
        return None
    return np.asarray(_rgb(picture, 1)) if colours == "CMYK" else pixels


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif()[ExifTags.Base.Orientation])
    except Warning:
        raise
    except Exception:  # no EXIF, or junk in its place, which does not spoil the picture
        return 1


def _rgb(picture: Image.Image, factor: int) -> Image.Image:
    picture.load()
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture)
        if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise PhotoError("its pixels are 32-bit numbers: save it with 8 or 16 bits a channel")
        picture = Image.fromarray(_16_TO_8[values])
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


def _why_no_photo(head: bytes) -> str:
    if not head:
        return "empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the photograph: run `git lfs pull`"
    if re.match(rb"\s*<(!doctype html|html|head|body)", head, re.IGNORECASE):
        return "not an image: HTML text"
    if len(head) > 1 and head.isascii() and b"\0" not in head:
        return "not an image: text"
    return "not a JPEG, PNG, TIFF, BMP or WebP"
