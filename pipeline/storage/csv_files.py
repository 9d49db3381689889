"""CSV as everything here writes it."""

import csv
import io
from collections.abc import Iterable, Sequence


def to_csv(rows: Iterable[Sequence[object]], columns: Sequence[str]) -> bytes:
    """A table with its header, in the way of `csv_lines`."""
    return csv_lines([columns]) + csv_lines(rows)


def csv_lines(rows: Iterable[Sequence[object]]) -> bytes:
    """CSV as everything here writes it: UTF-8, "\\n", quotes only where needed; bytes of odd file names survive."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return utf8(text.getvalue())


def utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
