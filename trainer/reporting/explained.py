"""The folder of pictures that show where the evidence for a grade lies, its contact sheet and its record."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.cache.shards import encode_key
from pipeline.grades import GRADES
from pipeline.photos.contact_sheet import SIDE, Tile, draw_sheet, encoded
from pipeline.photos.discovery import Refusal
from pipeline.storage.artifacts import EXPLAINED, EXPLAINED_COLUMNS, SHEET
from pipeline.storage.atomic import write_whole
from pipeline.storage.csv_files import defused, to_csv
from pipeline.storage.outputs import recorded
from trainer.inference.gradcam import overlay
from trainer.inference.predictor import Explanation
from trainer.kinds import is_explained_file

SHOWN_SIDE: Final = 512
"""Of a picture, pixels, at least: training images may be too small to look at."""
REJECTS: Final = "rejects.csv"
NOT_YET: Final = ("",) * (len(EXPLAINED_COLUMNS) - 1)
LONGEST: Final = 200
"""Bytes of a picture's name; file systems allow 255."""
ON_SHEET: Final = 240
"""Photographs on the contact sheet, 12 abreast."""


class ExplainedFolder:
    """<id>.jpg for each photograph, as the network sees it and again with the Grad-CAM overlay beside it, and
    contact_sheet.png; refusals go to rejects.csv. explained.csv lists all these files: what an earlier one lists and
    this one does not is removed, so that the folder shows one result.

    Every method raises OSError where a file cannot be written.
    """

    def __init__(self, path: Path, ids: Iterable[str]) -> None:
        """Makes the folder. `ids`: of all photographs that may be explained."""
        self.path = path
        self.by_grade = Counter[int]()
        """Explained photographs by the grade that was explained."""
        self.mute = 0
        """Those in which nothing speaks for it."""
        self._tiles: dict[int, list[Tile]] = defaultdict(list)
        self._rows: list[tuple[object, ...]] = [(name, *NOT_YET) for name in (EXPLAINED, SHEET, REJECTS)]
        path.mkdir(parents=True, exist_ok=True)
        self._stale = set(recorded(path / EXPLAINED))
        # Before the first picture: of a command that is killed here, the next knows which files are its own.
        names = [*self._stale, *map(picture_name, ids)]
        self._write_record([*self._rows, *((name, *NOT_YET) for name in names)])

    def add(self, explanation: Explanation) -> None:
        """Writes the picture of a photograph."""
        (photograph, predicted, *_), grade, image, heat = explanation
        drawn, name, probability = _beside(image, heat), picture_name(photograph.id), explanation.probability
        with write_whole(self.path / name) as file:
            file.write(encoded(Image.fromarray(drawn), "JPEG", "what a network looked at"))
        self._rows.append((name, photograph.id, photograph.source, predicted, grade, probability))
        self.mute += not heat.any()
        if self.by_grade.total() < ON_SHEET:
            small = cv2.resize(drawn[:, drawn.shape[0] :], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            note = f"p{grade} {probability:.2f}"
            note += "" if predicted == grade else f", graded {predicted}"
            self._tiles[grade].append(Tile(np.asarray(small, np.uint8), photograph.id, note))
        self.by_grade[grade] += 1

    def finish(self, refused: Sequence[Refusal], what: str) -> None:
        """Writes the list of refusals, the contact sheet where there is any picture, and the record; removes what an
        earlier command left. `what` the grades of the sheet's headings are: "predicted" or "explained"."""
        for name in self._stale - {str(row[0]) for row in self._rows}:
            if is_explained_file(self.path / name):  # a record proves nothing by itself
                (self.path / name).unlink(missing_ok=True)
        with write_whole(self.path / REJECTS) as file:
            lines = [(defused(each.source), defused(each.reason)) for each in sorted(refused)]
            file.write(to_csv(lines, Refusal._fields))
        if not self.by_grade:
            (self.path / SHEET).unlink(missing_ok=True)  # an older result's
            self._write_record([row for row in self._rows if row[0] != SHEET])
            return
        counts = sorted(self.by_grade.items())
        groups = {f"{what} {grade} {GRADES[grade]}: {count}": self._tiles[grade] for grade, count in counts}
        with write_whole(self.path / SHEET) as file:
            file.write(encoded(draw_sheet(groups), "PNG", "a sheet of explained photographs"))
        self._write_record(self._rows)

    def _write_record(self, rows: Sequence[Sequence[object]]) -> None:
        with write_whole(self.path / EXPLAINED) as file:
            file.write(to_csv(sorted(rows, key=lambda row: str(row[0])), EXPLAINED_COLUMNS))


def picture_name(id: str) -> str:
    """Of a photograph's picture: its id, or of one that is too long for a file system its beginning and a digest."""
    key = encode_key(id)
    if len(key) > LONGEST:
        key = f"{key[: LONGEST - 17]}-{sha256(id.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
    return f"{key}.jpg"


def _beside(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image (s, s, 3) and, right of it, its overlay: (t, 2 t, 3) with t at least SHOWN_SIDE."""
    side = max(SHOWN_SIDE, len(image))
    large = np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
    return np.hstack([large, overlay(large, np.asarray(cv2.resize(heat, (side, side)), np.float32))])
