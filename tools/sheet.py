"""The contact sheet of a cache: what it holds, at a glance."""

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.cache.cache import Cache
from pipeline.cache.splits import SPLITS
from pipeline.grades import GRADES, UNKNOWN
from pipeline.photos.contact_sheet import SIDE, Tile, decode_small, draw_sheet

Grouping = Literal["grade", "split", "flag"]


def sheet_of_cache(cache: Cache, by: Grouping = "grade", per_group: int = 12) -> Image.Image:
    """A sheet of at most `per_group` photographs of each grade, split or flag; headings say how many there are in all.

    Raises CacheError where a photograph's bytes are not those that were cached.
    """
    picked = pick_rows(cache.manifest, by, per_group)
    return draw_sheet({heading: [_tile(cache, row, by) for row in rows.tolist()] for heading, rows in picked.items()})


def pick_rows(manifest: pd.DataFrame, by: Grouping, per_group: int) -> dict[str, NDArray[np.int64]]:
    """Heading -> rows, evenly spaced in the manifest's order; a photograph with two flags stands under both.

    Grades and splits that nobody has get a heading too; ungraded photographs and those in no split only where they
    occur.
    """
    if by == "grade":
        groups = {f"{grade} {name}": manifest["grade"] == grade for grade, name in enumerate(GRADES)}
        rest = {"not graded": manifest["grade"] == UNKNOWN}
    elif by == "split":
        groups = {split: manifest["split"] == split for split in SPLITS}
        rest = {"in no split": manifest["split"] == ""}
    else:
        flags = manifest["flags"].map(str.split)
        names = sorted({name for some in flags for name in some})
        groups = {name: flags.map(lambda some, name=name: name in some) for name in names}
        groups["no flag"] = manifest["flags"] == ""
        rest = {}
    groups |= {name: members for name, members in rest.items() if members.any()}
    picked = {}
    for name, members in groups.items():
        rows = np.flatnonzero(members)
        places = np.linspace(0, len(rows) - 1, min(per_group, len(rows))).round().astype(int)
        picked[f"{name}: {len(rows):,}"] = rows[places]
    return picked


def _tile(cache: Cache, row: int, by: Grouping) -> Tile:
    sample = cache.manifest.iloc[row]
    picture = np.asarray(ImageOps.contain(decode_small(cache.read(row), SIDE), (SIDE, SIDE)))
    grade = f"grade {sample['grade']} " if by != "grade" and sample["grade"] != UNKNOWN else ""
    return Tile(picture, sample["id"], grade + sample["flags"])
