"""Decodes the bytes of any fundus photograph to RGB uint8, or raises PhotoError with the reason."""

import re
from typing import Any, Final, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.errors import PhotoError
from pipeline.photos.dicom import open_dicom
from pipeline.photos.formats import MAX_PIXELS, NAMES, Values, open_picture, scaled_to_8_bits, sniff, values_of
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
"""Numbers of bits that cameras use in 16-bit values, other than 16."""


class Photo(NamedTuple):
    """A decoded photograph, upright (its EXIF orientation is applied), at full or smaller scale."""

    image: NDArray[np.uint8]  # (ceil(height / scale), ceil(width / scale), 3) RGB
    width: int  # of the photograph at full scale, upright, pixels
    height: int
    scale: int  # 1, 2, 4 or 8: one pixel of `image` covers scale x scale pixels of the photograph
    damaged: bool  # a JPEG that decodes, but with warnings of corrupt data
    first_page: bool  # the file has several pictures, and this is the first
    burned_in: bool = False  # the DICOM file says that text is drawn into its picture
    synthetic: bool = False  # the file says that `tools phantom` drew or changed its picture


def read_photo(data: bytes | memoryview, *, cover: int | None = None, bits_in_use: bool = True) -> Photo:
    """Decode a photograph of any size, depth and colour model to RGB.

    With `cover`, the scale is the smallest of 1, 1/2, 1/4 and 1/8 that keeps the shorter side at least `cover` pixels.
    JPEGs are decoded at that scale, which is several times faster. Other formats are averaged after decoding. They keep
    at least 2 * `cover` pixels, because an average is a poorer filter.

    * 16-bit values are scaled by the number of bits in use: 8, 10, 12, 14 or 16, taken from the highest value. If all
      values are multiples of 257, they were 8-bit values, and 16 bits are in use. Without `bits_in_use` always 16 are:
      grey becomes v / 257, and of colour the upper byte is taken, which differs by at most one level.
    * Transparency is composited on black.
    * CMYK JPEGs are inverted, as Adobe writes them, with or without Adobe's marker. Browsers do the same.
    * The EXIF orientation is applied. An invalid one is ignored.
    * If a file has several pictures (TIFF, GIF, AVIF, HEIC, PNG, WebP), the first is taken and `first_page` is set. The
      first of an MPO is taken too, without `first_page`: its others are views or small copies.
    * A truncated file is refused. So is a JPEG without its end marker: one cannot be certain that nothing else is
      missing.
    * A JPEG that libjpeg decodes with a warning (a bad code, too many or too few bytes) is decoded and `damaged` is
      set. The warning does not say how much of the picture is affected: a few bytes after it, or half of it.

    Pillow gives a UserWarning for odd metadata and continues. The process decides what the warning does: commands
    ignore it (pipeline.machine.ignore_odd_metadata), and if warnings are errors, it is raised.

    Raises PhotoError with the reason. Thread-safe.
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
        # simplejpeg crashes if it is to scale a lossless JPEG.
        decoder_scales = isinstance(picture, JpegImageFile) and not is_lossless(data)
        scale = _scale(min(width, height), cover if cover is None or decoder_scales else 2 * cover)
        damaged, first_page = False, _has_more(picture)
        if isinstance(picture, JpegImageFile) and decoder_scales:
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
        turn = _UPRIGHT.get(_orientation(picture))  # Pillow turns TIFFs itself and removes the tag
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
    """The picture of a DICOM file, as `read_photo` gives others. 16-bit values are always scaled by the bits in use."""
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
    """The JPEG in RGB, at the scale of Pillow's draft. None if libjpeg warns of corrupt data.

    Pillow gives the same pixels, but it is slower and does not report the warnings.
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
    except Exception:  # no EXIF, or invalid EXIF: the picture itself is fine
        return 1


def _has_more(picture: ImageFile.ImageFile) -> bool:
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception:  # the second picture is damaged; the first may be fine
        return True


def _rgb(picture: Image.Image, factor: int, values: Values | None = None, bits_in_use: bool = False) -> Image.Image:
    """The picture in RGB, averaged over blocks of factor x factor pixels. values: what `values_of` gave."""
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
    """16-bit values as 8-bit ones, scaled by the bits in use or by all 16. 8-bit values stay."""
    if values.dtype == np.uint8:
        return values
    highest = int(values.max(initial=0))
    bits = next((bits for bits in _DEPTHS if highest < 1 << bits), 16)
    if not bits_in_use or highest == 0 or (bits < 16 and not (values % 257).any()):
        bits = 16
    return scaled_to_8_bits(values, bits)


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
