"""The folder of explained photographs: pictures with Grad-CAM, a contact sheet and a record of these files."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pipeline.cache.shards import encode_key
from pipeline.grades import GRADES
from pipeline.photos.contact_sheet import SIDE, Tile, draw_sheet, encoded
from pipeline.photos.discovery import Refusal
from pipeline.photos.preparation import Recipe
from pipeline.photos.retina import Square
from pipeline.storage.artifacts import EXPLAINED, EXPLAINED_COLUMNS, SHEET
from pipeline.storage.atomic import write_atomically
from pipeline.storage.csv_files import to_csv
from pipeline.storage.outputs import recorded
from trainer.inference.gradcam import FEWEST, Style, heat_on_photograph, overlay
from trainer.inference.inputs import original
from trainer.inference.predictions import refusals_csv
from trainer.inference.predictor import Explanation
from trainer.kinds import is_explained_file

SHOWN_SIDE: Final = 512
"""Least length of a picture's shorter side, pixels. Smaller photographs are enlarged."""
MIDDLE: Final = (190, 100, 50)
"""RGB of a typical retina; the background of the colour scale in the legend."""
REJECTS: Final = "rejects.csv"
NOT_YET: Final = ("",) * (len(EXPLAINED_COLUMNS) - 1)
"""The cells, besides the file name, of a file that is not written yet or shows no photograph."""
LONGEST: Final = 200
"""Most bytes of an encoded id in a file name; file systems allow 255."""
ON_SHEET: Final = 240
"""Most photographs on the contact sheet, in rows of 12."""


class ExplainedFolder:
    """Writes <id>.jpg for each photograph: the photograph at its own resolution, the same with Grad-CAM, and a legend.

    It also writes contact_sheet.png, and rejects.csv with the refusals. explained.csv lists all files. Files that only
    an earlier explained.csv lists are removed, so that the folder shows one result.

    Every method raises OSError if a file cannot be written.
    """

    def __init__(self, path: Path, ids: Iterable[str], recipe: Recipe, cells: int, style: Style = "heat") -> None:
        """Makes the folder. ids: of all photographs that may be explained. recipe: of the weights. cells: a side of the
        last feature map."""
        self.path = path
        self._recipe, self._cells, self._style = recipe, cells, style
        self.by_grade = Counter[int]()
        """Number of photographs by the grade that was explained."""
        self.mute = 0
        """Number of photographs without any evidence for it."""
        self._tiles: dict[int, list[Tile]] = defaultdict(list)
        self._rows: list[tuple[object, ...]] = [(name, *NOT_YET) for name in (EXPLAINED, SHEET, REJECTS)]
        path.mkdir(parents=True, exist_ok=True)
        self._stale = set(recorded(path / EXPLAINED))
        # Before the first picture: if the command is killed, the next one still knows which files it may remove.
        names = [*self._stale, *map(picture_name, ids)]
        self._write_record([*self._rows, *((name, *NOT_YET) for name in names)])

    def add(self, explanation: Explanation) -> None:
        """Writes the picture of a photograph. Raises the errors of `original`."""
        (photograph, predicted, *_), grade, _, heat = explanation
        name, probability = picture_name(photograph.id), explanation.probability
        photo, heated = covered(explanation, self._recipe, self._style)
        below = legend(2 * photo.shape[1], grade, self._style, self._cells, mute=not heat.any())
        drawn = np.vstack([np.hstack([photo, heated]), below])
        with write_atomically(self.path / name) as file:
            file.write(encoded(Image.fromarray(drawn), "JPEG", "what a network looked at"))
        self._rows.append((name, photograph.id, photograph.source, predicted, grade, probability))
        self.mute += not heat.any()
        if self.by_grade.total() < ON_SHEET:
            small = ImageOps.contain(Image.fromarray(heated), (SIDE, SIDE), Image.Resampling.BOX)
            note = f"p{grade} {probability:.2f}"
            note += "" if predicted == grade else f", graded {predicted}"
            self._tiles[grade].append(Tile(np.asarray(small, np.uint8), photograph.id, note))
        self.by_grade[grade] += 1

    def finish(self, refused: Sequence[Refusal], what: str) -> None:
        """Writes refusals, contact sheet (if there is a picture) and record; removes the files of an earlier command.

        what: the kind of grade in the headings of the sheet, "predicted" or "explained".
        """
        for name in self._stale - {str(row[0]) for row in self._rows}:
            if is_explained_file(self.path / name):  # the record may be wrong
                (self.path / name).unlink(missing_ok=True)
        with write_atomically(self.path / REJECTS) as file:
            file.write(refusals_csv(refused))
        if not self.by_grade:
            (self.path / SHEET).unlink(missing_ok=True)  # of an earlier command
            self._write_record([row for row in self._rows if row[0] != SHEET])
            return
        counts = sorted(self.by_grade.items())
        groups = {f"{what} {grade} {GRADES[grade]}: {count}": self._tiles[grade] for grade, count in counts}
        with write_atomically(self.path / SHEET) as file:
            file.write(encoded(draw_sheet(groups), "PNG", "a sheet of explained photographs"))
        self._write_record(self._rows)

    def _write_record(self, rows: Sequence[Sequence[object]]) -> None:
        with write_atomically(self.path / EXPLAINED) as file:
            file.write(to_csv(sorted(rows, key=lambda row: str(row[0])), EXPLAINED_COLUMNS))


def covered(
    explanation: Explanation, recipe: Recipe, style: Style = "heat"
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The photograph, (h, w, 3) RGB, and the same with its heat map. Small ones are enlarged.

    Raises the errors of `original`.
    """
    image, (left, top, side) = original(explanation.prediction.photograph, recipe)
    scale = max(1.0, SHOWN_SIDE / min(image.shape[:2]))
    if scale > 1:
        height, width = (round(scale * each) for each in image.shape[:2])
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    square = Square(scale * left, scale * top, scale * side)
    heat = heat_on_photograph(explanation.heat, square, image.shape[1], image.shape[0])
    return image, overlay(image, heat, style)


def picture_name(id: str) -> str:
    """The file name of a photograph's picture: its encoded id; if that is too long, its beginning and a digest."""
    key = encode_key(id)
    if len(key) > LONGEST:
        key = f"{key[: LONGEST - 17]}-{sha256(id.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
    return f"{key}.jpg"


def coarseness(cells: int) -> str:
    """A warning if the last feature map has fewer cells per side than FEWEST; else ""."""
    if cells >= FEWEST:
        return ""
    return (
        f"Coarse: the network's last feature map has {cells} x {cells} cells, each 1/{cells} of the picture wide. "
        "Training on larger images (--size) gives more."
    )


def legend(width: int, grade: int, style: Style, cells: int, *, mute: bool) -> NDArray[np.uint8]:
    """The legend below a picture, (h, width, 3) RGB. mute: whether there is no evidence for the grade."""
    size = max(14, width // 64)
    margin, step = size // 2, round(1.5 * size)
    what = f"evidence for grade {grade} ({GRADES[grade]})"
    if mute:
        lines = [f"Right: there is no {what} anywhere."]
    else:
        lines = [f"Right: where the {what} lies. It is not a segmentation of lesions."]
        if style == "outline":
            lines.append("White line: outside it the evidence is less than half of the most in this photograph.")
    lines += filter(None, [coarseness(cells)])
    has_scale = style == "heat" and not mute
    strip = Image.new("RGB", (width, step * (len(lines) + has_scale) + size), (24, 24, 26))
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size)
    if has_scale:
        bar = (size, 10 * size)
        ramp = np.broadcast_to(np.linspace(0, 1, bar[1], dtype=np.float32), bar)
        scale = overlay(np.full((*bar, 3), MIDDLE, np.uint8), ramp)
        strip.paste(Image.fromarray(scale), (4 * size, margin))
        draw.text((margin, margin), "none", "white", font)
        draw.text((15 * size, margin), "most in this photograph; white line: half of the most", "white", font)
    for number, line in enumerate(lines, has_scale):
        draw.text((margin, margin + number * step), line, "white", font)
    return np.asarray(strip)
