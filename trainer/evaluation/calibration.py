"""Calibration of the five probabilities: reliability, calibration error, and temperature scaling."""

from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.grades import N_GRADES
from trainer.evaluation.bootstrap import Floats, Interval

BINS: Final = 15
COLDEST, HOTTEST = 0.1, 10.0
"""Range of temperatures that are tried; those of Guo et al. lie between 0.9 and 3."""


class Bin(NamedTuple):
    """Photographs whose likeliest grade has a probability in (low, high]."""

    low: float
    high: float
    photographs: int
    confidence: float | None  # mean of that probability; None where there are none
    accuracy: float | None  # share of them that are graded rightly


@dataclass(frozen=True)
class Calibration:
    """The `calibration` part of metrics_*.json: whether the probability of the likeliest grade is how often it is
    right."""

    temperature: float
    """1 if the probabilities are not changed."""
    ece: float
    """Expected calibration error, 0 to 1."""
    brier: float
    """0 to 2."""
    ece_before: float
    """At temperature 1, as the next one."""
    brier_before: float
    intervals: dict[str, Interval | None]
    """95 %, of `brier` alone: resamples have a larger calibration error than the sample they are drawn from."""
    bins: list[Bin]
    temperature_with_fellow: float | None = None
    """Of photographs whose fellow eye is taken into account; None if the network takes one eye."""

    def as_dict(self) -> dict[str, Any]:
        fields = {**asdict(self), "bins": [each._asdict() for each in self.bins]}
        if self.temperature_with_fellow is None:
            del fields["temperature_with_fellow"]
        return fields


def fit_temperature(logits: Floats, grades: NDArray[np.int64]) -> float | None:
    """The temperature with the highest likelihood of the grades (Guo et al., ICML 2017), with four decimals.

    logits (n, 5) and grades (n,), all known, of validation. None if it is not within 0.1 to 10: it falls to 0 if all
    photographs are graded right, and rises without end if they are graded worse than by chance.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    right = logits[np.arange(len(grades)), grades]

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(np.mean(logsumexp(scale * logits, axis=1) - scale * right))

    if (logits.argmax(axis=1) == grades).all():
        return None  # the valley runs on to 0, and is flat to the last bit long before
    bounds = (np.log(COLDEST), np.log(HOTTEST))
    # The loss is convex in 1 / temperature, so it has one valley in the logarithm too.
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    at_bound = min(found.x - bounds[0], bounds[1] - found.x) < 1e-3
    return None if at_bound else round(float(np.exp(found.x)), 4)


def reliability(predicted: NDArray[np.float32], grades: NDArray[np.int64]) -> list[Bin]:
    """The reliability curve in 15 bins of equal width; (n, 5) probabilities and (n,) known grades."""
    confidence = predicted.max(axis=1).astype(np.float64)
    right = predicted.argmax(axis=1) == grades
    edges = np.linspace(0, 1, BINS + 1)
    places = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    sums = [np.bincount(places, weights, BINS) for weights in (np.ones(len(right)), confidence, right)]
    photographs, confidences, rights = np.stack(sums).astype(np.float64)

    def mean(sums: Floats, place: int) -> float | None:
        return float(sums[place] / photographs[place]) if photographs[place] else None

    return [
        Bin(
            round(float(edges[n]), 4),
            round(float(edges[n + 1]), 4),
            int(photographs[n]),
            mean(confidences, n),
            mean(rights, n),
        )
        for n in range(BINS)
    ]


def expected_calibration_error(bins: list[Bin]) -> float:
    """Mean distance between confidence and accuracy over the photographs (Naeini et al., AAAI 2015), 0 to 1."""
    total = sum(each.photographs for each in bins)
    gaps = [each.photographs * abs((each.confidence or 0) - (each.accuracy or 0)) for each in bins]
    return sum(gaps) / total


def brier_by_photograph(predicted: NDArray[np.float32], grades: NDArray[np.int64]) -> Floats:
    """(n,) sum over the grades of (probability - truth) squared (Brier, Monthly Weather Review 1950), 0 to 2."""
    errors = predicted.astype(np.float64) - np.eye(N_GRADES)[grades]
    squares: Floats = (errors**2).sum(axis=1)
    return squares
