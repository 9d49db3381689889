"""Calibration of p(referable): of ten photographs with a probability of 0.8, eight should be referable.

Slope and intercept are those of logistic regressions of the outcome on the log-odds of p (Cox, Biometrika 1958), in
the terms of Van Calster and others (BMC Medicine 2019). The slope should be 1; it is less if probabilities are too
extreme. The intercept, with the slope fixed at 1, should be 0; it is less if probabilities are too high.
"""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.grades import REFERABLE
from trainer.evaluation.bootstrap import Figures, Floats
from trainer.evaluation.weighted_metrics import Masks, Sample, ratio, shares
from trainer.network.decision import log_odds

FEWEST: Final = 10
"""Slope and intercept need this many patients with a referable photograph, and with another one. With fewer, a single
patient decides them."""
BINS: Final = 10
"""Largest number of bins. Each bin has at least ten photographs, or all of them."""
_STEPS: Final = 25
_CLOSE: Final = 0.01
"""Newton's method stops at a step as short as this. Its error is squared in each step, so about 0.0001 is left, which
2,000 rounds cannot resolve."""
_NOTHING: Final = 1e-12
"""Added to a curvature before a division; it would be 0 if all p are 0 or 1."""
_LONGEST: Final = 1.0
"""Longest Newton step, in standard units. Longer ones are shortened: the likelihood is no parabola that far away."""

Lacking = Literal["few", "alike", "separated"]
"""Too few patients of a class; the same p for all photographs; p separates the two classes completely."""


class ReferableCalibration:
    """The calibration of a sample's p(referable), for many weightings of its patients."""

    def __init__(self, sample: Sample) -> None:
        order = np.argsort(sample.p_referable, kind="stable")
        p = sample.p_referable[order]
        self.p = p
        """(n,) p(referable), ascending; all other arrays have this order."""
        self.has: NDArray[np.bool_] = sample.grades[order] >= REFERABLE
        self.patients: NDArray[np.int64] = sample.patients[order]
        parts = (np.ones(len(p)), self.has, p, (p - self.has) ** 2)
        self._sums = np.stack([np.bincount(self.patients, part, sample.n_patients) for part in parts], axis=1)
        self.bins = quantile_bins(p)
        """(n,) The bin of each photograph."""
        cells = np.empty(len(p), np.int64)
        cells[order] = 2 * self.bins + self.has
        self.tally = sample.tally(cells, 2 * self.n_bins)
        """(patients, 2 n_bins): for each bin the numbers of photographs that are not referable and that are."""
        self._odds = log_odds(p)
        self.lacks = self._lacking()
        """Why there is no slope; with "few" there is no intercept either. None if there are both."""
        if self.lacks != "few":
            self._intercept = fit_intercept(self._odds, self.has)
        if self.lacks is None:
            # In standard units a step in either coefficient weighs the same.
            self._spread = float(self._odds.std())
            self._standard = (self._odds - self._odds.mean()) / self._spread
            self._line = fit_line(self._standard, self.has)

    @property
    def n_bins(self) -> int:
        return int(self.bins[-1]) + 1

    @property
    def bin_shares(self) -> dict[str, Masks]:
        """Masks over the cells of `tally`: in each bin the referable photographs among all."""
        cell_bin, cell_has = np.divmod(np.arange(2 * self.n_bins), 2)
        whole = cell_bin == np.arange(self.n_bins)[:, None]
        return {"share": (whole & (cell_has == 1), whole)}

    def figures(self, weights: Floats) -> Figures:
        """`observed_expected`, `brier`, `slope` and `intercept`, (rounds,), and the `share` of referable photographs in
        each bin, (rounds, n_bins), from weights (patients, rounds); NaN if a round does not define it."""
        photographs, referable, expected, squares = (weights.T @ self._sums).T
        found = {
            "observed_expected": np.where(referable > 0, ratio(referable, expected), np.nan),
            "brier": ratio(squares, photographs),
            "slope": np.full(weights.shape[1], np.nan),
            "intercept": np.full(weights.shape[1], np.nan),
            **shares(weights.T @ self.tally, self.bin_shares),
        }
        if self.lacks == "few":
            return found
        own = weights[self.patients]
        both = (referable > 0) & (referable < photographs)
        one, start = np.ones((1, len(self._odds))), np.array([self._intercept])
        found["intercept"] = _refitted(own, both, one, self._odds, self.has, start)[0]
        if self.lacks is None:
            overlap, line = both & ~self._separated(own), np.stack([one[0], self._standard])
            found["slope"] = _refitted(own, overlap, line, np.zeros_like(self._odds), self.has, self._line)[1]
            found["slope"] /= self._spread
        return found

    def _lacking(self) -> Lacking | None:
        of_kind = [len(np.unique(self.patients[self.has == kind])) for kind in (True, False)]
        if min(of_kind) < FEWEST:
            return "few"
        if self._odds[0] == self._odds[-1]:
            return "alike"
        return "separated" if self._separated(np.ones((len(self._odds), 1)))[0] else None

    def _separated(self, own: Floats) -> NDArray[np.bool_]:
        """(rounds,) whether some p separates a round's referable photographs from the others; the slope is infinite
        then. own (n, rounds): weights of the photographs."""
        drawn, ends = own > 0, []
        for kind in (self.has, ~self.has):
            odds, there = self._odds[kind], drawn[kind]
            ends.append((odds[there.argmax(axis=0)], odds[::-1][there[::-1].argmax(axis=0)]))
        (low, high), (other_low, other_high) = ends
        return np.asarray((low >= other_high) | (high <= other_low))


def quantile_bins(p: Floats) -> NDArray[np.int64]:
    """(n,) bins, from 0, for ascending p (n,). Bins have about as many photographs each; equal p are in one bin."""
    n = max(1, min(BINS, len(p) // 10))
    firsts = np.searchsorted(p, p[np.arange(1, n) * len(p) // n])  # of the values at the cuts
    return np.asarray(np.searchsorted(np.unique(firsts[firsts > 0]), np.arange(len(p)), side="right"), np.int64)


def fit_intercept(odds: Floats, has: NDArray[np.bool_]) -> float:
    """The intercept a with which the logistic of a + odds (n,) sums to the number of true values in has (n,). `has` has
    true and false values."""
    from scipy.optimize import brentq
    from scipy.special import expit

    far = float(np.abs(odds).max()) + np.log(len(odds)) + 1  # there even all of them make less than one, or all but one
    return float(brentq(lambda a: expit(a + odds).sum() - has.sum(), -far, far))


def fit_line(x: Floats, has: NDArray[np.bool_]) -> Floats:
    """(2,) the a and b with which the logistic of a + b x gives has (n,) the highest likelihood. x (n,) has mean 0 and
    standard deviation 1 and does not separate the two classes."""
    from scipy.optimize import minimize
    from scipy.special import expit

    design = np.stack([np.ones_like(x), x], axis=1)

    def loss(at: Floats) -> tuple[float, Floats]:
        line = design @ at
        return float(np.mean(np.logaddexp(0, line) - has * line)), design.T @ (expit(line) - has) / len(x)

    def curvature(at: Floats) -> Floats:
        p = expit(design @ at)
        found: Floats = (design.T * (p * (1 - p))) @ design / len(x)
        return found

    return np.asarray(
        minimize(loss, np.zeros(2), jac=True, hess=curvature, method="trust-exact", tol=1e-9).x, np.float64
    )


def _refitted(
    own: Floats, defined: NDArray[np.bool_], design: Floats, offset: Floats, has: NDArray[np.bool_], start: Floats
) -> Floats:
    """(k, rounds) coefficients of logistic regressions of has (n,) on design (k, n) with a fixed offset (n,) and
    weights own (n, rounds). Newton's method starts from those of equal weights, start (k,).

    NaN if it does not converge, and for rounds that are not `defined` (rounds,).
    """
    from scipy.special import expit

    k = len(start)
    products = (design[:, None] * design).reshape(k * k, -1)
    found, left = np.full((k, own.shape[1]), np.nan), np.flatnonzero(defined)
    own = own if defined.all() else own[:, left]
    reached = np.tile(start[:, None], len(left))
    at = start[:, None]  # one for all rounds in the first step, which so costs little
    for _ in range(_STEPS):
        if not len(left):
            break
        p = expit(np.einsum("kn,kr->nr", design, at) + offset[:, None])
        gradient = _sums(design, has[:, None] - p, own)
        curvature = _sums(products, p * (1 - p), own).T.reshape(-1, k, k) + _NOTHING * np.eye(k)
        step = np.linalg.solve(curvature, gradient.T[:, :, None])[:, :, 0].T
        longest = np.abs(step).max(axis=0)
        reached = reached + step * np.minimum(1, _LONGEST / np.maximum(longest, _CLOSE))
        settled = longest <= _CLOSE
        found[:, left[settled]] = reached[:, settled]
        if settled.any():
            own, left, reached = own[:, ~settled], left[~settled], reached[:, ~settled]
        at = reached
    return found


def _sums(rows: Floats, values: Floats, own: Floats) -> Floats:
    """(k, rounds): sums over the photographs of the product of rows (k, n), values (n, rounds) and own (n, rounds).
    values is (n, 1) if it is the same in all rounds."""
    # Such narrow products are faster without BLAS, whose threads would wait for one another.
    if values.shape[1] == 1:
        return np.asarray(np.einsum("kn,nr->kr", rows * values[:, 0], own), np.float64)
    return np.asarray(np.einsum("kn,nr->kr", rows, values * own), np.float64)
