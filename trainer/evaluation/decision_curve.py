"""The decision curve of the referral: net benefit against referring everybody and nobody.

A threshold probability t weighs false referrals against right ones: whoever refers at 10 % or more accepts nine false
referrals for one right one. The net benefit is TP / n - FP / n * t / (1 - t): right referrals per photograph, minus the
false ones at that exchange rate (Vickers and Elkin, Medical Decision Making 2006).

At another prevalence q the positives weigh q / (P / n) and the negatives (1 - q) / (N / n), where P of n photographs
are referable and N are not. The net benefit is then sensitivity * q - (1 - specificity) * (1 - q) * t / (1 - t). The
probabilities are not changed.
"""

from typing import Final

import numpy as np

from pipeline.grades import REFERABLE
from trainer.evaluation.bootstrap import Figures, Floats
from trainer.evaluation.weighted_metrics import Sample, ratio

THRESHOLDS: Final[Floats] = np.linspace(0.02, 0.5, 49).round(2)
_RATES: Final[Floats] = THRESHOLDS / (1 - THRESHOLDS)
"""Cost of a false referral in right referrals, t / (1 - t), at each threshold."""


class DecisionCurve:
    """The decision curve of a sample. A photograph is referred if p(referable) is at least the threshold."""

    def __init__(self, sample: Sample, prevalence: float | None) -> None:
        """prevalence: of another population, 0 to 1; None: that of the sample."""
        self.prevalence = prevalence
        # One cell for each number of thresholds that a photograph reaches, for referable ones and for others.
        self._width = len(THRESHOLDS) + 1
        reached = np.searchsorted(THRESHOLDS, sample.p_referable, side="right")
        has = sample.grades >= REFERABLE
        self._tally = sample.tally(self._width * has + reached, 2 * self._width)
        self._all_better = self._benefits(sample.equal_weights)["refer_all"][0] > 0

    def figures(self, weights: Floats) -> Figures:
        """(rounds, 49) each, at THRESHOLDS, from weights (patients, rounds); NaN if a round has only referable or only
        other photographs.

        net_benefit: of the network. refer_all: of referring everybody. gain: net_benefit minus that of referring all or
        none, whichever is better in the sample itself. Referring none has a net benefit of 0.
        """
        found = self._benefits(weights)
        return found | {"gain": found["net_benefit"] - np.where(self._all_better, found["refer_all"], 0)}

    def _benefits(self, weights: Floats) -> Figures:
        counts = (weights.T @ self._tally).reshape(-1, 2, self._width)
        at_least = counts[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]
        whole = at_least[:, :, :1]  # photographs of each kind
        referred = ratio(at_least[:, :, 1:], np.broadcast_to(whole, at_least[:, :, 1:].shape))
        prevalence = whole[:, 1] / whole.sum(axis=1) if self.prevalence is None else self.prevalence
        benefit = referred[:, 1] * prevalence - referred[:, 0] * (1 - prevalence) * _RATES
        refer_all = np.where(np.isnan(benefit), np.nan, prevalence - (1 - prevalence) * _RATES)
        return {"net_benefit": benefit, "refer_all": refer_all}
