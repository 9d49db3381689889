"""rejects.csv: photographs and rows of tables that were found but are not in the cache, and why."""

import io
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pandas as pd

from pipeline.cache.cache import Cache, checked_bytes
from pipeline.cache.index import REJECTS
from pipeline.errors import FundusError

IGNORED: Final = "ignored: "
"""Prefix of the reason if a photograph was not wanted."""
NOT_USED: Final = "not used: "
"""Prefix of the reason if a photograph's grade, link or name cannot be used. Its file may be intact, unlike that of a
photograph that cannot be decoded."""
_ROW: Final = re.compile(r".+:\d+")
"""A row of a table, such as "trainLabels.csv:5"."""
_KINDS: Final = (
    (re.compile(r"a copy of .*"), "copies of photographs that are taken"),
    (re.compile(r"another file of the name of .*"), "other files of the names of photographs that are taken"),
    (re.compile(r".*\bcontradict each other\b.*"), "rows that contradict each other"),
    (re.compile(r".+:\d+: .*"), "rows that cannot be used"),
    (re.compile(r"\d+ x \d+ pixels: (.*)"), r"\1"),
    (re.compile(r"\d+ x \d+ pixels, more than .*"), "too many pixels"),
    (re.compile(r"(a link) .*"), r"\1"),
    (re.compile(r"((?:DICOM|HEIC|JPEG XL): [^:;(]+?) ?(?:[:;(].*)?"), r"\1"),
    (re.compile(r"([^:;(]+?) ?[:;(].*"), r"\1"),
)
"""(pattern of a reason, kind of reason). The first pattern that fits counts."""


@dataclass(frozen=True)
class Rejects:
    """Numbers of photographs that were found and are not in the cache, by kind of reason, the most common first."""

    rejected: Mapping[str, int]
    ignored: Mapping[str, int]
    rows: int  # rows of tables that have no usable photograph


def read_rejects(cache: Cache) -> Rejects | None:
    """Counts rejects.csv. None if it cannot be read, or differs from the one that cache.json describes."""
    try:
        data = checked_bytes(cache.path / REJECTS, cache.index.rejects)
        table = pd.read_csv(io.BytesIO(data), dtype=str, na_filter=False, encoding_errors="surrogateescape")
        sources, reasons = table["source"].tolist(), table["reason"].tolist()
    except (OSError, FundusError, ValueError, KeyError):
        return None
    photographs = len(sources)  # photographs come first, sorted; rows of tables follow
    while photographs and _ROW.fullmatch(sources[photographs - 1]):
        photographs -= 1
    rejected: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    for reason in reasons[:photographs]:
        if reason.startswith(IGNORED):
            ignored[kind_of(reason.removeprefix(IGNORED))] += 1
        else:
            rejected[kind_of(reason.removeprefix(NOT_USED))] += 1
    return Rejects(dict(rejected.most_common()), dict(ignored.most_common()), len(sources) - photographs)


def kind_of(reason: str) -> str:
    """The kind of a reason: its text without details of the one photograph.

    >>> kind_of("cut off: its end marker is missing"), kind_of("a copy of train/17_left.jpeg")
    ('cut off', 'copies of photographs that are taken')
    """
    return next((match.expand(kind) for fits, kind in _KINDS if (match := fits.fullmatch(reason))), reason)
