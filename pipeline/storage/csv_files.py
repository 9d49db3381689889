"""CSV files, written the same way everywhere."""

import csv
from collections.abc import Iterable, Sequence
from typing import Final

_LIVE: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def to_csv(rows: Iterable[Sequence[object]], columns: Sequence[str]) -> bytes:
    """A table with its header, in the way of `csv_lines`."""
    return csv_lines([columns]) + csv_lines(rows)


def csv_lines(rows: Iterable[Sequence[object]]) -> bytes:
    """CSV as everything here writes it: UTF-8, "\\n", quotes only where needed; bytes of odd file names survive."""
    lines = _Lines()
    csv.writer(lines, lineterminator="\r\n").writerows(rows)
    return utf8("".join(lines))


class _Lines(list[str]):
    """Written to line by line, for csv quotes only the line ends that its own line ends in; readers want all quoted."""

    def write(self, line: str) -> None:
        self.append(f"{line[:-2]}\n")


def utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def defused(text: str) -> str:
    """A text for a table that people open in a spreadsheet, where a cell such as =1+1 would be computed.

    One that begins with = + - @, a tab or a line's end has an apostrophe put before it, as spreadsheets mark text; so
    has one that begins with an apostrophe. Hence two texts never become one, and whoever takes one leading apostrophe
    away has the text again. Tables that commands read back (manifests, predictions of a split) hold texts as they are.

    >>> defused("=1+1"), defused("'=1+1"), defused("17_left")
    ("'=1+1", "''=1+1", '17_left')
    """
    return f"'{text}" if text.startswith(_LIVE) else text
