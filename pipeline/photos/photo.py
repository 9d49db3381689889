"""Any fundus photograph's bytes to RGB uint8, safely, or a PhotoError with the reason."""

import re
from typing import Any, Final, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.errors import PhotoError
from pipeline.photos.dicom import open_dicom
from pipeline.photos.formats import MAX_PIXELS as MAX_PIXELS
from pipeline.photos.formats import NAMES, Values, open_picture, values_of
from pipeline.photos.formats import SUFFIXES as SUFFIXES
from pipeline.photos.formats import sniff as sniff
from pipeline.photos.jpeg import is_lossless
from pipeline.storage.artifacts import is_drawn_here, is_synthetic

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
_DEPTHS: Final = (8, 10, 12, 14)
"""Bits that cameras use of 16."""


class Photo(NamedTuple):
    """A photograph, upright (its EXIF orientation applied), perhaps decoded at a fraction of its size."""

    image: NDArray[np.uint8]  # (ceil(height / scale), ceil(width / scale), 3) RGB
    width: int  # of the whole photograph, upright, pixels
    height: int
    scale: int  # 1, 2, 4 or 8 pixels of the photograph to one of `image`
    damaged: bool  # a JPEG that decodes, but with warnings of corrupt data
    first_page: bool  # the file holds more pictures than this one, its first
    burned_in: bool = False  # a DICOM file that says that words are drawn into its picture
    synthetic: bool = False  # a file that says that `tools phantom` drew or painted its picture


def read_photo(data: bytes | memoryview, *, cover: int | None = None, bits_in_use: bool = True) -> Photo:
    """Decode a photograph of any size, depth and colour model to RGB.

    With `cover`, it comes at the smallest scale of 1, 1/2, 1/4 and 1/8 that leaves its shorter side at least `cover`
    pixels. JPEGs are then decoded at that scale, several times faster; other formats are averaged after decoding, and
    keep twice `cover`, because an average is the poorer filter.

    * 16-bit values are scaled by the bits in use, 8, 10, 12, 14 or 16, which the highest of them tells; values that
      are all multiples of 257 were 8-bit ones, and use 16. Without `bits_in_use` all 16 count: grey is scaled v / 257,
      and of colour the upper byte is taken, which differs by one level at most.
    * Transparency is composited on black.
    * CMYK JPEGs are inverted, as Adobe writes them, whether or not they carry Adobe's marker: so do browsers.
    * An EXIF orientation is applied; one that makes no sense is ignored.
    * Of several pictures in a file (TIFF, GIF, AVIF, HEIC, PNG, WebP) the first is taken, which `first_page` says; so
      it is of an MPO, whose others are views or small copies.
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
    if kind == "DICOM":
        return _read_dicom(data, cover)
    if is_drawn_here(data):
        raise PhotoError("a picture that this program drew, no photograph")
    try:
        picture = open_picture(kind, data)
        width, height = picture.size
        _check_size(width, height)
        by_decoder = isinstance(picture, JpegImageFile) and not is_lossless(data)  # simplejpeg crashes on those, scaled
        scale = _scale(min(width, height), cover if cover is None or by_decoder else 2 * cover)
        damaged, first_page = False, _has_more(picture)
        if isinstance(picture, JpegImageFile) and by_decoder:
            picture.draft(None, (width // scale, height // scale))
            intact = _decode_intact(data, picture)
            damaged = intact is None
            rgb = np.asarray(_rgb(picture, 1)) if intact is None else intact
        else:
            values = values_of(kind, data, picture) if bits_in_use or kind in ("JPEG XL", "PPM") else None
            rgb = np.asarray(_rgb(picture, scale, values, bits_in_use))
            found = picture.size if values is None else values.shape[1::-1]
            if found not in ((width, height), (height, width)):
                raise ValueError(f"its header says {width} x {height} pixels, and {found[0]} x {found[1]} are there")
            width, height = found
        turn = _UPRIGHT.get(_orientation(picture))  # TIFFs are turned by Pillow, and then say so no longer
    except (PhotoError, MemoryError, Warning):
        raise
    except Exception as error:  # Pillow raises a dozen kinds of exception on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        verdict = "cut off" if "truncated" in reason.lower() else f"damaged {kind}"
        raise PhotoError(f"{verdict}: {reason}") from error
    upright = rgb if turn is None else np.asarray(Image.fromarray(rgb).transpose(turn))
    if turn in _ON_ITS_SIDE:
        width, height = height, width
    return Photo(upright, width, height, scale, damaged, first_page, synthetic=is_synthetic(data))


def _read_dicom(data: bytes | memoryview, cover: int | None) -> Photo:
    """The picture of a DICOM file, as `read_photo` gives others; of 16 bits those in use count, in every version."""
    try:
        picture = open_dicom(data)
        width, height = picture.width, picture.height
        _check_size(width, height)
        jpeg = picture.jpeg()
        if jpeg is not None:
            photo = read_photo(jpeg, cover=cover)
        else:
            scale = _scale(min(width, height), None if cover is None else 2 * cover)
            values = picture.in_colour(_in_8_bits(picture.values(), bits_in_use=True))
            rgb = _rgb(Image.fromarray(values if values.shape[2] == 3 else values[..., 0]), scale)
            photo = Photo(np.asarray(rgb), width, height, scale, damaged=False, first_page=False)
    except (PhotoError, MemoryError):
        raise
    except Exception:
        raise PhotoError("damaged DICOM") from None
    image = 255 - photo.image if picture.inverted else photo.image
    return photo._replace(image=image, first_page=picture.has_more, burned_in=picture.burned_in)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PhotoError(f"{width} x {height} pixels, more than the {MAX_PIXELS:,} allowed")


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


def _has_more(picture: ImageFile.ImageFile) -> bool:
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception:  # a second picture that is damaged: the first need not be
        return True


def _rgb(picture: Image.Image, factor: int, values: Values | None = None, bits_in_use: bool = False) -> Image.Image:
    """The picture in RGB, averaged over blocks; `values` are those of `values_of`."""
    if values is not None:
        colours, alpha = np.split(values, [values.shape[2] - 1 + values.shape[2] % 2], axis=2)
        both = np.concatenate([_in_8_bits(colours, bits_in_use), _in_8_bits(alpha, bits_in_use)], axis=2)
        picture = Image.fromarray(both if both.shape[2] > 1 else both[..., 0])
    picture.load()
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture)
        if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise PhotoError("its pixels are 32-bit numbers: save it with 8 or 16 bits a channel")
        picture = Image.fromarray(_in_8_bits(values, bits_in_use))
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


def _in_8_bits(values: NDArray[Any], bits_in_use: bool) -> NDArray[np.uint8]:
    """Values of 16 bits in 8, by the bits in use or by all of them; those of 8 as they are."""
    if values.dtype == np.uint8:
        return values
    highest = int(values.max(initial=0))
    bits = next((bits for bits in _DEPTHS if highest < 1 << bits), 16)
    if not bits_in_use or highest == 0 or (bits < 16 and not (values % 257).any()):
        bits = 16
    table = np.round(np.arange(1 << bits) * (255 / ((1 << bits) - 1))).astype(np.uint8)
    return np.asarray(table[values], dtype=np.uint8)


def _why_no_photo(head: bytes) -> str:
    if not head:
        return "empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the photograph: run `git lfs pull`"
    if re.match(rb"\s*<(!doctype html|html|head|body)", head, re.IGNORECASE):
        return "not an image: HTML text"
    if len(head) > 1 and head.isascii() and b"\0" not in head:
        return "not an image: text"
    return f"not a {NAMES}"
