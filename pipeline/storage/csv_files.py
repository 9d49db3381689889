"""CSV files, written the same way everywhere."""

import csv
from collections.abc import Iterable, Sequence
from typing import Final

_LIVE: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def to_csv(rows: Iterable[Sequence[object]], columns: Sequence[str]) -> bytes:
    """A table with its header, as `csv_lines` writes it."""
    return csv_lines([columns]) + csv_lines(rows)


def csv_lines(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows as CSV: UTF-8, lines end with "\\n", quotes only if needed. Bytes of file names that are not UTF-8 stay."""
    lines = _Lines()
    csv.writer(lines, lineterminator="\r\n").writerows(rows)
    return utf8("".join(lines))


class _Lines(list[str]):
    """Collects lines. They are written with "\\r\\n", because csv then quotes cells with either character."""

    def write(self, line: str) -> None:
        self.append(f"{line[:-2]}\n")


def utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def defused(text: str) -> str:
    """A text for a table that people open in a spreadsheet, where a cell such as =1+1 would be computed.

    A text that begins with = + - @, a tab, a line end or an apostrophe gets an apostrophe before it, by which
    spreadsheets mark text. Without one leading apostrophe it is the original text again, so different texts stay
    different. Tables that commands read again (manifests, predictions of a split) have texts unchanged.

    >>> defused("=1+1"), defused("'=1+1"), defused("17_left")
    ("'=1+1", "''=1+1", '17_left')
    """
    return f"'{text}" if text.startswith(_LIVE) else text
