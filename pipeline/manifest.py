"""The table of samples: one row a cached photograph, in the order of its id.

`manifest.csv` is an index: everything in it can be derived again from the shards, the labels and the sides that were
drawn for the patients.
"""

import csv
import hashlib
import io
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from pipeline.errors import CacheError
from pipeline.grades import N_GRADES, UNKNOWN
from pipeline.photo import SUFFIXES
from pipeline.url import Url

SPLITS: Final = ("train", "val", "test")
SHARES: Final = {"train": 0.7, "val": 0.1, "test": 0.2}
"""Of the patients, where the layout brings no split."""
PATIENT_PATTERN: Final = r"^(?P<patient>.+)_(?P<eye>left|right)$"
"""EyePACS: `17_left` and `17_right` are the eyes of patient 17."""


class Row(NamedTuple):
    """One cached photograph; the fields are the columns of manifest.csv, in order."""

    id: str
    patient: str
    eye: str  # "left", "right" or ""
    grade: int  # 0-4, UNKNOWN (an empty cell) where nobody graded
    split: str  # one of SPLITS, or "" for a photograph that takes no part
    source: str  # path below SRC
    source_bytes: int
    source_mtime_ns: int
    width: int  # of the upright photograph, pixels
    height: int
    cx: float  # circle of the retina in pixels of the upright photograph, NaN (an empty cell) where none was found
    cy: float
    radius: float
    flags: str  # separated by spaces
    shard: int
    offset: int  # of the JPEG in its shard, bytes
    nbytes: int
    crc32: int


COLUMNS: Final = Row._fields
_INTEGERS: Final = tuple(name for name, kind in Row.__annotations__.items() if kind is int)
_FLOATS: Final = tuple(name for name, kind in Row.__annotations__.items() if kind is float)


def parse_patient(id: str, pattern: re.Pattern[str]) -> tuple[str, str]:
    """(patient, eye) from an id: the pattern's groups `patient` (or its first) and `eye`, searched in the last part of
    the id without an image suffix. An id that does not match is a patient of its own, with no known eye.

    >>> parse_patient("train/17_left", re.compile(PATIENT_PATTERN))
    ('17', 'left')
    """
    name = id.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    match = pattern.search(stem if f"{dot}{suffix}".lower() in SUFFIXES else name)
    if match is None:
        return id, ""
    groups = match.groupdict()
    return groups.get("patient") or match[1], groups.get("eye") or ""


def draw_sides(
    patients: Mapping[str, int], shares: Mapping[str, float], seed: int, recorded: Mapping[str, str]
) -> dict[str, str]:
    """A side for every patient: grouped, stratified and seeded.

    `patients` maps a patient to its stratum (the worst grade of its eyes). Patients come in an order that only the
    seed and their names decide; each gets the side that is furthest behind its share, within its stratum and over
    all, so that both stay proportional. Those in `recorded` keep their side and count.
    """
    sides = list(shares)
    targets = np.array([shares[side] for side in sides])
    total = np.zeros(len(sides))
    by_stratum: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(len(sides)))
    drawn = {patient: side for patient, side in recorded.items() if patient in patients and side in shares}

    def place(patient: str, at: int) -> None:
        total[at] += 1
        by_stratum[patients[patient]][at] += 1

    for patient, side in drawn.items():
        place(patient, sides.index(side))
    new = [patient for patient in patients if patient not in drawn]
    for patient in sorted(new, key=lambda name: hashlib.sha256(_utf8(f"{seed}/{name}")).digest()):
        stratum = by_stratum[patients[patient]]
        behind = targets * (total.sum() + stratum.sum() + 2) - total - stratum
        at = int(behind.argmax())
        place(patient, at)
        drawn[patient] = sides[at]
    return drawn


def to_csv(rows: Iterable[Sequence[object]], columns: Sequence[str]) -> bytes:
    """A table with its header, in the way of `csv_lines`."""
    return csv_lines([columns]) + csv_lines(rows)


def csv_lines(rows: Iterable[Sequence[object]]) -> bytes:
    """CSV as everything here writes it: UTF-8, "\\n", quotes only where needed; bytes of odd file names survive."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return _utf8(text.getvalue())


def manifest_csv(rows: Iterable[Row]) -> bytes:
    """The bytes of manifest.csv; geometry to a tenth of a pixel."""

    def tenths(value: float) -> str:
        return "" if math.isnan(value) else f"{value:.1f}"

    def cells(row: Row) -> list[object]:
        values = row._asdict()
        values["grade"] = "" if row.grade == UNKNOWN else row.grade
        values["cx"], values["cy"], values["radius"] = tenths(row.cx), tenths(row.cy), tenths(row.radius)
        return list(values.values())

    return to_csv(map(cells, rows), COLUMNS)


def read_manifest(path: Path | Url, data: bytes | None = None) -> pd.DataFrame:
    """The table with one typed column per field of `Row` (int64, float64, str), checked.

    data: what is in the file, where it does not lie on this machine.
    Raises CacheError with file and line for a cell that cannot be right.
    """
    try:
        # Everything as text first: an id may be "NA", "007" or "1e5", and pandas would make a number of it.
        source = str(path) if data is None else io.BytesIO(data)
        table = pd.read_csv(source, dtype=str, na_filter=False, encoding_errors="surrogateescape")
    except (OSError, ValueError) as error:
        raise CacheError(f"{path}: cannot be read ({error}); run `tools preprocess` again") from error
    if tuple(table.columns) != COLUMNS:
        raise CacheError(f"{path}:1: expected the columns {','.join(COLUMNS)}; run `tools preprocess` again")

    def check(bad: "pd.Series[bool]", column: str, wanted: str) -> None:
        if bad.any():
            row = int(bad.to_numpy().argmax())
            raise CacheError(f"{path}:{row + 2}: {column} {raw[column].iloc[row]!r} is not {wanted}")

    raw = table.copy(deep=False)
    for column in (*_INTEGERS, *_FLOATS):
        empty = raw[column] == ""
        may_be_empty = column == "grade" or column in _FLOATS
        numbers = pd.to_numeric(raw[column], errors="coerce")
        check(numbers.isna() & ~(empty & may_be_empty), column, "a number")
        table[column] = numbers.fillna(UNKNOWN).astype("int64") if column in _INTEGERS else numbers.astype("float64")
    check(~table["grade"].between(UNKNOWN, N_GRADES - 1), "grade", f"in 0..{N_GRADES - 1}")
    check(~table["split"].isin(["", *SPLITS]), "split", f"one of {', '.join(SPLITS)}")
    check(table["id"].duplicated(), "id", "unique")
    return table


def leaked(manifest: pd.DataFrame) -> "pd.Series[bool]":
    """For each row, whether it is a test photograph of a patient who is also in train."""
    train = manifest.loc[manifest["split"] == "train", "patient"]
    return (manifest["split"] == "test") & manifest["patient"].isin(train)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
