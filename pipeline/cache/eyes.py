"""The eyes of a cache: which eye, at which visit, each photograph shows, and photographs of the patient's other eye."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cache.attributes import read_attributes
from pipeline.cache.cache import Cache
from pipeline.cache.manifest import UNGRADABLE, flagged
from pipeline.grades import UNKNOWN
from pipeline.photos.fingerprint import are_copies, fingerprint_or_zeros

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
    known: "pd.Series[bool]"
    """(rows,) Whether the eye is known."""
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
        known = (manifest["eye"] != "") & (manifest["patient"] != "")
        names = visits + "\0" + manifest["eye"]
        return cls(names.where(known, "\0" + manifest["id"]), known, visits, visit)


class EyePairs(NamedTuple):
    """Pairs of photographs of one patient and visit: one of each eye. A photograph may be in several."""

    rows: NDArray[np.int64]  # (p,) rows of the manifest, all in the split
    fellows: NDArray[np.int64]  # (p,) rows of photographs of the other eye


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
    usable = table.known & ~flagged(manifest, "blank") & ~flagged(manifest, UNGRADABLE)
    if split != "all" and not any_split:
        elsewhere = manifest["patient"][~manifest["split"].isin([split, ""])]
        outside = (manifest["split"] == "") & (manifest["grade"] == UNKNOWN) & ~manifest["patient"].isin(elsewhere)
        usable &= (manifest["split"] == split) | outside
    eyes = pd.DataFrame({"visit": table.visits, "eye": manifest["eye"], "row": np.arange(len(manifest))})
    own = eyes.iloc[cache.rows(split)]
    pairs = own[table.known.iloc[own.index]].merge(eyes[usable], on="visit", suffixes=("", "_fellow"))
    pairs = pairs[pairs["eye"] != pairs["eye_fellow"]].sort_values(["row", "row_fellow"])
    found = EyePairs(pairs["row"].to_numpy(np.int64), pairs["row_fellow"].to_numpy(np.int64))
    return _without_copies(cache, found)


def _without_copies(cache: Cache, pairs: EyePairs) -> EyePairs:
    """The pairs that do not show one photograph twice."""
    rows = np.unique(np.concatenate(pairs))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        prints = dict(zip(rows, pool.map(lambda row: fingerprint_or_zeros(cache.read(int(row))), rows), strict=True))
    checksums = cache.manifest["crc32"].to_numpy()
    different = np.array(
        [
            checksums[one] != checksums[other] and not are_copies(prints[one], prints[other])
            for one, other in zip(*pairs, strict=True)
        ],
        bool,
    )
    return EyePairs(pairs.rows[different], pairs.fellows[different])
