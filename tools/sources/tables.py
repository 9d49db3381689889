"""Reads tables into rows of cells: CSV of any dialect, text in columns, Excel, JSON lines."""

import csv
import io
import json
import re
from collections import Counter
from typing import Final, NamedTuple

TEXT: Final = (".csv", ".tsv", ".txt")
EXCEL: Final = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods")
SUFFIXES: Final = (*TEXT, *EXCEL, ".jsonl")
"""Suffixes of files that may be tables, in lower case."""
DELIMITERS: Final = ",;\t|"
HEADER_ROWS: Final = 10
"""First rows of a table in which its header is searched for: titles and comments may stand above it."""
ROWS_CHECKED: Final = 200
"""First rows of a table that are checked to learn what its columns are."""


class RawTable(NamedTuple):
    """The cells of a file as text, without spaces around them and without blank rows."""

    source: str
    """Its path below SRC, "FILE.zip#MEMBER" inside an archive, "FILE.xlsx[SHEET]" if a workbook has several sheets."""
    rows: list[tuple[int, list[str]]]  # (line, cells); the header among them, if there is one
    broken: str = ""  # where and why reading stopped, "" if it did not

    @property
    def name(self) -> str:
        """The name of the file, without folders."""
        return re.split(r"[/#]", self.source)[-1]

    def start(self) -> str:
        """The first row, for messages."""
        return ", ".join(self.rows[0][1])[:120] if self.rows else "nothing"


class NoTable(Exception):
    """The file cannot be read as a table; the message says why and what to do."""


def read_raw(source: str, data: bytes) -> list[RawTable]:
    """The tables in a file: one, or one for each sheet of a workbook. The suffix of `source` gives the format.

    Raises NoTable if a package is missing or the bytes have another format.
    """
    suffix = suffix_of(source)
    if suffix in EXCEL:
        sheets = _excel(data)
        named = len(sheets) > 1
        return [RawTable(f"{source}[{name}]" if named else source, rows) for name, rows in sheets]
    if suffix == ".jsonl":
        return [RawTable(source, _json_lines(_decoded(data)))]
    return [_text(source, _decoded(data), suffix)]


def suffix_of(source: str) -> str:
    """The suffix of a file or of an archive's member, in lower case; "" for none."""
    dot = source.rfind(".")
    return source[dot:].lower() if dot > max(source.rfind("/"), source.rfind("#")) else ""


def _decoded(data: bytes) -> str:
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")  # which Excel on Windows writes
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _text(source: str, text: str, suffix: str) -> RawTable:
    head = text[:65536].split("\n")
    first = next((number for number, line in enumerate(head) if line.strip()), 0)
    if named := re.fullmatch(r'"?sep=(.)"?', head[first].strip(), re.IGNORECASE):  # a line that Excel writes
        delimiter, skipped = named[1], first + 1
    else:
        delimiter, skipped = _delimiter([line for line in head[first : first + 50] if line.strip()]), 0
    if delimiter is None and suffix == ".txt":
        return RawTable(source, [(n, cells) for n, line in enumerate(text.split("\n"), 1) if (cells := line.split())])
    lines = io.StringIO(text if not skipped else text.split("\n", skipped)[skipped])
    reader = csv.reader(lines, delimiter=delimiter or ",", skipinitialspace=True, strict=True)
    strip, rows = str.strip, []
    last = skipped
    try:
        for cells in reader:
            stripped = list(map(strip, cells))
            last = reader.line_num + skipped
            if any(stripped):
                rows.append((last, stripped))
    except csv.Error as error:
        why = "a quote is opened and not closed" if "expected" in str(error) else str(error)
        return RawTable(source, rows, f"{source}:{last + 1}: {why}")
    return RawTable(source, rows)


def _delimiter(lines: list[str]) -> str | None:
    """The delimiter that most lines have equally often outside quotes; if several, the most frequent; None if no line
    has one."""
    plain = [re.sub(r'"[^"]*"', "", line) for line in lines]

    def score(delimiter: str) -> tuple[int, int]:
        counts = Counter(count for line in plain if (count := line.count(delimiter)))
        return max(((lines, count) for count, lines in counts.items()), default=(0, 0))

    best = max(DELIMITERS, key=lambda each: (*score(each), -DELIMITERS.index(each)))
    return best if score(best)[0] else None


def _excel(data: bytes) -> list[tuple[str, list[tuple[int, list[str]]]]]:
    """(name, rows) of each sheet that is not empty."""
    try:
        from python_calamine import CalamineError, CalamineWorkbook
    except ImportError as error:
        raise NoTable("an Excel table needs a package: pip install 'fundus-grading[excel]'") from error
    sheets = []
    try:
        book = CalamineWorkbook.from_filelike(io.BytesIO(data))
        for number, name in enumerate(book.sheet_names):
            values = book.get_sheet_by_index(number).to_python(skip_empty_area=False)
            rows = [(line, cells) for line, row in enumerate(values, 1) if any(cells := list(map(cell, row)))]
            if rows:
                sheets.append((re.sub(r"[/#\[\]]", "_", name), rows))
    except (CalamineError, ValueError, OSError) as error:
        raise NoTable(f"not an Excel table ({error})") from error
    return sheets


def _json_lines(text: str) -> list[tuple[int, list[str]]]:
    """Rows of a file with one JSON object a line; the header has all their keys."""
    objects: list[tuple[int, dict[str, object]]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise NoTable(f"line {number} is no JSON object") from error
        if not isinstance(row, dict):
            raise NoTable(f"line {number} is no JSON object")
        objects.append((number, row))
    keys = list(dict.fromkeys(key for _, row in objects for key in row))
    rows = [(number, [cell(row.get(key)) for key in keys]) for number, row in objects]
    return [(objects[0][0], keys), *rows] if objects else []


def cell(value: object) -> str:
    """The text of a spreadsheet's value; 2.0 becomes "2"."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
