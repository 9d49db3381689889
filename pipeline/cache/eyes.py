"""The eyes of a cache: which eye, at which visit, each photograph shows, and photographs of the patient's other eye."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cache.attributes import read_attributes
from pipeline.cache.cache import Cache
from pipeline.cache.copies import fingerprints
from pipeline.cache.manifest import UNGRADABLE, flagged
from pipeline.grades import UNKNOWN
from pipeline.photos.fingerprint import Print

VISITS: Final = (
    "visit", "visit id", "visit number", "visit no", "visit date", "exam date", "study date", "acquisition date",
)  # fmt: skip
"""Headers of kept columns that name the visit, in lower case with spaces. The first one that occurs is taken."""


@dataclass(frozen=True, eq=False)
class EyeTable:
    """Which eye, at which visit, each photograph of a manifest shows."""

    eyes: "pd.Series[str]"
    """(rows,) The same name for all photographs of one patient, visit and eye. A photograph whose eye or patient is not
    known is an eye of its own."""
    sides: "pd.Series[str]"
    """(rows,) "left" or "right"; "" if the eye or the patient is not known."""
    visits: "pd.Series[str]"
    """(rows,) The same name for all photographs of one patient and visit."""
    visit: str
    """The column of attributes.csv that names the visit; "" if none was kept, and each eye counts as one visit."""

    @classmethod
    def of(cls, manifest: pd.DataFrame, attributes: pd.DataFrame) -> "EyeTable":
        """`attributes`: see `pipeline.cache.attributes.read_attributes`."""
        folded = {" ".join(name.replace("_", " ").casefold().split()): name for name in attributes.columns}
        visit = next((folded[name] for name in VISITS if name in folded), "")
        visits = manifest["patient"] + "\0" + (attributes[visit].str.strip() if visit else "")
        sides = manifest["eye"].where(manifest["patient"] != "", "")
        eyes = (visits + "\0" + sides).where(sides != "", "\0" + manifest["id"])
        return cls(eyes, sides, visits, visit)

    @property
    def known(self) -> "pd.Series[bool]":
        """(rows,) whether the eye is known."""
        return self.sides != ""


class EyePairs(NamedTuple):
    """Pairs of photographs of one patient and visit: one of each eye. A photograph may be in several."""

    rows: NDArray[np.int64]  # (p,) numbers of photographs, from 0; of a cache its rows
    fellows: NDArray[np.int64]  # (p,) those of photographs of the other eye

    def part(self, chosen: NDArray[np.bool_]) -> "EyePairs":
        """Some of the pairs. chosen: (p,)."""
        return EyePairs(self.rows[chosen], self.fellows[chosen])


def pair_eyes(visits: Iterable[str], sides: Iterable[str], usable: Iterable[bool]) -> EyePairs:
    """Each of n photographs with all photographs of the patient's other eye at the same visit, in ascending order.

    visits (n,): the same name for all photographs of one patient and visit. sides (n,): "left" or "right"; "" if not
    known. usable (n,): whether a photograph may be a fellow.
    """
    photographs = list(zip(visits, sides, usable, strict=True))
    fellows = defaultdict[str, list[tuple[int, str]]](list)  # by visit: number, side
    for number, (visit, side, may_be) in enumerate(photographs):
        if side and may_be:
            fellows[visit].append((number, side))
    pairs = [
        (number, other)
        for number, (visit, side, _) in enumerate(photographs)
        for other, its_side in fellows[visit]
        if side and side != its_side
    ]
    return EyePairs(*np.array(pairs, np.int64).reshape(-1, 2).T)


@lru_cache(maxsize=4)  # a training asks for each split several times, and each answer decodes all photographs
def fellow_eyes(cache: Cache, split: str, *, any_split: bool = False) -> EyePairs:
    """The photographs of a split, each with all photographs of the patient's other eye at the same visit.

    A fellow is in the same split. One that is in no split counts too, as one without a grade, if the patient is in no
    other split. Blank and ungradable photographs are no fellows, and neither is a copy of the photograph, mirrored or
    not, that is named as the other eye. split: as `Cache.rows` has it; "all": splits play no part. any_split: a fellow
    may be in any split, as in a cache that no network was trained on.

    Raises CacheError if a photograph in the cache is damaged.
    """
    manifest = cache.manifest
    table = EyeTable.of(manifest, read_attributes(cache))
    usable = ~flagged(manifest, "blank") & ~flagged(manifest, UNGRADABLE)
    if split != "all" and not any_split:
        elsewhere = manifest["patient"][~manifest["split"].isin([split, ""])]
        outside = (manifest["split"] == "") & (manifest["grade"] == UNKNOWN) & ~manifest["patient"].isin(elsewhere)
        usable &= (manifest["split"] == split) | outside
    pairs = pair_eyes(table.visits, table.sides, usable)
    return _without_copies(cache, pairs.part(np.isin(pairs.rows, cache.rows(split))))


def _without_copies(cache: Cache, pairs: EyePairs) -> EyePairs:
    """The pairs that do not show one photograph twice."""
    rows = np.unique(np.concatenate(pairs))
    checksums = cache.manifest["crc32"].to_numpy()[rows]
    prints = dict(zip(rows, map(Print, checksums, fingerprints(cache, rows)), strict=True))
    different = [not prints[one].is_copy(prints[other]) for one, other in zip(*pairs, strict=True)]
    return pairs.part(np.array(different, bool))
