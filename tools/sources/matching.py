"""Rows of tables and photographs, brought together: every row and photograph is accounted for."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.grades import parse_grade
from pipeline.photos.discovery import (
    Found,
    Refusal,
    split_suffix,
    unique_ids,
)
from pipeline.photos.photo import SUFFIXES
from pipeline.storage.url import Url
from tools.sources.label_tables import LabelRow
from tools.sources.listing import Listing, Rows, Sample


def match_rows(src: Path | Url, photographs: list[Found], rows: Rows) -> Listing:
    """Gives each photograph the grade of its row, and accounts for every row and photograph that has no partner."""
    listing = Listing(src, rows.layout)
    find = _finder(photographs)
    claims: dict[str, list[tuple[str, LabelRow, str]]] = defaultdict(list)  # source -> (id, row, split)
    for row, split in rows.rows:
        try:
            id, sources = find(row.name)
        except ValueError as error:
            listing.rows.append(Refusal(row.where, f"{row.name!r} {error}"))
            continue
        for source in sources:
            claims[source].append((id, row, split))
        if len(sources) > 1:
            listing.notes.append(f"{row.where}: {row.name} grades {len(sources)} photographs: {', '.join(sources)}")
    samples = []
    for found in photographs:
        claimed = claims.get(found.source, [])
        if not claimed:
            listing.ignored.append(Refusal(found.source, "no row names it"))
            continue
        wheres = " and ".join(row.where for _, row, _ in claimed)
        try:
            grades = {parse_grade(row.grade) for _, row, _ in claimed}
        except ValueError as error:
            listing.refused.append(Refusal(found.source, f"{wheres}: {error}"))
            continue
        splits = {split for _, _, split in claimed}
        if len(grades) > 1 or len(splits) > 1:
            said = ", ".join(f"{row.grade} {split}".strip() for _, row, split in claimed)
            listing.refused.append(Refusal(found.source, f"{wheres} contradict each other: {said}"))
            continue
        if len(claimed) > 1:
            listing.notes.append(f"{wheres}: the same row {len(claimed)} times, used once")
        samples.append((claimed[0][0], found, grades.pop(), splits.pop()))
    listing.samples = with_ids(samples)
    return listing


def _finder(photographs: list[Found]) -> Callable[[str], tuple[str, list[str]]]:
    """A function from a name in a table to (id, the photographs it names).

    A name may have a suffix and folders or not. One that fits photographs which differ only in their suffix names
    them all; one that fits photographs in several folders raises ValueError, as do names that fit none or lead out of
    SRC.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    for found in photographs:
        name = found.source.rpartition("/")[2]
        by_name[name].append(found.source)
        by_name[f"{split_suffix(name)[0]}."].append(found.source)  # no file name ends in a dot and is also a stem

    def find(name: str) -> tuple[str, list[str]]:
        slashed = name.replace("\\", "/")
        if slashed.startswith("/") or re.match(r"[A-Za-z]:", slashed) or ".." in slashed.split("/"):
            raise ValueError("leads out of the folder of photographs: refused")
        parts = [part for part in slashed.split("/") if part not in ("", ".")]
        if not parts:
            raise ValueError("names no photograph")
        *folders, last = parts
        without, suffix = split_suffix(last)
        stem = without if suffix.lower() in SUFFIXES else last
        for candidates in (by_name.get(last), by_name.get(f"{last}."), by_name.get(f"{stem}.")):
            fitting = [source for source in candidates or () if _ends_alike(source.split("/")[:-1], folders)]
            if len({source.rpartition("/")[0] for source in fitting}) > 1:
                raise ValueError(f"fits photographs in several folders, write the folder too: {', '.join(fitting)}")
            if fitting:
                return "/".join([*folders, stem]), fitting
        raise ValueError("has no photograph")

    return find


def _ends_alike(a: list[str], b: list[str]) -> bool:
    """Whether one path is the end of the other: a table may start its paths above SRC, or below it."""
    n = min(len(a), len(b))
    return n == 0 or a[-n:] == b[-n:]


def with_ids(candidates: Iterable[tuple[str, Found, int, str]]) -> list[Sample]:
    samples = [Sample(*candidate) for candidate in candidates]
    ids = unique_ids([(sample.id, sample.found.source) for sample in samples])
    return [sample._replace(id=id) for sample, id in zip(samples, ids, strict=True)]
