"""Percentile intervals (95 %) by a cluster bootstrap over patients.

Two eyes of a patient are alike, so patients are drawn with all their photographs (cluster bootstrap: Davison and
Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). A round is a column that says how often each
patient was drawn. Every figure is computed from such columns, for hundreds of rounds at once.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Figures = dict[str, Floats]
"""Figures by name: (rounds,), or (rounds, 5) for one of each grade; NaN if a round does not define it."""
Interval = tuple[float, float]
Limits = Interval | list[Interval | None] | None

ROUNDS: Final = 2000
LEVEL: Final = 0.95
TAIL: Final = (1 - LEVEL) / 2
"""The fraction of the resamples beyond each end of an interval."""
_BLOCK: Final = 128
"""Rounds at once. With 128, 7,026 photographs need 60 MB, and more are no faster."""


class Resamples:
    """Resamples of patients, drawn once with replacement. All figures of these patients use the same ones."""

    def __init__(
        self, patients: int, rounds: int = ROUNDS, seed: int = 0, strata: NDArray[np.int64] | None = None
    ) -> None:
        """patients: their number. strata (patients,): groups; each resample has as many patients of a group as there
        are. The same arguments give the same resamples."""
        random, self._blocks = np.random.default_rng(seed), []
        for start in range(0, rounds, _BLOCK):
            width = min(_BLOCK, rounds - start)
            drawn = _drawn(random, patients, width, strata)
            cells = (drawn * width + np.arange(width)).ravel()
            counts = np.bincount(cells, minlength=patients * width).reshape(patients, width)
            # A patient is drawn a few times at most. In bytes 7,026 patients take 14 MB, in doubles 112 MB.
            self._blocks.append(counts.astype(np.min_scalar_type(counts.max())))

    def figures(self, measure: Callable[[Floats], Figures]) -> Figures:
        """The figures of all rounds. measure: gives the figures of a block of rounds from weights (patients, block),
        which say how often each patient was drawn in each round."""
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
    """The percentile interval of a figure from its values in the resamples (rounds,); None if it has no width.

    Rounds that do not define the figure are left out. If all photographs are graded right, so are those of every
    resample: an interval without width says nothing about the next patient. Only for a share of 0 or 1, with the number
    of `patients` that it is a share of, the exact interval is given, as if each patient had one photograph.
    """
    known = resampled[~np.isnan(resampled)]
    if np.isnan(value) or not len(known):
        return None
    low, high = np.quantile(known, (TAIL, 1 - TAIL)).tolist()
    if low < high:
        return low, high
    return exact_interval(round(patients * value), patients) if patients and value in (0, 1) else None


def exact_interval(right: int, of: int) -> Interval:
    """The exact 95 % interval of the share `right` / `of` of independent trials (Clopper and Pearson, Biometrika
    1934)."""
    from scipy.stats import binomtest

    low, high = binomtest(right, of).proportion_ci(LEVEL, "exact")
    return float(low), float(high)


def intervals(values: Figures, resampled: Figures, patients: Mapping[str, NDArray[np.int64]]) -> dict[str, Limits]:
    """The interval of every figure; a list of five for a figure of each grade.

    values: of the sample itself, as one round. resampled: of all rounds. patients: the number of patients of each
    figure that is a share, for `interval`.
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
    """The interval of a figure that is one number, from `intervals`."""
    assert not isinstance(limits, list)
    return limits


def listed(limits: Limits) -> list[Interval | None]:
    """The intervals of a figure of each grade, bin or point, from `intervals`."""
    assert isinstance(limits, list)
    return limits


def p_value(differences: Floats) -> float | None:
    """The two-sided p-value of a difference of 0, from the differences in the resamples (rounds,): the level at which
    the percentile interval just reaches 0 (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 15.4).

    It is at least 2 / (rounds + 1). None if no round defines the difference.
    """
    known = differences[~np.isnan(differences)]
    if not len(known):
        return None
    fewer = min((known <= 0).sum(), (known >= 0).sum())
    return min(1.0, 2 * (int(fewer) + 1) / (len(known) + 1))
