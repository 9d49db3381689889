"""The header segments of a JPEG: the frame, the colour model, comments."""

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LOSSLESS: Final = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment
_ADOBE: Final = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"


class Frame(NamedTuple):
    """The frame header of a JPEG (ITU-T T.81), and its colour model."""

    lossless: bool  # process 14, not a DCT
    bits: int  # per value
    width: int  # pixels
    height: int
    components: int  # values per pixel
    marked: bool  # the file says which colour model it has
    is_ycc: bool  # libjpeg reads three components as YCbCr (True) or RGB (False)
    subsampled: bool  # components differ in size, which only those of YCbCr do


def frame_of(stream: bytes) -> Frame:
    """The frame of a JPEG. Raises ValueError if there is none before the first scan."""
    jfif, adobe = False, -1
    for marker, start, end in _segments(stream):
        body = stream[start + 4 : end]
        if marker == 0xE0 and body.startswith(b"JFIF\0"):
            jfif = True
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
        elif marker in _FRAMES:
            if len(body) < 6 or len(body) != 6 + 3 * body[5]:
                break
            parts = [body[position : position + 2] for position in range(6, len(body), 3)]
            by_id = bytes(part[0] for part in parts) == b"RGB"
            is_ycc = jfif or (adobe != 0 if adobe >= 0 else not by_id)
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            subsampled = len({part[1] for part in parts}) > 1
            marked = jfif or adobe >= 0 or by_id
            return Frame(marker in _LOSSLESS, body[0], width, height, len(parts), marked, is_ycc, subsampled)
    raise ValueError("no frame in a JPEG")


def is_lossless(stream: bytes | memoryview) -> bool:
    """Whether a JPEG is lossless (process 14). libjpeg does not decode such a JPEG at a smaller scale."""
    try:
        return frame_of(bytes(stream)).lossless
    except ValueError:
        return False


def with_colour_model(stream: bytes, model: Literal["RGB", "YCbCr"] | None) -> bytes:
    """The JPEG without metadata, and with Adobe's segment for the colour model if one is given. All readers obey it.

    Raises ValueError if a segment is truncated.
    """
    adobe_segment = b"" if model is None else _ADOBE + bytes([model == "YCbCr"])
    kept, scan = [stream[:2], adobe_segment], 0
    for marker, start, end in _segments(stream):
        scan = end
        if not 0xE0 <= marker <= 0xEF and marker != 0xFE:
            kept.append(stream[start:end])
    return b"".join([*kept, stream[scan:]])


def with_comment(stream: bytes, text: str) -> bytes:
    """The JPEG with a comment of up to 65,533 bytes of ASCII, placed after the JFIF header if there is one."""
    position = 4 + int.from_bytes(stream[4:6], "big") if stream[2:4] == b"\xff\xe0" else 2
    comment = text.encode("ascii")
    return stream[:position] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + stream[position:]


def _segments(stream: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (marker, start, end) for each segment before the first scan.

    Bytes between segments are skipped, as libjpeg does. Raises ValueError if a segment is truncated.
    """
    position = 2
    while (position := stream.find(b"\xff", position)) >= 0 and position + 4 <= len(stream):
        marker = stream[position + 1]
        if marker in (0x00, 0xFF) or marker in _STANDALONE:
            position += 1 if marker == 0xFF else 2
            continue
        if marker in (0xD8, 0xD9, 0xDA):
            return
        end = position + 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
        if end < position + 4 or end > len(stream):
            raise ValueError("a JPEG is truncated")
        yield marker, position, end
        position = end
