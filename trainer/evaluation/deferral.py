"""Deferral: the least certain photographs are left to a human; risk and coverage of the others.

Confidence is the distance of p(referable) from the threshold, in log-odds. Coverage is the share of photographs that
the network decides. Risk is the share of wrong decisions among these (Geifman and El-Yaniv, NeurIPS 2017).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.grades import REFERABLE
from trainer.evaluation.bootstrap import Figures, Floats, Interval, Resamples, interval
from trainer.evaluation.operating_point import two_by_two
from trainer.evaluation.weighted_metrics import Sample, ratio
from trainer.network.decision import confidence

SHARES: Final = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of photographs left to a human that a report lists."""


@dataclass(frozen=True)
class Kept:
    """The network's decisions if a share of the photographs, the least certain ones, is left to a human. Shares are 0
    to 1; None if they are shares of no photographs."""

    deferred: float
    """The share that is left to a human."""
    photographs: int
    """Photographs that the network decides."""
    referred: int
    """Of these."""
    risk: float | None
    """Share of these that is decided wrongly."""
    sensitivity: float | None
    specificity: float | None


@dataclass(frozen=True)
class Deferral:
    """The `deferral` part of metrics_*.json."""

    area: float
    """Area under the risk-coverage curve: the mean risk over all coverages, 0 to 1."""
    interval: Interval | None
    """95 % interval of the area."""
    random: float
    """The area if photographs were left to a human in random order."""
    ideal: float
    """The area if the photographs that are decided wrongly were left to a human first."""
    shares: list[Kept]
    """One for each of SHARES."""


class RiskCoverage:
    """The risk-coverage curve of a sample that is referred at a threshold."""

    def __init__(self, sample: Sample, threshold: float) -> None:
        self.sample = sample
        scores = sample.referral_scores
        self.has, self.referred = sample.grades >= REFERABLE, scores >= threshold
        self._order = np.argsort(-confidence(scores, threshold), kind="stable")
        self._wrong = (self.has != self.referred)[self._order].astype(np.float64)

    def curve(self) -> tuple[Floats, Floats]:
        """(coverage, risk), (n,) each: of the most certain 1, 2 ... n photographs."""
        count = np.arange(1, len(self._wrong) + 1)
        return count / len(count), np.cumsum(self._wrong) / count

    def figures(self, weights: Floats) -> Figures:
        """`area`: the mean risk over all coverages, (rounds,), from weights (patients, rounds)."""
        own = weights[self.sample.patients[self._order]]
        kept, wrong = np.cumsum(own, axis=0), np.cumsum(own * self._wrong[:, None], axis=0)
        return {"area": ratio((own * ratio(wrong, kept)).sum(axis=0, where=kept > 0), kept[-1])}

    def measure(self, resamples: Resamples) -> Deferral:
        """`resamples`: of the sample's patients."""
        n, wrong = len(self._wrong), int(self._wrong.sum())
        area = self.figures(self.sample.equal_weights)["area"]
        resampled = resamples.figures(self.figures)["area"]
        ideal = np.maximum(0, np.arange(1, n + 1) - (n - wrong)) / np.arange(1, n + 1)
        return Deferral(
            area=float(area[0]),
            interval=interval(float(area[0]), resampled),
            random=wrong / n,
            ideal=float(ideal.mean()),
            shares=[self._kept(share) for share in SHARES],
        )

    def _kept(self, share: float) -> Kept:
        keep = self._order[: len(self._order) - round(share * len(self._order))]
        table = two_by_two(self.referred[keep], self.has[keep])
        sensitivity, specificity, _, _ = table.shares()
        wrong = table.false_positive + table.false_negative
        return Kept(
            deferred=share,
            photographs=len(keep),
            referred=table.true_positive + table.false_positive,
            risk=wrong / len(keep) if len(keep) else None,
            sensitivity=sensitivity,
            specificity=specificity,
        )


def confidence_quantiles(scores: NDArray[np.float64], threshold: float) -> tuple[float, ...]:
    """The 0th to 100th percentile of the confidence of the validation photographs, which weights carry.

    scores (n,): their p(referable).
    """
    return tuple(round(float(value), 6) for value in np.quantile(confidence(scores, threshold), np.linspace(0, 1, 101)))
