"""rejects.csv: what was found but is not in the cache, and the reason."""

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
"""Begins the reason of a photograph that nobody asked for."""
NOT_USED: Final = "not used: "
"""Begins the reason of a photograph whose grade, link or name cannot be used. Such reasons, unlike those of photographs
that cannot be decoded, say nothing of the file itself."""
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
"""Reason -> what photographs of the same fate have in common; the first that fits."""


@dataclass(frozen=True)
class Rejects:
    """Photographs that were found and are not in the cache, counted by kind of reason, the commonest first; and rows
    of tables for which there is no photograph to use."""

    rejected: Mapping[str, int]
    ignored: Mapping[str, int]
    rows: int


def read_rejects(cache: Cache) -> Rejects | None:
    """None where the file cannot be read, or is not the one that cache.json was written with."""
    try:
        data = checked_bytes(cache.path / REJECTS, cache.index.rejects)
        table = pd.read_csv(io.BytesIO(data), dtype=str, na_filter=False, encoding_errors="surrogateescape")
        sources, reasons = table["source"].tolist(), table["reason"].tolist()
    except (OSError, FundusError, ValueError, KeyError):
        return None
    photographs = len(sources)  # which come first, sorted; rows stand behind them
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
    """A reason without what it says of the one photograph.

    >>> kind_of("cut off: its end marker is missing"), kind_of("a copy of train/17_left.jpeg")
    ('cut off', 'copies of photographs that are taken')
    """
    return next((match.expand(kind) for fits, kind in _KINDS if (match := fits.fullmatch(reason))), reason)
