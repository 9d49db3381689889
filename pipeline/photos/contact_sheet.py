"""Contact sheets: one picture with thumbnails of many photographs, in groups."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from pipeline.storage.artifacts import picture_mark

COLUMNS: Final = 12
SIDE: Final = 144  # side of a thumbnail, pixels
_GAP: Final = 8  # between thumbnails, pixels
_LINE: Final = 16  # height of a line of a caption, pixels
_HEADING: Final = 40  # height of a heading, pixels
_BACKGROUND: Final = (30, 30, 32)
_BRIGHT: Final = (240, 240, 240)
_DIM: Final = (165, 165, 170)


class Tile(NamedTuple):
    """A thumbnail and its caption."""

    picture: NDArray[np.uint8]  # (h, w, 3) RGB
    caption: str
    note: str = ""  # a second, dimmer line


def decode_small(jpeg: bytes | memoryview, side: int) -> Image.Image:
    """A cached JPEG in RGB, decoded at its smallest scale (1, 1/2, 1/4 or 1/8) that still covers `side` pixels."""
    with Image.open(BytesIO(jpeg)) as photo:
        photo.draft("RGB", (side, side))
        return photo.convert("RGB")


def thumbnail(jpeg: bytes | memoryview) -> NDArray[np.uint8]:
    """A cached JPEG in RGB, fitted into SIDE x SIDE pixels."""
    return np.asarray(ImageOps.contain(decode_small(jpeg, SIDE), (SIDE, SIDE)))


def encoded(picture: Image.Image, kind: str, what: str) -> bytes:
    """The bytes of a picture that this program drew.

    kind: "PNG" or "JPEG". what: what the picture is, for its metadata.
    """
    data = BytesIO()
    mark = picture_mark(what)
    if kind == "PNG":
        metadata = PngInfo()
        metadata.add_text("Software", mark)
        picture.save(data, kind, pnginfo=metadata)
    else:
        picture.save(data, kind, quality=92, comment=mark.encode())
    return data.getvalue()


def draw_sheet(groups: Mapping[str, Sequence[Tile]]) -> Image.Image:
    """Draws a section for each group: its key as the heading, then its pictures, at most 12 in a row.

    Each picture is fitted into SIDE x SIDE pixels. A text that is wider than its thumbnail loses its beginning, because
    ids mostly differ at the end.
    """
    columns = min(COLUMNS, max(map(len, groups.values()), default=0))
    lines = {heading: -(-len(tiles) // COLUMNS) for heading, tiles in groups.items()}
    height = _GAP + sum(_HEADING + count * _pitch(groups[heading]) for heading, count in lines.items())
    width = _GAP + max(columns, 4) * (SIDE + _GAP)  # a heading is as wide as four thumbnails
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(20), ImageFont.load_default(13)
    top = 0
    for heading, tiles in groups.items():
        draw.text((_GAP, top + _HEADING - _GAP), _fit(heading, large, width), _BRIGHT, large, anchor="ls")
        top += _HEADING
        for k, tile in enumerate(tiles):
            x = _GAP + k % COLUMNS * (SIDE + _GAP)
            y = top + k // COLUMNS * _pitch(tiles)
            fitted = ImageOps.contain(Image.fromarray(tile.picture), (SIDE, SIDE))
            sheet.paste(fitted, (x + (SIDE - fitted.width) // 2, y + (SIDE - fitted.height) // 2))
            for line, (text, colour) in enumerate(((tile.caption, _BRIGHT), (tile.note, _DIM))):
                draw.text((x, y + SIDE + 2 + line * _LINE), _fit(text, small, SIDE), colour, small)
        top += lines[heading] * _pitch(tiles)
    return sheet


def _pitch(tiles: Sequence[Tile]) -> int:
    """The distance from one row of thumbnails to the next, pixels."""
    return SIDE + _GAP + _LINE * (2 if any(tile.note for tile in tiles) else 1)


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text on one line, no wider than `width` pixels."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)  # ids may hold any byte
    if font.getlength(text) <= width:
        return text
    text = text[-width:]  # a letter is at least one pixel wide
    while font.getlength(f"…{text}") > width:
        text = text[1:]
    return f"…{text}"
