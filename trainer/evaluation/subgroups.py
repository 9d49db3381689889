"""Whether a model is as good for one eye, camera or clinic as for another: figures of parts of a split.

No file says which camera took a photograph. The size of the original, whether the frame cuts the circle of the retina,
and the colour stand in for it: each differs between cameras and hardly at all within one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cache.cache import Cache
from pipeline.grades import REFERABLE
from pipeline.photos.contact_sheet import decode_small
from trainer.evaluation.bootstrap import Figures, Floats, bootstrap, intervals
from trainer.evaluation.metrics import plain_value
from trainer.evaluation.operating_point import Referral
from trainer.evaluation.weighted_metrics import Sample
from trainer.network.image_statistics import look
from trainer.network.metadata import Operating

SIZES: Final = 5
"""So many sizes of originals are listed at most, the commonest; the rest are one group."""
FEW: Final = 10
"""Photographs, below which a size joins that group."""
THUMBNAIL: Final = 64  # pixels, enough for a colour
CUT: Final = 0.02  # of the radius, by which a circle must reach past the frame to be called cut
COLOURS: Final = ("palest third", "middle third", "reddest third")


class Subgroup(NamedTuple):
    name: str
    photographs: int
    patients: int
    referable: int
    figures: Mapping[str, float | None]
    """accuracy, referable_auc, sensitivity and specificity, of referral where there is a threshold; None: undefined."""
    intervals: Mapping[str, Any]
    """By name of a figure, (low, high) or None."""


def subgroups(
    cache: Cache, predictions: pd.DataFrame, patients: "pd.Series[str]", operating: Operating | None
) -> dict[str, list[Subgroup]]:
    """By characteristic, the groups of n graded predictions whose photographs are the cache's and whose (n,) patients
    are given. A characteristic that is one and the same for all is left out."""
    rows = cache.rows_of(predictions["id"])
    originals = cache.manifest.iloc[rows].reset_index(drop=True)
    labels = {
        "Eye": originals["eye"].replace("", "not known"),
        "Size of the original": sizes(originals),
        "Frame around the retina": frames(originals),
    }
    if cache.recipe.enhance == "none":
        labels["Colour"] = thirds(redness(cache, rows))
    found = {}
    for what, names in labels.items():
        parts = [(str(name), (names == name).to_numpy()) for name in dict.fromkeys(names.sort_values())]
        if len(parts) > 1:
            found[what] = [measure_part(name, predictions[part], patients[part], operating) for name, part in parts]
    return found


def measure_part(
    name: str, predictions: pd.DataFrame, patients: "pd.Series[str]", operating: Operating | None
) -> Subgroup:
    sample = Sample.of(predictions, patients)
    referral = Referral(sample, operating, None) if operating else None

    def figures(weights: Floats) -> Figures:
        every = sample.figures(weights)
        wanted = {name: every[name] for name in ("accuracy", "referable_auc", "sensitivity", "specificity")}
        if referral:
            referred = referral.figures(weights)
            wanted |= {name: referred[name] for name in ("sensitivity", "specificity")}
        return wanted

    values = figures(sample.equal_weights)
    behind = {name: n for name, n in sample.share_patients().items() if name in values}
    return Subgroup(
        name,
        len(sample.grades),
        sample.n_patients,
        int((sample.grades >= REFERABLE).sum()),
        {name: plain_value(value[0]) for name, value in values.items()},
        intervals(values, bootstrap(sample.n_patients, figures), behind),
    )


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
        share = look(np.asarray(photo), photo.width, photo.height, None).red
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
