"""By what the photographs of a split are grouped: the columns that were kept of them, and what the cache itself tells.

No file of most sets says which camera took a photograph. The size of the original, whether the frame cuts the circle of
the retina, and the colour stand in for it: each differs between cameras and hardly at all within one.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cache.attributes import read_attributes
from pipeline.cache.cache import Cache
from pipeline.errors import CacheError
from pipeline.grades import UNKNOWN
from pipeline.photos.contact_sheet import decode_small
from trainer.evaluation.bootstrap import Floats
from trainer.network.image_statistics import image_statistics

SIZES: Final = 5
"""So many sizes of originals are listed at most, the commonest; the rest are one group."""
FEW: Final = 10
"""Photographs, below which a size joins that group."""
THUMBNAIL: Final = 64  # pixels, enough for a colour
CUT: Final = 0.02  # of the radius, by which a circle must reach past the frame to be called cut
COLOURS: Final = ("palest third", "middle third", "reddest third")
MOST_VALUES: Final = 10
"""Different numbers in a column, above which they are put into four bands."""
MOST_GROUPS: Final = 50
"""A column with more groups is no grouping: a name or a date of each photograph."""
NOT_STATED: Final = "not stated"


def kept_groups(cache: Cache, split: str, columns: Sequence[str]) -> "dict[str, pd.Series[Any]]":
    """By each of some columns of attributes.csv, the groups of the graded photographs of a split, as ordered categories
    by id.

    Raises CacheError for a column that was not kept, with those that were, and for one with too many groups.
    """
    attributes = read_attributes(cache) if columns else pd.DataFrame()
    rows = cache.rows(split)
    rows = rows[cache.grades[rows] != UNKNOWN]
    ids, found = pd.Index(cache.manifest["id"].to_numpy()[rows]), {}
    for name in dict.fromkeys(columns):
        if name not in attributes.columns:
            there = ", ".join(attributes.columns) or "none; `tools preprocess --keep-column` keeps one"
            raise CacheError(f"{cache.path}: no column {name!r} was kept; the columns kept are: {there}")
        groups = value_groups(attributes[name].iloc[rows].reset_index(drop=True))
        if (n := groups.nunique()) > MOST_GROUPS:
            raise CacheError(
                f"{cache.path}: column {name!r} has {n:,} different values, at most {MOST_GROUPS} make groups"
            )
        found[name] = groups.set_axis(ids)
    return found


def value_groups(cells: "pd.Series[str]") -> "pd.Series[Any]":
    """(n,) groups of the cells of a column: each value is one, an empty cell is "not stated". More than MOST_VALUES
    different numbers are put into four bands with about as many photographs each (quartiles), named by the least and
    the largest number in each: "41 to 55". Equal numbers are never parted."""
    texts = cells.str.split().str.join(" ")  # a cell may have several lines
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
    names = texts.to_numpy(object, copy=True)
    known, bands = np.isfinite(numbers), []
    if len(np.unique(numbers[known])) > MOST_VALUES:
        values = numbers[known]
        places = np.searchsorted(np.quantile(values, (0.25, 0.5, 0.75)), values)
        inside = [values[places == place] for place in range(4)]
        bands = [f"{_plain(band.min())} to {_plain(band.max())}" if len(band) else "" for band in inside]
        names[known] = np.array(bands, object)[places]
    names[names == ""] = NOT_STATED
    others = sorted({*names.tolist()} - {*bands, NOT_STATED}, key=_by_number)
    return ordered(names, [*(band for band in bands if band), *others, NOT_STATED])


def _plain(number: float) -> str:
    return f"{number:.0f}" if number.is_integer() else repr(float(number))


def _by_number(name: str) -> tuple[float, str]:
    """Numbers in their order, then words; "nan" and "inf" are words here."""
    try:
        number = float(name)
    except ValueError:
        number = np.inf
    return number if np.isfinite(number) else np.inf, name


def characteristics(cache: Cache, ids: "pd.Series[str]") -> "dict[str, pd.Series[Any]]":
    """By what the cache tells itself, the groups of n photographs, as ordered categories. A characteristic that is one
    and the same for all is left out."""
    rows = cache.rows_of(ids)
    originals = cache.manifest.iloc[rows].reset_index(drop=True)
    labels = {
        "Eye": ordered(originals["eye"].replace("", "not known"), ["left", "right", "not known"]),
        "Size of the original": sizes(originals),
        "Frame around the retina": frames(originals),
    }
    if cache.recipe.enhance == "none":
        labels["Colour"] = thirds(redness(cache, rows))
    return {what: names for what, names in labels.items() if names.nunique() > 1}


def sizes(originals: pd.DataFrame) -> "pd.Series[Any]":
    """(n,) "1024 x 683 px" for the commonest sizes, "other sizes" for the rest, ordered by how common they are."""
    texts = originals["width"].astype(str) + " x " + originals["height"].astype(str) + " px"
    counts = texts.value_counts()
    common = counts[counts >= FEW].index[:SIZES].tolist()
    return ordered(texts.where(texts.isin(common), "other sizes"), [*common, "other sizes"])


def frames(originals: pd.DataFrame) -> "pd.Series[Any]":
    """(n,) whether the photograph's edge cuts the circle of the retina."""
    cx, cy, radius = (originals[name] for name in ("cx", "cy", "radius"))
    beyond_right, beyond_bottom = cx + radius - originals["width"], cy + radius - originals["height"]
    reach = np.maximum.reduce([radius - cx, beyond_right, radius - cy, beyond_bottom])
    names = np.where(radius.isna(), "no circle found", np.where(reach > CUT * radius, "circle cut off", "whole circle"))
    return ordered(names, ["whole circle", "circle cut off", "no circle found"])


def redness(cache: Cache, rows: NDArray[np.int64]) -> Floats:
    """(n,) share of each retina's light that is red, 0 to 1; NaN of one without light."""

    def red(row: int) -> float:
        photo = decode_small(cache.read(row), THUMBNAIL)
        share = image_statistics(np.asarray(photo), photo.width, photo.height, None).red
        return np.nan if share is None else share

    return np.array([red(row) for row in rows.tolist()])


def thirds(values: Floats) -> "pd.Series[Any]":
    """(n,) names of the third that each value falls into; equal values are never parted."""
    known = ~np.isnan(values)
    places = np.full(len(values), len(COLOURS))
    if known.any():
        places[known] = np.searchsorted(np.quantile(values[known], (1 / 3, 2 / 3)), values[known])
    names = (*COLOURS, "no light")
    return ordered(np.array(names)[places], names)


def ordered(names: Any, order: Sequence[str]) -> "pd.Series[Any]":
    """(n,) names as a category whose values come in that order."""
    return pd.Series(names).astype(pd.CategoricalDtype(list(order), ordered=True))
