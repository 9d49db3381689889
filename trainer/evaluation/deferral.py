"""Deferral: the photographs that a network is least sure of go to a human; risk and coverage of the rest.

Confidence is the distance of p(referable) from the threshold, in log-odds. Risk is the share of wrong decisions to
refer or not, among the photographs that are kept (Geifman and El-Yaniv, NeurIPS 2017).
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.grades import REFERABLE
from trainer.evaluation.bootstrap import Figures, Floats, bootstrap, interval
from trainer.evaluation.operating_point import two_by_two
from trainer.evaluation.weighted_metrics import Sample, ratio
from trainer.network.decision import confidence

SHARES: Final = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Of the photographs, left to a human: what a report lists."""


class RiskCoverage:
    """A sample referred at a threshold, from its surest photograph to its least sure one."""

    def __init__(self, sample: Sample, threshold: float) -> None:
        self.sample = sample
        scores = sample.p_referable
        self.has, self.referred = sample.grades >= REFERABLE, scores >= threshold
        self._order = np.argsort(-confidence(scores, threshold), kind="stable")
        self._wrong = (self.has != self.referred)[self._order].astype(np.float64)

    def curve(self) -> tuple[Floats, Floats]:
        """(coverage, risk), (n,) each: of the surest 1, 2 ... n photographs."""
        count = np.arange(1, len(self._wrong) + 1)
        return count / len(count), np.cumsum(self._wrong) / count

    def figures(self, weights: Floats) -> Figures:
        """`area`: the mean risk over all coverages, (rounds,), from weights (patients, rounds)."""
        own = weights[self.sample.patients[self._order]]
        kept, wrong = np.cumsum(own, axis=0), np.cumsum(own * self._wrong[:, None], axis=0)
        return {"area": ratio((own * ratio(wrong, kept)).sum(axis=0, where=kept > 0), kept[-1])}

    def as_dict(self) -> dict[str, Any]:
        """The `deferral` part of metrics_*.json."""
        n, wrong = len(self._wrong), int(self._wrong.sum())
        area = self.figures(self.sample.equal_weights)["area"]
        resampled = bootstrap(self.sample.n_patients, self.figures)["area"]
        ideal = np.maximum(0, np.arange(1, n + 1) - (n - wrong)) / np.arange(1, n + 1)
        return {
            "area": float(area[0]),
            "interval": interval(float(area[0]), resampled),
            "random": wrong / n,
            "ideal": float(ideal.mean()),
            "shares": [self._kept(share) for share in SHARES],
        }

    def _kept(self, share: float) -> dict[str, Any]:
        """What is left where that share, the least sure, is deferred."""
        keep = self._order[: len(self._order) - round(share * len(self._order))]
        table = two_by_two(self.referred[keep], self.has[keep])
        sensitivity, specificity, _, _ = table.shares()
        wrong = table.false_positive + table.false_negative
        return {
            "deferred": share,
            "photographs": len(keep),
            "referred": table.true_positive + table.false_positive,
            "risk": wrong / len(keep) if len(keep) else None,
            "sensitivity": sensitivity,
            "specificity": specificity,
        }


def confidence_quantiles(scores: NDArray[np.float64], threshold: float) -> tuple[float, ...]:
    """The 0th to 100th percentile of the confidence of validation's photographs (n,), which weights carry."""
    return tuple(round(float(value), 6) for value in np.quantile(confidence(scores, threshold), np.linspace(0, 1, 101)))
