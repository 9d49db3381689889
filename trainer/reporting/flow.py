"""The flow diagram of photographs and patients, from found to measured, as STARD, CLAIM and TRIPOD+AI require it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import pandas as pd

from pipeline.cache.manifest import UNGRADABLE, flagged
from pipeline.cache.rejects import read_rejects
from pipeline.cache.splits import SPLITS, known_patients, patients_of
from pipeline.grades import REFERABLE, UNKNOWN
from trainer.reporting.external import Site
from trainer.reporting.measured import Measured
from trainer.reporting.tables import counted

REASONS_SHOWN: Final = 5
"""The commonest reasons of refusal that are listed; the others are counted together."""


SHARED: Final = "One patient can be in several boxes: photographs add up, patients do not."


class Part(NamedTuple):
    """A part of a box's photographs."""

    title: str
    photographs: int


@dataclass(frozen=True)
class Box:
    """A box of the flow diagram: photographs and their patients."""

    title: str
    photographs: int
    patients: int | None = None
    """None if unknown."""
    parts: tuple[Part, ...] = ()
    """Empty, or parts that add up to `photographs`."""


class Step(NamedTuple):
    """A row of the diagram: its boxes, and boxes of the photographs that leave the flow there."""

    boxes: tuple[Box, ...]
    leave: tuple[Box, ...]


@dataclass(frozen=True)
class Flow:
    """The flow of the run's own photographs. Its sums:

    found = cached + rejected + ignored; cached = all splits + in no split; the split measured = measured + ungraded.
    """

    split: str
    """The split that was measured."""
    splits: tuple[Box, ...]
    measured: Box
    ungraded: int
    """Photographs without a grade in the split that was measured."""
    cached: Box | None = None
    """None without the cache."""
    outside: Box | None = None
    """Photographs in no split; None if there are none, or without the cache."""
    found: int | None = None
    """None if the cache does not record what was refused."""
    refused: tuple[Box, ...] = ()
    """Rejected and ignored photographs; a box without photographs is left out."""
    rows: int = 0
    """Rows of label tables without a photograph that can be used."""
    external: tuple[str, ...] = ()
    """A line for each external set."""

    @property
    def steps(self) -> list[Step]:
        """The rows of the diagram, from top to bottom. Boxes of unknown contents are left out."""
        no_grade = (Box(f"{self.split}, without a grade", self.ungraded),) if self.ungraded else ()
        steps = [
            Step(self.splits, no_grade),
            Step((replace(self.measured, title=f"measured: {self.split}, graded"),), ()),
        ]
        if self.cached:
            steps.insert(0, Step((self.cached,), (self.outside,) if self.outside else ()))
        if self.found is not None:
            steps.insert(0, Step((Box("Found", self.found),), self.refused))
        return steps

    @property
    def lines(self) -> list[str]:
        """The same in words, with one sum in each line."""
        lines = []
        if self.found is not None and self.cached:
            parts = [f"{self.cached.photographs:,} cached", *map(_part_in_words, self.refused)]
            lines.append(f"Found: {counted(self.found, 'photograph')} = {' + '.join(parts)}")
        if self.cached:
            boxes = [*self.splits, *([self.outside] if self.outside else [])]
            whole = counted(self.cached.photographs, "photograph") + _of_patients(self.cached)
            lines.append(f"Cached: {whole} = {' + '.join(map(_part_in_words, boxes))}")
        left = f" + {self.ungraded:,} without a grade" if self.ungraded else ""
        measured = self.measured.photographs
        whole = counted(measured + self.ungraded, "photograph")
        lines.append(f"{self.split}: {whole} = {_part_in_words(self.measured)}{left}")
        if self.shared:
            lines.append(SHARED)
        if self.rows:
            lines.append(f"Rows of tables without a photograph to use: {self.rows:,}")
        return [*lines, *self.external]

    @property
    def shared(self) -> bool:
        """Whether a patient is in several of the boxes that the cached photographs are divided into."""
        boxes = [*self.splits, *([self.outside] if self.outside else [])]
        there = self.cached.patients if self.cached else None
        return there is not None and sum(box.patients or 0 for box in boxes) > there


def flow_of(measured: Measured) -> Flow:
    """The flow of a run's photographs. Without the cache: only the splits and the photographs measured."""
    cache, split, results = measured.cache, measured.split, measured.record.results
    n, referable = results.metrics.photographs, sum(results.metrics.grades[REFERABLE:])
    parts = (Part("referable", referable), Part("not referable", n - referable))
    external = tuple(site_line(site) for site in measured.sites if not site.own)
    if cache is None:
        box = Box("measured", n, results.patients, parts)
        splits = tuple(Box(name, n) for name, n in measured.config.photographs.items() if n)
        return Flow(split, splits, box, measured.ungraded, external=external)
    manifest = cache.manifest
    patients = patients_shown(manifest, measured.predictions["id"])
    cached, outside = _box("Cached", manifest, manifest), in_no_split(manifest)
    splits = tuple(_box(name, manifest, part) for name in SPLITS if len(part := manifest[manifest["split"] == name]))
    rejects = read_rejects(cache)
    refused: tuple[Box, ...] = ()
    if rejects:
        refused = (_refused("rejected", rejects.rejected), _refused("ignored", rejects.ignored))
    return Flow(
        split,
        splits,
        Box("measured", n, patients, parts),
        measured.ungraded,
        cached=cached,
        outside=outside if outside.photographs else None,
        found=cached.photographs + sum(box.photographs for box in refused) if rejects else None,
        refused=tuple(box for box in refused if box.photographs),
        rows=rejects.rows if rejects else 0,
        external=external,
    )


def in_no_split(manifest: pd.DataFrame) -> Box:
    """The cached photographs in no split, with the reasons. Each is counted once, by the first reason that holds."""
    outside = manifest[manifest["split"] == ""]
    blank, ungradable = (flagged(outside, flag) for flag in ("blank", UNGRADABLE))
    ungraded = outside["grade"] == UNKNOWN
    reasons = {
        "blank": blank,
        "ungradable": ~blank & ungradable,
        "no grade": ~blank & ~ungradable & ungraded,
        "graded, and in no split": ~blank & ~ungradable & ~ungraded,
    }
    parts = tuple(Part(title, int(rows.sum())) for title, rows in reasons.items() if rows.any())
    return replace(_box("in no split", manifest, outside), parts=parts)


def site_line(site: Site) -> str:
    """The photographs of an external set in words: those measured and, if recorded, those without a grade."""
    n, description = site.results.metrics.photographs, site.description
    ungraded, known = (description.ungraded, description.data_set) if description else (0, "")
    what = f"External set {site.name}" + (f" ({known})" if known else "")
    measured = f"{n:,} measured ({counted(site.results.patients, 'patient')})"
    if not ungraded:
        return f"{what}: {measured}"
    return f"{what}: {counted(n + ungraded, 'photograph')} = {measured} + {ungraded:,} without a grade"


def _box(title: str, manifest: pd.DataFrame, part: pd.DataFrame) -> Box:
    return Box(title, len(part), patients_shown(manifest, part["id"]))


def patients_shown(manifest: pd.DataFrame, ids: "pd.Series[str]") -> int | None:
    """The number of patients of these photographs; None if none of them is known."""
    if not known_patients(manifest)[manifest["id"].isin(ids)].any():
        return None
    return int(patients_of(manifest, ids).nunique())


def _refused(title: str, reasons: Mapping[str, int]) -> Box:
    listed = list(reasons.items())
    parts = [Part(*each) for each in listed[:REASONS_SHOWN]]
    if rest := sum(n for _, n in listed[REASONS_SHOWN:]):
        parts.append(Part("other reasons", rest))
    return Box(title, sum(reasons.values()), parts=tuple(parts))


def _part_in_words(box: Box) -> str:
    """
    >>> _part_in_words(Box("in no split", 4, 3, (Part("blank", 1), Part("ungradable", 3))))
    '4 in no split (3 patients; blank 1, ungradable 3)'
    """
    patients = "" if box.patients is None else counted(box.patients, "patient")
    parts = ", ".join(f"{part.title} {part.photographs:,}" for part in box.parts)
    inside = "; ".join(each for each in (patients, parts) if each)
    return f"{box.photographs:,} {box.title}" + (f" ({inside})" if inside else "")


def _of_patients(box: Box) -> str:
    return "" if box.patients is None else f" of {counted(box.patients, 'patient')}"
