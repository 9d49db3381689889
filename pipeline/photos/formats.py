"""The formats of photographs: recognised by content, opened without decoding. For DICOM see `dicom.py`."""

import re
import sys
from collections.abc import Callable
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.errors import PhotoError

SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".pnm"}
    | {".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".avif", ".heic", ".heif", ".hif", ".jxl", ".dcm", ".dicom"}
)
"""Suffixes of files that should be photographs, in lower case. The content decides what a file is: see `sniff`."""
NAMES: Final = "JPEG, PNG, TIFF, BMP, WebP, JPEG 2000, AVIF, HEIC, JPEG XL, PPM, GIF or DICOM"
MAX_PIXELS: Final = 120_000_000
"""Larger photographs are refused once the header is read. The largest fundus cameras make 50 million pixels."""
HEAD_BYTES: Final = 132
"""Bytes at the beginning of a file that `sniff` needs. 16 are enough for all formats but DICOM, whose mark is last."""

J2K: Final = b"\xff\x4f\xff\x51"
"""The first bytes of a JPEG 2000 codestream."""
_JXL: Final = b"\xff\x0a"
_JXL_BOX: Final = b"\0\0\0\x0cJXL \r\n\x87\n"
_HEIC_BRANDS: Final = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
Values = NDArray[np.uint8] | NDArray[np.uint16]
Arguments = tuple[object, ...] | str | None
_SWAPPED: Final = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def sniff(head: bytes | memoryview) -> str | None:
    """The format of a file by its first HEAD_BYTES bytes, as named in NAMES, or None."""
    head = bytes(head[:HEAD_BYTES])
    if head[128:] == b"DICM":  # the 128 bytes before may be the beginning of a TIFF in the same file
        return "DICOM"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    # A text may begin with "BM" too, so the size of the bitmap's second header is also checked.
    if head.startswith(b"BM") and int.from_bytes(head[14:16], "little") in (12, 16, 40, 52, 56, 64, 108, 124):
        return "BMP"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    if head.startswith((J2K, b"\0\0\0\x0cjP  \r\n\x87\n")):
        return "JPEG 2000"
    if head.startswith((_JXL, _JXL_BOX)):
        return "JPEG XL"
    if head[4:8] == b"ftyp":
        brands = {head[start : start + 4] for start in range(8, min(len(head), int.from_bytes(head[:4], "big")), 4)}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIC" if brands & _HEIC_BRANDS else None
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if re.match(rb"P[56](\s|#[^\n]*\n)+(\d{1,9}\s+([\d#]|$)|#[^\n]*$)", head):
        return "PPM"
    return None


def open_picture(kind: str, data: bytes | memoryview) -> ImageFile.ImageFile:
    """The picture, not yet decoded, with the size in its header. kind: what `sniff` gave.

    Raises PhotoError if a package is missing, and any exception if the file is damaged.
    """
    return _OPENERS[kind](BytesIO(data))


def values_of(kind: str, data: bytes | memoryview, picture: ImageFile.ImageFile) -> Values | None:
    """The pixels (h, w, channels) of a picture that Pillow does not decode, or decodes with a loss; else None.

    Pillow does not decode JPEG XL, and takes seconds per megapixel for some PPM. Of 16-bit colour it keeps the upper
    bytes only: the lower bytes come from reading the file a second time with the bytes of each pair swapped. The result
    is None for 16-bit pictures in which one colour means transparency.

    Raises PhotoError for pixels of 32 bits.
    """
    if kind == "JPEG XL":
        from imagecodecs import jpegxl_decode

        values = np.asarray(jpegxl_decode(bytes(data), index=0))
        if values.dtype not in (np.uint8, np.uint16):
            raise PhotoError("its pixels are 32-bit numbers: save it with 8 or 16 bits a channel")
        return values if values.ndim == 3 else values[..., None]
    if kind == "PPM" and picture.tile[0].codec_name == "ppm":
        return _ppm_values(data, picture)
    swapped = [_swapped(tile.args) for tile in picture.tile] if kind in ("PNG", "TIFF") else []
    if not swapped or None in swapped or "transparency" in picture.info:
        return None
    low = open_picture(kind, data)
    low.tile = [tile._replace(args=args) for tile, args in zip(low.tile, swapped, strict=True)]
    upper, lower = (np.asarray(each).astype(np.uint16) for each in (picture, low))
    return np.asarray(upper << 8 | lower, dtype=np.uint16)


def scaled_to_8_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Values of so many bits, scaled to 8 bits."""
    table = np.round(np.arange(1 << bits) * (255 / ((1 << bits) - 1))).astype(np.uint8)
    return np.asarray(table[values], dtype=np.uint8)


def _swapped(arguments: Arguments) -> Arguments:
    """The arguments of Pillow's decoder with the byte order of 16-bit colour reversed. None if they are not for it."""
    rawmode, *rest = arguments if isinstance(arguments, tuple) else (arguments,)
    if not isinstance(rawmode, str) or not re.fullmatch(r"RGB[AX]?;16[BLN]", rawmode):
        return None
    swapped = rawmode[:-1] + _SWAPPED[rawmode[-1]]
    return (swapped, *rest) if isinstance(arguments, tuple) else swapped


def _ppm_values(data: bytes | memoryview, picture: ImageFile.ImageFile) -> Values:
    """The pixels of a PGM or PPM whose highest value is not 255, scaled to it. Pillow takes seconds per megapixel."""
    _, _, start, arguments = picture.tile[0]
    assert isinstance(arguments, tuple)
    highest = int(arguments[-1])
    shape = (picture.height, picture.width, 3 if picture.mode == "RGB" else 1)
    flat = np.frombuffer(data, ">u2" if highest > 255 else np.uint8, shape[0] * shape[1] * shape[2], start)
    if highest == 65535:
        return flat.astype(np.uint16).reshape(shape)
    table = np.round(np.arange(65536) * (255 / highest)).clip(0, 255).astype(np.uint8)
    return np.asarray(table[flat].reshape(shape), dtype=np.uint8)


def _jpeg_2000(file: BytesIO) -> ImageFile.ImageFile:
    """Opens a JPEG 2000 file. OpenJPEG decodes truncated files without an error and uses the size in the codestream, so
    the end marker and the size are checked here."""
    data = file.getvalue()
    start = data.find(J2K)
    boxed = int.from_bytes(data[start - 8 : start - 4], "big") if data[start - 4 : start] == b"jp2c" else 0
    stream = data[start : start - 8 + boxed if boxed else None]
    if start < 0 or not stream.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise PhotoError("cut off: its end marker is missing")
    picture = Jpeg2KImageFile(file)
    if Jpeg2KImageFile(BytesIO(stream)).size != picture.size:
        raise ValueError("its header and its codestream differ in size")
    return picture


def _heic(file: BytesIO) -> ImageFile.ImageFile:
    try:
        from pi_heif import HeifImageFile
    except ImportError as error:
        raise PhotoError("HEIC: needs a package that is not here: pip install 'fundus-grading[heic]'") from error
    picture: ImageFile.ImageFile = HeifImageFile(file)
    return picture


class _JpegXl(ImageFile.ImageFile):
    """The header alone. imagecodecs, which decodes the pixels, cannot give the size without decoding."""

    def _open(self) -> None:
        assert self.fp is not None
        self._size, self._mode = _jpeg_xl_size(self.fp.read()), "RGB"
        self.tile = [ImageFile._Tile("imagecodecs", (0, 0, *self._size), 0, None)]


def _jpeg_xl(file: BytesIO) -> ImageFile.ImageFile:
    try:
        import imagecodecs  # noqa: F401
    except ImportError as error:
        raise PhotoError("JPEG XL: needs a package that is not here: pip install 'fundus-grading[jxl]'") from error
    return _JpegXl(file)


def _jpeg_xl_size(data: bytes) -> tuple[int, int]:
    """Width and height, pixels, of a JPEG XL codestream, bare or in boxes (SizeHeader of ISO/IEC 18181-1).

    Raises ValueError if there is no codestream.
    """
    position = 0
    if data.startswith(_JXL_BOX):
        while (name := data[position + 4 : position + 8]) not in (b"jxlc", b"jxlp"):
            length = int.from_bytes(data[position : position + 4], "big")
            position += int.from_bytes(data[position + 8 : position + 16], "big") if length == 1 else length
            if length == 0 or position >= len(data):
                raise ValueError("no codestream")
        position += (16 if data[position : position + 4] == b"\0\0\0\1" else 8) + (4 if name == b"jxlp" else 0)
    if data[position : position + 2] != _JXL:
        raise ValueError("no codestream")
    bits, used = int.from_bytes(data[position + 2 : position + 18], "little"), 0

    def take(count: int) -> int:
        nonlocal used
        used += count
        return bits >> (used - count) & ((1 << count) - 1)

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    height, ratio = side(), take(3)
    across, down = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio]
    return height * across // down if ratio else side(), height


# Classes and not Image.open: no other format is tried, a JPEG with a second picture inside (MPO) is read as the JPEG
# that it begins with, and Pillow does not warn of the size.
_OPENERS: Final[dict[str, Callable[[BytesIO], ImageFile.ImageFile]]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "TIFF": TiffImageFile,
    "BMP": BmpImageFile,
    "WebP": WebPImageFile,
    "JPEG 2000": _jpeg_2000,
    "AVIF": AvifImageFile,
    "HEIC": _heic,
    "JPEG XL": _jpeg_xl,
    "PPM": PpmImageFile,
    "GIF": GifImageFile,
}
