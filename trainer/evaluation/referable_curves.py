"""The ROC and the precision-recall curve for referable retinopathy, with values and 95 % intervals at fixed points.

The intervals are pointwise: each holds for its own point, not for the whole curve at once. ROC curves of resamples are
compared at the same false positive rate (vertical averaging: Fawcett, Pattern Recognition Letters 2006).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.grades import REFERABLE
from trainer.evaluation.bootstrap import Figures, Floats
from trainer.evaluation.weighted_metrics import Sample

RATES: Final[Floats] = np.linspace(0, 1, 101).round(2)
"""False positive rates at which the sensitivity is given."""
RECALLS: Final[Floats] = RATES[1:]
"""Sensitivities at which the precision is given. At 0 nothing is referred, so the precision is not defined."""
_SLACK: Final = 1e-9
"""Tolerance in photographs: 0.29 * 100 is a little less than 29 and counts as 29."""


class ReferableCurves:
    """Both curves of a sample, for many weightings of its patients. The scores are sorted once."""

    def __init__(self, sample: Sample) -> None:
        order = np.argsort(-sample.p_referable, kind="stable")
        scores = sample.p_referable[order]
        self._patients: NDArray[np.int64] = sample.patients[order]
        self._has = (sample.grades[order] >= REFERABLE).astype(np.float64)
        # Photographs with equal scores are referred together, so the curves have points only where the score changes.
        self._ends: NDArray[np.int64] = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)

    def figures(self, weights: Floats) -> Figures:
        """`sensitivity` (rounds, 101) at RATES and `precision` (rounds, 100) at RECALLS, from weights (patients,
        rounds); NaN if a round has only referable or only other photographs."""
        own = np.ascontiguousarray(weights.T)[:, self._patients]  # a row a round: curves are read along it
        referred = own.cumsum(axis=1)[:, self._ends]
        np.multiply(own, self._has, out=own)
        right = own.cumsum(axis=1)[:, self._ends]
        sensitivity = np.full((len(own), len(RATES)), np.nan)
        precision = np.full((len(own), len(RECALLS)), np.nan)
        for row, (tp, all_referred) in enumerate(zip(right, referred, strict=True)):
            if 0 < tp[-1] < all_referred[-1]:
                sensitivity[row] = _sensitivities(tp, all_referred - tp)
                precision[row] = _precisions(tp, all_referred)
        return {"sensitivity": sensitivity, "precision": precision}


def _sensitivities(tp: Floats, fp: Floats) -> Floats:
    """(101,) sensitivities at RATES, from counts (k,) that rise as the threshold falls; linear between two points."""
    start = np.zeros(1)
    # At a vertical step np.interp takes the upper end: the highest sensitivity at this false positive rate.
    found = np.interp(RATES * fp[-1] + _SLACK, np.append(start, fp), np.append(start, tp)) / tp[-1]
    return np.asarray(np.minimum(found, 1), np.float64)


def _precisions(tp: Floats, referred: Floats) -> Floats:
    """(100,) precisions at RECALLS, from counts (k,): at the highest threshold that reaches the recall, as in average
    precision. Precision is not interpolated linearly (Davis and Goadrich, ICML 2006)."""
    at = np.searchsorted(tp, RECALLS * tp[-1] - _SLACK)
    found: Floats = tp[at] / referred[at]
    return found
