"""Which of the photographs to grade show the patient's other eye, for networks that take it into account."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from torch import Tensor

from pipeline.cache.eyes import pair_eyes
from pipeline.cache.manifest import UNGRADABLE
from pipeline.errors import SourceError
from pipeline.photos.eye_names import EYE_WORDS
from pipeline.photos.fingerprint import Print
from trainer.inference.inputs import Eye, Photograph

COLUMNS: Final = ("id", "patient", "eye")
VISIT: Final = "visit"
"""Columns of a table of eyes; the last one may be missing."""


class Scored(NamedTuple):
    """What a network reads in a photograph, by itself; see `EyeScores`."""

    photograph: Photograph
    flags: tuple[str, ...]
    own: Tensor  # float32 (views, k)
    fellow: Tensor  # float32 (k,)
    print: Print


def fellows_among(scored: Sequence[Scored]) -> list[list[int]]:
    """For each photograph the positions of those of the patient's other eye at the same visit. Blank and ungradable
    photographs are no fellows, and neither is a copy that is named as the other eye."""
    eyes = [each.photograph.eye for each in scored]
    usable = (not {"blank", UNGRADABLE} & set(each.flags) for each in scored)
    pairs = pair_eyes((eye.visit for eye in eyes), (eye.side for eye in eyes), usable)
    fellows: list[list[int]] = [[] for _ in scored]
    for one, other in zip(pairs.rows.tolist(), pairs.fellows.tolist(), strict=True):
        if not scored[one].print.is_copy(scored[other].print):
            fellows[one].append(other)
    return fellows


@dataclass(frozen=True)
class EyesTable:
    """A table that says whose eye each photograph shows: `trainer predict --eyes`."""

    eyes: dict[str, Eye]
    """By id."""

    @classmethod
    def read(cls, path: Path) -> "EyesTable":
        """Reads a CSV table with the columns `id`, `patient`, `eye` and, if there are several visits, `visit`.

        Cells are separated by commas, or by semicolons, as some spreadsheets write them.

        Raises SourceError with the file and the row if it cannot be read, lacks a column, names an eye in an unknown
        word, or an id twice.
        """
        try:
            lines = path.read_text("utf-8-sig").splitlines(keepends=True)
            first = lines[0] if lines else ""
            table = csv.reader(lines, delimiter=";" if ";" in first and "," not in first else ",")
            rows = [(table.line_num, [cell.strip() for cell in cells]) for cells in table]
        except (OSError, ValueError, csv.Error) as error:
            raise SourceError(f"{path}: it is no CSV table that can be read ({error})") from error
        header = [name.casefold() for name in rows[0][1]] if rows else []
        if missing := [name for name in COLUMNS if name not in header]:
            raise SourceError(f"{path}: it has no column {missing[0]}; its columns must be {', '.join(COLUMNS)}")
        eyes: dict[str, Eye] = {}
        for row, cells in rows[1:]:
            if not any(cells):
                continue  # spreadsheets write such lines
            if len(cells) < len(header) or any(cells[len(header) :]):
                raise SourceError(f"{path}:{row}: {len(cells)} cells, and the header has {len(header)}")
            named = dict(zip(header, cells, strict=False))
            id, patient, word = (named[name] for name in COLUMNS)
            side = EYE_WORDS.get(word.casefold(), "")
            if word and not side:
                raise SourceError(f"{path}:{row}: {word!r} is no eye; write left or right, or OS or OD")
            if not id or id in eyes:
                raise SourceError(f"{path}:{row}: {f'{id} is there twice' if id else 'the id is empty'}")
            eyes[id] = Eye(f"{patient}\0{named.get(VISIT, '')}", side) if patient else Eye()
        return cls(eyes)

    def named(self, photographs: Sequence[Photograph]) -> list[Photograph]:
        """The photographs with the eyes of the table. One that it does not list has no known eye."""
        return [each._replace(eye=self.eyes.get(each.id, Eye())) for each in photographs]
