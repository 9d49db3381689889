"""Tables of grades as people have them: with a header or without, from Excel, in any of the usual encodings."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.errors import SourceError
from pipeline.grades import parse_grade
from pipeline.storage.artifacts import open_regular

ID_COLUMNS: Final = (
    "image", "id_code", "image name", "image_name", "image id", "image_id", "imageid", "filename", "file_name",
    "file name", "image_path", "path", "file", "id",
)  # fmt: skip
GRADE_COLUMNS: Final = (
    "level", "diagnosis", "retinopathy grade", "retinopathy_grade", "dr grade", "dr_grade", "dr_level",
    "adjudicated_dr_grade", "icdr", "grade", "label", "class",
)  # fmt: skip


class LabelRow(NamedTuple):
    """A row of a table: which photograph, and the grade as written."""

    name: str
    grade: str
    where: str  # "trainLabels.csv:5"


class Table(NamedTuple):
    path: Path
    about: str  # "columns image, level", said aloud
    rows: list[LabelRow]


def read_table(path: Path, id_column: str | None = None, grade_column: str | None = None) -> Table | None:
    """A table of grades, or None where the file's first row shows that it is something else.

    The columns are those named, else known ones of the header; a first row of two cells whose second is a grade is a
    sample, not a header.

    Raises SourceError for a column that is not there, and for a row with too many or too few cells.
    """
    lines = list(_lines(path))
    if not lines:
        return None
    (number, header), *samples = lines
    folded = [cell.casefold() for cell in header]
    id_at = _find(folded, (id_column,) if id_column else ID_COLUMNS)
    grade_at = _find(folded, (grade_column,) if grade_column else GRADE_COLUMNS)
    for wanted, at in ((id_column, id_at), (grade_column, grade_at)):
        if wanted and at is None:
            raise SourceError(f"{path}:{number}: no column {wanted!r} among {', '.join(header)}")
    if id_at is None and grade_at is None and len(header) == 2 and _is_grade(header[1]):
        id_at, grade_at, samples = 0, 1, lines
        about, width = "no header, photograph and grade", 2
    elif id_at is None or grade_at is None:
        return None
    else:
        about, width = f"columns {header[id_at]}, {header[grade_at]}", len(header)
    rows = []
    for number, cells in samples:
        where = f"{path.name}:{number}"
        if len(cells) <= max(id_at, grade_at) or any(cells[width:]):
            raise SourceError(f"{path}:{number}: expected {width} cells as in line {lines[0][0]}, found {len(cells)}")
        rows.append(LabelRow(cells[id_at], cells[grade_at], where))
    return Table(path, about, rows)


def read_column(path: Path) -> list[tuple[str, str]]:
    """(first cell, "file:line") of every row of a table without a header. The first row counts."""
    return [(cells[0], f"{path.name}:{number}") for number, cells in _lines(path)]


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells without surrounding spaces) of each row that is not blank."""
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")  # what Excel on Windows writes
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    header = text.lstrip("\n").partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield reader.line_num, stripped
    except csv.Error as error:
        raise SourceError(f"{path}:{reader.line_num}: not a table ({error})") from error


def _find(header: list[str], names: tuple[str, ...]) -> int | None:
    """Where the header has the first of the names it has at all."""
    return next((header.index(name.casefold()) for name in names if name.casefold() in header), None)


def _is_grade(cell: str) -> bool:
    try:
        parse_grade(cell)
    except ValueError:
        return False
    return True
