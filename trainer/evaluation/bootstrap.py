"""Percentile intervals (95 %) by a cluster bootstrap over patients.

Two eyes of a patient are alike, so patients are drawn, with all their photographs (cluster bootstrap: Davison and
Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). A round is a column of whole numbers, how often
each patient was drawn; every figure is computed from such columns, for hundreds of rounds at once.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Figures = dict[str, Floats]
"""By name: (rounds,), or (rounds, 5) for a figure of each grade; NaN where a round cannot define it."""
Interval = tuple[float, float]
Limits = Interval | list[Interval | None] | None

ROUNDS: Final = 2000
LEVEL: Final = 0.95
_TAIL: Final = (1 - LEVEL) / 2
_BLOCK: Final = 128
"""Rounds at once: 7,026 photographs then need 60 MB, and more at once is no faster."""


class Resamples:
    """Rounds of patients drawn with replacement: once, for all figures of these patients, and the same for each."""

    def __init__(
        self, patients: int, rounds: int = ROUNDS, seed: int = 0, strata: NDArray[np.int64] | None = None
    ) -> None:
        """`patients`: how many there are. strata (patients,): groups that patients are drawn within, each as large in a
        resample as it is. The same arguments give the same resamples."""
        random, self._blocks = np.random.default_rng(seed), []
        for start in range(0, rounds, _BLOCK):
            width = min(_BLOCK, rounds - start)
            drawn = _drawn(random, patients, width, strata)
            cells = (drawn * width + np.arange(width)).ravel()
            counts = np.bincount(cells, minlength=patients * width).reshape(patients, width)
            # A patient is drawn a few times at most: a byte each is 14 MB for 7,026 patients, and a double 112 MB.
            self._blocks.append(counts.astype(np.min_scalar_type(counts.max())))

    def figures(self, measure: Callable[[Floats], Figures]) -> Figures:
        """Of every round. `measure` takes weights (patients, block), how often each patient was drawn in each round of
        a block, and gives the figures of these rounds."""
        blocks = [measure(counts.astype(np.float64)) for counts in self._blocks]
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _drawn(
    random: np.random.Generator, patients: int, width: int, strata: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """(patients, width) numbers of patients, drawn with replacement."""
    if strata is None:
        return random.integers(patients, size=(patients, width))
    groups = [np.flatnonzero(strata == group) for group in np.unique(strata)]
    return np.concatenate([group[random.integers(len(group), size=(len(group), width))] for group in groups])


def interval(value: float, resampled: Floats, patients: int | None = None) -> Interval | None:
    """The percentile interval of a figure from its values in (rounds,); None where the resamples know nothing.

    Rounds that cannot define the figure are left out. Resamples of photographs that were all graded rightly are all
    right as well, and say nothing of the next patient: an interval without width is None. Only for a share of 0 or 1
    is more known, from the number of `patients` that it is a share of: then it is the exact one, as if each had one
    photograph.
    """
    known = resampled[~np.isnan(resampled)]
    if np.isnan(value) or not len(known):
        return None
    low, high = np.quantile(known, (_TAIL, 1 - _TAIL)).tolist()
    if low < high:
        return low, high
    return exact_interval(round(patients * value), patients) if patients and value in (0, 1) else None


def exact_interval(right: int, of: int) -> Interval:
    """Clopper and Pearson's of the share of `right` ones of `of` that have nothing to do with one another (Biometrika
    1934)."""
    from scipy.stats import binomtest

    low, high = binomtest(right, of).proportion_ci(LEVEL, "exact")
    return float(low), float(high)


def intervals(values: Figures, resampled: Figures, patients: Mapping[str, NDArray[np.int64]]) -> dict[str, Limits]:
    """`interval` of every figure: `values` of one round, the sample as it is, and `patients` for those that are shares.

    A list of five where the figure is one of each grade.
    """

    def each(name: str) -> Limits:
        shape = values[name].shape[1:]
        of = np.broadcast_to(patients.get(name, np.int64(0)), shape)
        if not shape:
            return interval(values[name].item(), resampled[name], int(of))
        columns = zip(values[name][0].tolist(), resampled[name].T, of.tolist(), strict=True)
        return [interval(value, column, n) for value, column, n in columns]

    return {name: each(name) for name in values}


def single(limits: Limits) -> Interval | None:
    """The interval of a figure that is one number, out of `intervals`."""
    assert not isinstance(limits, list)
    return limits


def listed(limits: Limits) -> list[Interval | None]:
    """The intervals of a figure that has one for each grade, bin or point, out of `intervals`."""
    assert isinstance(limits, list)
    return limits


def p_value(differences: Floats) -> float | None:
    """Two-sided, of a difference of 0, from the differences in (rounds,): the level at which the percentile interval
    just reaches 0 (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 15.4).

    At least 2 / (rounds + 1), for no finite number of rounds makes anything impossible. None where no round defines it.
    """
    known = differences[~np.isnan(differences)]
    if not len(known):
        return None
    fewer = min((known <= 0).sum(), (known >= 0).sum())
    return min(1.0, 2 * (int(fewer) + 1) / (len(known) + 1))
