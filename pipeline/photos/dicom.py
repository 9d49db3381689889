"""DICOM files: their picture, and the few tags that are listed here. Nothing else of a file leaves this module.

Messages never quote a file, because its texts may name a patient.
"""

import re
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any, BinaryIO, Final, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.errors import PhotoError
from pipeline.photos.formats import J2K, MAX_PIXELS, Values, scaled_to_8_bits
from pipeline.photos.jpeg import Frame, frame_of, with_colour_model

SUFFIXES: Final = (".dcm", ".dicom")
HEADER: Final = 1 << 18
"""Bytes at the beginning of a file that hold the tags of `Tags`. Colour profiles and pixels come after them."""

_CLASS, _SYNTAX, _PATIENT, _EYE_OF_IMAGE, _EYE = 0x00020002, 0x00020010, 0x00100020, 0x00200062, 0x00200060
_SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES, _ROWS, _COLUMNS = (0x00280000 | tag for tag in (2, 4, 6, 8, 0x10, 0x11))
_ALLOCATED, _STORED, _HIGH, _SIGNED, _BURNED_IN = (0x00280000 | tag for tag in (0x100, 0x101, 0x102, 0x103, 0x301))
_PALETTE: Final = tuple(0x00280000 | tag for tag in (0x1101, 0x1102, 0x1103, 0x1201, 0x1202, 0x1203))
_PIXELS: Final = 0x7FE00010
_PICTURE_TAGS: Final = (
    *(_SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES, _ROWS, _COLUMNS),
    *(_ALLOCATED, _STORED, _HIGH, _SIGNED, _BURNED_IN, *_PALETTE, _PIXELS),
)
_KEPT: Final = {
    "manufacturer": 0x00080070,
    "model": 0x00081090,
    "acquisition date": 0x00080022,
    "study date": 0x00080020,
}
_ACQUIRED: Final = 0x0008002A  # date and time in one tag; some files have only this
KEPT: Final = tuple(_KEPT)
"""Names of the tags that can be kept in addition to the picture. A tag is kept only if the user asks for it."""

_IMPLICIT, _DEFLATED, _BIG_ENDIAN, _RLE = (f"1.2.840.10008.1.2{end}" for end in ("", ".1.99", ".2", ".5"))
_UNCOMPRESSED_SYNTAXES: Final = frozenset({_IMPLICIT, "1.2.840.10008.1.2.1", _DEFLATED, _BIG_ENDIAN})
_JPEG_SYNTAXES: Final = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51))
_JPEG_LOSSLESS_SYNTAXES: Final = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (57, 70))
_JPEG_2000_SYNTAXES: Final = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))
_NOT_PHOTOGRAPHS: Final = {
    "1.2.840.10008.1.3.10": "an index of other files, no picture",
    **{f"1.2.840.10008.5.1.4.1.1.77.1.5.{number}": "a tomogram, no photograph" for number in (4, 7, 8)},
}
"""SOP classes without a photograph: DICOMDIR, and optical coherence tomography."""
GREY_FRAMES: Final = "several grey frames, as of an angiogram, no colour photograph"


class Tags(NamedTuple):
    """What is read from a file in addition to its picture."""

    patient: str  # the patient's id, "" for none; used only to make a pseudonym, unless the user says otherwise
    eye: str  # "left", "right" or ""
    kept: dict[str, str]  # name of KEPT -> text; dates as 2024-01-31
    ignored: str  # why the file is not a photograph; "" if it may be one
    complete: bool  # False: the bytes ended before the last tag


def read_tags(file: IO[bytes]) -> Tags | None:
    """The tags at the beginning of a file.

    None if it is not a DICOM file, or if its tags cannot be read. Then its picture cannot be read either, and
    `open_dicom` raises the reason.
    """
    if file.read(132)[128:] != b"DICM":
        return None
    try:
        wanted = (_PATIENT, _EYE_OF_IMAGE, _EYE, _SAMPLES, _PHOTOMETRIC, _FRAMES, _ACQUIRED, *_KEPT.values())
        elements = _Elements(file, wanted, _FRAMES)
        kept = {name: " ".join(elements.text(tag)[:64].split()) for name, tag in _KEPT.items()}
        kept["acquisition date"] = kept["acquisition date"] or elements.text(_ACQUIRED)[:8]
        why = _NOT_PHOTOGRAPHS.get(elements.text(_CLASS), "")
        if not why and elements.frames > 1 and not elements.in_colour:
            why = GREY_FRAMES
    except Exception:  # pydicom raises a dozen kinds of exception on damaged files
        return None
    for name in kept:
        if name.endswith("date"):
            date = re.match(r"(\d{4})\.?(\d\d)\.?(\d\d)$", kept[name])
            kept[name] = "-".join(date.groups()) if date else ""
    eye = {"L": "left", "R": "right"}.get(elements.text(_EYE_OF_IMAGE) or elements.text(_EYE), "")
    return Tags(elements.text(_PATIENT), eye, kept, why, elements.complete)


def open_dicom(data: bytes | memoryview) -> "Dicom":
    """The picture of a file, not yet decoded.

    Raises PhotoError if the file has no picture that can be read, and any exception if the file is damaged.
    """
    elements = _Elements(BytesIO(data), _PICTURE_TAGS, _PIXELS)
    if why := _NOT_PHOTOGRAPHS.get(elements.text(_CLASS)):
        raise PhotoError(f"DICOM: {why}")
    width, height = elements.number(_COLUMNS, 0), elements.number(_ROWS, 0)
    if not (width and height):
        raise PhotoError("DICOM: there is no picture in it")
    if not elements.found.get(_PIXELS):
        raise PhotoError("cut off: its pixels are missing")
    if elements.frames > 1 and not elements.in_colour:
        raise PhotoError(f"DICOM: {GREY_FRAMES}")
    return Dicom(elements, width, height)


@dataclass(frozen=True)
class Dicom:
    """The picture of a file: its first frame."""

    elements: "_Elements"
    width: int  # pixels
    height: int

    @property
    def has_more(self) -> bool:
        return self.elements.frames > 1

    @property
    def burned_in(self) -> bool:
        """Whether the file says that text is drawn into its picture (Burned In Annotation)."""
        return self.elements.text(_BURNED_IN) == "YES"

    @property
    def inverted(self) -> bool:
        """Whether zero is white."""
        return self.elements.text(_PHOTOMETRIC) == "MONOCHROME1"

    def jpeg(self) -> bytes | None:
        """The JPEG of the picture, without metadata, and marked with its colour model. None if the picture is not a
        JPEG, or a lossless one.

        The mark is needed because some files call a YCbCr JPEG RGB, or an RGB one YCbCr, and the JPEG itself may not
        say what it is.
        """
        if self.elements.syntax not in _JPEG_SYNTAXES:
            return None
        stream, frame = self._jpeg_frame()
        if frame.components != 3:
            return with_colour_model(stream, None)
        declared = frame.subsampled or (frame.is_ycc if frame.marked else self._declares_ycc)
        small = JpegImageFile(BytesIO(with_colour_model(stream, "RGB")))  # the stored values, not converted
        small.draft(None, (max(1, self.width // 8), max(1, self.height // 8)))
        return with_colour_model(stream, "YCbCr" if _is_ycc(np.asarray(small), declared) else "RGB")

    def values(self) -> Values:
        """The pixels, uint8 or uint16 (h, w, 1 or 3), in the file's colour model. Palette indices become colours.

        Values of 8 and of 16 bits stay as they are. Any other number of bits that the file gives is scaled to 8 bits.
        """
        elements, bits = self.elements, 8
        if elements.syntax in _JPEG_2000_SYNTAXES:
            values, bits = self._jpeg_2000()
        elif elements.syntax in _JPEG_LOSSLESS_SYNTAXES:
            stream, _ = self._jpeg_frame()
            values = np.asarray(JpegImageFile(BytesIO(with_colour_model(stream, "RGB"))))
        elif elements.syntax in _UNCOMPRESSED_SYNTAXES or elements.syntax == _RLE:
            values, bits = self._uncompressed()
        else:
            raise PhotoError(f"DICOM: {_syntax_name(elements.syntax)} is not read: export it as JPEG 2000, or as PNG")
        values = values if values.ndim == 3 else values[..., None]
        if elements.text(_PHOTOMETRIC) == "PALETTE COLOR":
            return self._palette_colours(values)
        return values if bits in (8, 16) else scaled_to_8_bits(values, bits)

    def in_colour(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The 8-bit pixels of `values` as RGB (h, w, 3) or grey (h, w, 1)."""
        if values.shape[2] == 1:
            return values
        if self.elements.text(_PHOTOMETRIC) == "PALETTE COLOR" or not _is_ycc(values, self._declares_ycc):
            return values
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(values[..., [0, 2, 1]]), cv2.COLOR_YCrCb2RGB), np.uint8)

    @property
    def _declares_ycc(self) -> bool:
        """Whether the file says YCbCr. YBR_ICT and YBR_RCT do not count: the JPEG 2000 decoder has undone them."""
        return self.elements.text(_PHOTOMETRIC).startswith("YBR_FULL")

    def _frame(self, *begins: bytes) -> bytes:
        """The first frame, compressed. Raises PhotoError if it begins with none of `begins`."""
        from pydicom.encaps import get_frame

        stream = get_frame(self.elements.found[_PIXELS], 0, number_of_frames=self.elements.frames)
        if not stream.startswith(begins):
            raise PhotoError(
                f"DICOM: scrambled, encrypted or damaged pixels, which are no {_syntax_name(self.elements.syntax)}: "
                "export it from the program of its maker"
            )
        return stream

    def _jpeg_frame(self) -> tuple[bytes, Frame]:
        stream = self._frame(b"\xff\xd8")
        if not (end := stream.rfind(b"\xff\xd9")) + 1:
            raise PhotoError("cut off: its end marker is missing")
        stream = stream if stream[end + 2 :].strip(b"\0\xff") else stream[: end + 2]  # padded to an even length
        frame = frame_of(stream)
        if frame.bits != 8:
            raise PhotoError(
                f"DICOM: {_syntax_name(self.elements.syntax)} of {frame.bits} bits is not read: export it as PNG"
            )
        if frame.components not in (1, 3):
            raise PhotoError(f"DICOM: {frame.components} values a pixel, which must be 1 or 3")
        self._check_size(frame.width, frame.height)
        return stream, frame

    def _check_size(self, width: int, height: int) -> None:
        if (width, height) != (self.width, self.height):
            raise PhotoError("damaged DICOM: its header and its pixels differ in size")

    def _jpeg_2000(self) -> tuple[Values, int]:
        from openjpeg.utils import decode

        boxed = self._frame(J2K, b"\0\0\0\x0cjP  ")
        stream = boxed[boxed.find(J2K) :].rstrip(b"\0\xff")  # padded to an even length
        if not stream.endswith(b"\xff\xd9"):  # OpenJPEG would decode a truncated file without an error
            raise PhotoError("cut off: its end marker is missing")
        right, down, left, top = struct.unpack_from(">4L", stream, 8)
        components, depth = struct.unpack_from(">HB", stream, 40)
        self._check_size(right - left, down - top)
        if components not in (1, 3) or depth > 15:
            raise PhotoError(
                f"DICOM: {components} values a pixel, which must be 1 or 3 of up to 16 bits, without signs"
            )
        values = decode(stream, j2k_format=0)
        if values.dtype not in (np.uint8, np.uint16) or values.shape[:2] != (self.height, self.width):
            raise ValueError("not what the codestream said")
        return values, depth + 1

    def _uncompressed(self) -> tuple[Values, int]:
        number = self.elements.number
        samples, allocated = number(_SAMPLES, 1), number(_ALLOCATED, 8)
        bits = number(_STORED, allocated)
        unused = number(_HIGH, bits - 1) + 1 - bits  # low bits that are not used
        if samples not in (1, 3):
            raise PhotoError(f"DICOM: {samples} values a pixel, which must be 1 or 3")
        if allocated not in (8, 16) or number(_SIGNED, 0):
            raise PhotoError("DICOM: pixels of 1 or 32 bits or with signs, which are no photograph's")
        if bits < 1 or unused < 0 or bits + unused > allocated:
            raise ValueError("bits that cannot be")
        read = self._decode_rle if self.elements.syntax == _RLE else self._decode_native
        values = read(samples, allocated // 8)
        if bits < allocated:
            values = np.asarray(values >> unused & ((1 << bits) - 1), values.dtype)
        return values, bits

    def _decode_native(self, samples: int, nbytes: int) -> NDArray[Any]:
        data, pixels = self.elements.found[_PIXELS], self.width * self.height
        if self.elements.text(_PHOTOMETRIC) == "YBR_FULL_422" and len(data) < self.elements.frames * pixels * samples:
            return self._chroma_422(data)
        wanted = pixels * samples * nbytes
        if len(data) < self.elements.frames * wanted:
            raise PhotoError("cut off: fewer pixels than its header says")
        if nbytes == 1 and not self.elements.little and self.elements.in_words:
            data = np.frombuffer(data, ">u2").astype("<u2").tobytes()
        flat = np.frombuffer(data, (np.uint8, "<u2" if self.elements.little else ">u2")[nbytes - 1], pixels * samples)
        return self._reshaped(flat.astype((np.uint8, np.uint16)[nbytes - 1]), samples, self.elements.number(_PLANAR, 0))

    def _chroma_422(self, data: bytes) -> NDArray[Any]:
        """YBR_FULL_422: two pixels in a row have a luma value each and share both chroma values."""
        pixels = self.width * self.height
        if self.width % 2 or len(data) < self.elements.frames * pixels * 2:
            raise PhotoError("cut off: fewer pixels than its header says")
        pairs = np.frombuffer(data, np.uint8, pixels * 2).reshape(-1, 4)
        values = np.stack([pairs[:, [0, 1]], pairs[:, [2, 2]], pairs[:, [3, 3]]], axis=-1)
        return values.reshape(self.height, self.width, 3)

    def _reshaped(self, flat: NDArray[Any], samples: int, planes: int) -> NDArray[Any]:
        if planes and samples == 3:
            return np.ascontiguousarray(flat.reshape(3, self.height, self.width).transpose(1, 2, 0))
        return flat.reshape(self.height, self.width, samples)

    def _decode_rle(self, samples: int, nbytes: int) -> NDArray[Any]:
        """Run-length encoding (PS3.5, annex G): one segment for each byte of each sample, the upper bytes first.

        pydicom's decoder is not used: it has no limit, and a segment can decode to 64 times its size.
        """
        frame, pixels = self._frame(b""), self.width * self.height
        count, *starts = struct.unpack_from("<16L", frame)
        if count != samples * nbytes:
            raise ValueError("another number of segments")
        ends = [*starts[1:count], len(frame)]
        planes = [_decode_packbits(frame[start:end], pixels) for start, end in zip(starts[:count], ends, strict=True)]
        if nbytes == 1:
            return self._reshaped(np.concatenate(planes), samples, 1)
        wide = [upper.astype(np.uint16) << 8 | lower for upper, lower in zip(planes[::2], planes[1::2], strict=True)]
        return self._reshaped(np.concatenate(wide), samples, 1)

    def _palette_colours(self, values: Values) -> Values:
        order = "<" if self.elements.little else ">"
        colours = []
        for descriptor_tag, data_tag in zip(_PALETTE[:3], _PALETTE[3:], strict=True):
            descriptor, data = (self.elements.found.get(tag, b"") for tag in (descriptor_tag, data_tag))
            if len(descriptor) < 6 or not data:
                raise PhotoError("DICOM: its palette is missing, or in segments, which are not read")
            count, first = struct.unpack_from(f"{order}HH", descriptor)
            count = count or 1 << 16
            table = np.frombuffer(data, f"{order}u2" if len(data) >= 2 * count else np.uint8, count)
            table = (table >> 8 if table.max() > 255 else table).astype(np.uint8)  # some files store 8 bits in 16
            colours.append(table[(values[..., 0].astype(int) - first).clip(0, count - 1)])
        return np.stack(colours, axis=-1)


class _Elements:
    """The wanted elements of a file up to the tag `last`, as bytes. No other element is read."""

    def __init__(self, file: IO[bytes], wanted: tuple[int, ...], last: int) -> None:
        try:
            import pydicom.filereader
        except ImportError as error:
            needs = "DICOM: needs a package that is not here: pip install 'fundus-grading[dicom]'"
            raise PhotoError(needs) from error
        self.found: dict[int, bytes] = {}
        self.complete = self.in_words = False
        self.little = True

        def read(file: IO[bytes], explicit: bool, last: int) -> None:
            def is_over(tag: int, vr: str | None, length: int) -> bool:
                if tag == _PIXELS == last:
                    self.in_words = vr in (None, "OW")
                    if length != 0xFFFFFFFF and length > _bytes_left(file):
                        raise PhotoError("cut off: fewer pixels than its header says")
                self.complete = tag > last
                return self.complete

            for element in pydicom.filereader.data_element_generator(
                cast(BinaryIO, file), not explicit, self.little, is_over, specific_tags=[_CLASS, _SYNTAX, *wanted]
            ):
                if isinstance(element.value, bytes):
                    self.found.setdefault(int(element.tag), element.value)

        file.seek(132)
        read(file, True, 0x0002FFFF)
        self.syntax = self.text(_SYNTAX) or _IMPLICIT
        self.little = self.syntax != _BIG_ENDIAN
        start = file.tell()
        if self.syntax == _DEFLATED:  # 1 MB can inflate to 1,000 MB, so the header sets the limit
            packed, start = file.read(), 0
            file = BytesIO(_inflate(packed, HEADER))
            if last == _PIXELS:
                read(file, True, _ALLOCATED)
                pixels = self.number(_ROWS, 0) * self.number(_COLUMNS, 0) * self.frames
                nbytes = pixels * self.number(_SAMPLES, 1) * (self.number(_ALLOCATED, 8) // 8)
                file = BytesIO(_inflate(packed, HEADER + min(nbytes, 6 * MAX_PIXELS)))
        explicit = self.syntax != _IMPLICIT or file.read(6)[4:].isalpha()  # some files are called implicit and are not
        file.seek(start)
        self.complete = False
        try:
            read(file, explicit, last)
        except EOFError:
            raise PhotoError("cut off: its pixels have no end") from None

    def text(self, tag: int) -> str:
        value = self.found.get(tag, b"").strip(b" \0")
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin-1")

    def number(self, tag: int, default: int) -> int:
        value = self.found.get(tag, b"")[:2]
        return int.from_bytes(value, "little" if self.little else "big") if len(value) == 2 else default

    @property
    def frames(self) -> int:
        return max(1, int(self.text(_FRAMES) or 1))

    @property
    def in_colour(self) -> bool:
        return self.number(_SAMPLES, 1) > 1 or self.text(_PHOTOMETRIC) == "PALETTE COLOR"


def _bytes_left(file: IO[bytes]) -> int:
    """Bytes from the current position to the end of the file."""
    here = file.tell()
    end = file.seek(0, 2)
    file.seek(here)
    return end - here


def _inflate(packed: bytes, max_bytes: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, max_bytes)
    except zlib.error:
        raise PhotoError("damaged DICOM: its bytes cannot be inflated") from None


def _decode_packbits(data: bytes, wanted: int) -> NDArray[np.uint8]:
    """The first `wanted` bytes of a PackBits segment. Raises PhotoError if it has fewer."""
    out, position = bytearray(), 0
    while len(out) < wanted and position < len(data):
        code = data[position]
        if code < 128:
            out += data[position + 1 : position + 2 + code]
            position += code + 2
        else:
            out += data[position + 1 : position + 2] * (257 - code if code > 128 else 0)
            position += 2 if code > 128 else 1
    if len(out) < wanted:
        raise PhotoError("cut off: fewer pixels than its header says")
    return np.frombuffer(out, np.uint8, wanted)


def _is_ycc(values: NDArray[np.uint8], declared: bool) -> bool:
    """Whether pixels (h, w, 3) are YCbCr and not RGB.

    Black is (0, 128, 128) in YCbCr, and white is (255, 128, 128). So the black around a retina tells the two apart: in
    the wrong colour model it is green. `declared`, what the file says, decides if fewer than 0.5 % of the pixels are
    black or white.
    """
    step = max(1, min(values.shape[:2]) // 256)
    first, others = values[::step, ::step, 0], values[::step, ::step, 1:]
    dark, light = first <= 16, first >= 240
    colourless = (abs(others.astype(np.int16) - 128) <= 16).all(axis=-1)
    ycc = np.count_nonzero((dark | light) & colourless)
    rgb = np.count_nonzero(dark & (others <= 48).all(axis=-1) | light & (others >= 208).all(axis=-1))
    return declared if max(ycc, rgb) < first.size / 200 else bool(ycc > rgb)


def _syntax_name(syntax: str) -> str:
    """The name of a transfer syntax in the standard. The file's own text is never quoted."""
    from pydicom.config import IGNORE
    from pydicom.uid import UID

    name = UID(syntax, validation_mode=IGNORE).name
    return name if name != syntax else "an unknown transfer syntax"
