"""manifest.csv: one row per cached photograph, sorted by id.

Everything in it can be derived again from the shards, the labels and the splits that were drawn for the patients.
"""

import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd

from pipeline.cache.splits import SPLITS
from pipeline.errors import CacheError
from pipeline.grades import N_GRADES, UNKNOWN
from pipeline.storage.csv_files import to_csv
from pipeline.storage.url import Url


class Row(NamedTuple):
    """A cached photograph. The fields are the columns of manifest.csv, in order."""

    id: str
    patient: str
    eye: str  # "left", "right" or ""
    grade: int  # 0-4, or UNKNOWN (an empty cell)
    split: str  # one of SPLITS, or "" for none
    source: str  # path below SRC
    source_bytes: int
    source_mtime_ns: int
    width: int  # of the upright photograph, pixels
    height: int
    cx: float  # circle of the retina, in pixels of the upright photograph; NaN (an empty cell) if none was found
    cy: float
    radius: float
    flags: str  # separated by spaces
    shard: int
    offset: int  # of the JPEG in its shard, bytes
    nbytes: int
    crc32: int


COLUMNS: Final = Row._fields
UNGRADABLE: Final = "ungradable"
"""The flag of a photograph that its data set or its graders call ungradable."""
_INTEGERS: Final = tuple(name for name, kind in Row.__annotations__.items() if kind is int)
_FLOATS: Final = tuple(name for name, kind in Row.__annotations__.items() if kind is float)


def manifest_csv(rows: Iterable[Row]) -> bytes:
    """The bytes of manifest.csv. cx, cy and radius are rounded to 0.1 pixels."""

    def tenths(value: float) -> str:
        return "" if math.isnan(value) else f"{value:.1f}"

    def cells(row: Row) -> list[object]:
        values = row._asdict()
        values["grade"] = "" if row.grade == UNKNOWN else row.grade
        values["cx"], values["cy"], values["radius"] = tenths(row.cx), tenths(row.cy), tenths(row.radius)
        return list(values.values())

    return to_csv(map(cells, rows), COLUMNS)


def read_manifest(path: Path | Url, data: bytes | None = None) -> pd.DataFrame:
    """Reads and checks the table: one column per field of `Row` (int64, float64 or str).

    data: the file's bytes, if the file is not on this machine.
    Raises CacheError if it cannot be read, and with file and line for a wrong cell.
    """
    try:
        # All cells as text first: an id may be "NA", "007" or "1e5", and pandas would convert it.
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


def flagged(manifest: pd.DataFrame, flag: str) -> "pd.Series[bool]":
    """(rows,) whether each photograph has the flag."""
    return manifest["flags"].map(lambda flags: flag in flags.split()).astype(bool)
