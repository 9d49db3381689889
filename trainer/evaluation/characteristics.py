"""Groups of a split's photographs: by the columns that were kept, and by characteristics of the photographs themselves.

Most data sets do not say which camera took a photograph. The size of the original, whether the frame cuts the circle of
the retina off, and the colour are used instead: they differ between cameras and hardly within one.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cache.attributes import read_attributes
from pipeline.cache.cache import Cache
from pipeline.errors import CacheError
from pipeline.photos.contact_sheet import decode_small
from trainer.evaluation.bootstrap import Floats
from trainer.network.image_statistics import image_statistics

SIZES: Final = 5
"""The commonest sizes of originals are groups, at most this many; the other sizes are one group."""
FEW: Final = 10
"""A size with fewer photographs than this joins that one group."""
THUMBNAIL: Final = 64  # pixels, enough for a colour
CUT: Final = 0.02  # a circle is called cut if it reaches past the frame by more than this fraction of its radius
COLOURS: Final = ("palest third", "middle third", "reddest third")
MOST_VALUES: Final = 10
"""A column with more different numbers than this is divided into four bands."""
MOST_GROUPS: Final = 50
"""A column with more groups than this is refused: it has a name or a date for each photograph."""
NOT_STATED: Final = "not stated"


def kept_groups(cache: Cache, split: str, columns: Sequence[str]) -> "dict[str, pd.Series[Any]]":
    """The groups of a split's graded photographs by each of some columns of attributes.csv: ordered categories, by id.

    Raises CacheError for a column that was not kept, naming those that were, and for one with too many groups.
    """
    attributes = read_attributes(cache) if columns else pd.DataFrame()
    rows = cache.graded_rows(split)
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
    """(n,) groups of a column's cells: one for each value, and "not stated" for empty cells.

    More than MOST_VALUES different numbers are divided into four bands with about as many photographs each (quartiles),
    named by their least and largest number: "41 to 55". Equal numbers stay in one band.
    """
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
    """Sort key: numbers by size, then words. "nan" and "inf" are words."""
    try:
        number = float(name)
    except ValueError:
        number = np.inf
    return number if np.isfinite(number) else np.inf, name


def characteristics(cache: Cache, ids: "pd.Series[str]") -> "dict[str, pd.Series[Any]]":
    """The groups of n photographs by size, frame and colour, as ordered categories. A characteristic that is the same
    for all is left out."""
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
    """(n,) red fraction of each retina's light, 0 to 1; NaN for a black one."""

    def red(row: int) -> float:
        photo = decode_small(cache.read(row), THUMBNAIL)
        share = image_statistics(np.asarray(photo), photo.width, photo.height, None).red
        return np.nan if share is None else share

    return np.array([red(row) for row in rows.tolist()])


def thirds(values: Floats) -> "pd.Series[Any]":
    """(n,) the third that each value is in, by name. Equal values stay in one third."""
    known = ~np.isnan(values)
    places = np.full(len(values), len(COLOURS))
    if known.any():
        places[known] = np.searchsorted(np.quantile(values[known], (1 / 3, 2 / 3)), values[known])
    names = (*COLOURS, "no light")
    return ordered(np.array(names)[places], names)


def ordered(names: Any, order: Sequence[str]) -> "pd.Series[Any]":
    """(n,) names as an ordered category. order: its values; those that do not occur are left out."""
    return pd.Series(names).astype(pd.CategoricalDtype(list(order), ordered=True))
