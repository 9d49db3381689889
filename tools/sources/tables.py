"""Tables as people have them, read to rows of cells: CSV of any dialect, text in columns, Excel, JSON lines."""

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from pipeline.errors import SourceError

TEXT: Final = (".csv", ".tsv", ".txt")
EXCEL: Final = (".xlsx", ".xls")
SUFFIXES: Final = (*TEXT, *EXCEL, ".jsonl")
"""Of files that may be tables, in lower case."""
DELIMITERS: Final = ",;\t|"
ABOVE: Final = 10
"""Rows in which a header is looked for: titles and comments stand above it."""


class RawTable(NamedTuple):
    """A file's cells, as text without surrounding spaces; rows that are blank are left out."""

    source: str  # path below SRC, "FILE.zip#MEMBER" inside an archive, or the path that the user gave
    rows: list[tuple[int, list[str]]]  # (line, cells); the header among them, if there is one

    @property
    def name(self) -> str:
        """The file's name without folders."""
        return re.split(r"[/#]", self.source)[-1]

    def start(self) -> str:
        """The first row, to say what was not understood."""
        return ", ".join(self.rows[0][1])[:120] if self.rows else "nothing"


class NoTable(Exception):
    """The file cannot be read as a table; the message says why, and what helps."""


def read_raw(source: str, data: bytes) -> RawTable:
    """The rows of a table. `source` names it in messages, its suffix tells the kind.

    Raises NoTable where a package is missing or the bytes are not what the suffix says; SourceError for a broken row.
    """
    suffix = suffix_of(source)
    try:
        if suffix in EXCEL:
            return RawTable(source, list(_excel(data)))
        if suffix == ".jsonl":
            return RawTable(source, list(_json_lines(_decoded(data))))
        return RawTable(source, list(_text(source, _decoded(data), suffix)))
    except csv.Error as error:
        raise SourceError(f"{source}: not a table ({error})") from error


def suffix_of(source: str) -> str:
    dot = source.rfind(".")
    return source[dot:].lower() if dot > max(source.rfind("/"), source.rfind("#")) else ""


def _decoded(data: bytes) -> str:
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")  # what Excel on Windows writes
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _text(source: str, text: str, suffix: str) -> Iterator[tuple[int, list[str]]]:
    head = text[:65536].split("\n")
    first = next((number for number, line in enumerate(head) if line.strip()), 0)
    if named := re.fullmatch(r'"?sep=(.)"?', head[first].strip(), re.IGNORECASE):  # Excel's own line
        delimiter, skipped = named[1], first + 1
    else:
        delimiter, skipped = _delimiter(head[first : first + ABOVE]), 0
    if delimiter is None and suffix == ".txt":
        for number, line in enumerate(text.split("\n"), 1):
            if cells := line.split():
                yield number, cells
        return
    lines = io.StringIO(text if not skipped else text.split("\n", skipped)[skipped])
    reader = csv.reader(lines, delimiter=delimiter or ",", skipinitialspace=True)
    strip = str.strip
    try:
        for cells in reader:
            stripped = list(map(strip, cells))
            if any(stripped):
                yield reader.line_num + skipped, stripped
    except csv.Error as error:
        raise SourceError(f"{source}:{reader.line_num + skipped}: not a table ({error})") from error


def _delimiter(lines: list[str]) -> str | None:
    """The one that most of the first lines have most of, outside quotes; None where none is there."""
    plain = [re.sub(r'"[^"]*"', "", line) for line in lines]
    counts = {each: sorted(line.count(each) for line in plain)[len(plain) // 2 :] for each in DELIMITERS}
    best = max(DELIMITERS, key=lambda each: (sum(counts[each]), -DELIMITERS.index(each)))
    return best if sum(counts[best]) else None


def _excel(data: bytes) -> Iterator[tuple[int, list[str]]]:
    """The first sheet that has rows."""
    try:
        from python_calamine import CalamineError, CalamineWorkbook
    except ImportError as error:
        raise NoTable("an Excel table needs a package: pip install 'fundus-grading[excel]'") from error
    try:
        book = CalamineWorkbook.from_filelike(io.BytesIO(data))
        sheets = [book.get_sheet_by_index(number) for number in range(len(book.sheet_names))]
        rows = next((rows for sheet in sheets if (rows := sheet.to_python(skip_empty_area=False))), [])
    except (CalamineError, ValueError, OSError) as error:
        raise NoTable(f"not an Excel table ({error})") from error
    for number, row in enumerate(rows, 1):
        cells = [cell(value) for value in row]
        if any(cells):
            yield number, cells


def _json_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Objects of one line each; the keys of the first are the header."""
    keys: list[str] = []
    keys_are_new = True
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            keys = keys or list(row)
            cells = [cell(row.get(key)) for key in keys]
        except (ValueError, AttributeError) as error:
            raise NoTable(f"line {number} is no JSON object") from error
        if keys_are_new:
            yield number, keys
            keys_are_new = False
        yield number, cells


def cell(value: object) -> str:
    """A value of a spreadsheet as its text; 2.0 is "2"."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
