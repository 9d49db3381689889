"""Whether p(referable) is right: of ten photographs with a probability of 0.8, eight should be referable.

Slope and intercept are those of logistic regressions of the outcome on the log-odds of p (Cox, Biometrika 1958), in
the terms of Van Calster and others (BMC Medicine 2019). The slope should be 1; it is less where probabilities are too
extreme. The intercept, with the slope held at 1, should be 0; it is less where probabilities are too high.
"""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.grades import REFERABLE
from trainer.evaluation.bootstrap import Figures, Floats
from trainer.evaluation.weighted_metrics import Masks, Sample, ratio, shares

CLIP: Final = 1e-6
"""p is held within CLIP and 1 - CLIP before its log-odds are taken: 0 and 1 have none."""
FEWEST: Final = 10
"""Patients with a referable photograph, and patients with another one, that slope and intercept need: of fewer, one
patient alone decides them."""
BINS: Final = 10
"""At most. Each holds at least ten photographs, or all of them."""
_STEPS: Final = 25
_CLOSE: Final = 0.01
"""Newton's error is squared in each step: one as short as this leaves about 0.0001, less than 2,000 rounds can tell."""
_NOTHING: Final = 1e-12
"""Added to a curvature so that it can be divided by where all p are 0 or 1."""
_LONGEST: Final = 1.0
"""In standard units. A longer step has left the region where the likelihood is like a parabola, and is cut."""

Lacking = Literal["few", "alike", "separated"]
"""Too few patients of a kind; one p for all photographs; p tells the two kinds apart without an overlap."""


class ReferableCalibration:
    """The p(referable) of a sample against the truth, for many weightings of its patients."""

    def __init__(self, sample: Sample) -> None:
        order = np.argsort(sample.p_referable, kind="stable")
        p = sample.p_referable[order]
        self.p = p
        """(n,) p(referable), rising; (n,) as all that follows."""
        self.has: NDArray[np.bool_] = sample.grades[order] >= REFERABLE
        self.patients: NDArray[np.int64] = sample.patients[order]
        parts = (np.ones(len(p)), self.has, p, (p - self.has) ** 2)
        self._sums = np.stack([np.bincount(self.patients, part, sample.n_patients) for part in parts], axis=1)
        self.bins = quantile_bins(p)
        """Of each photograph the number of its bin."""
        cells = np.empty(len(p), np.int64)
        cells[order] = 2 * self.bins + self.has
        self.tally = sample.tally(cells, 2 * self.n_bins)
        """(patients, 2 n_bins): of each bin the photographs that are not referable, and those that are."""
        held = np.clip(p, CLIP, 1 - CLIP)
        self._odds: Floats = np.log(held / (1 - held))
        self.lacks = self._lacking()
        """Why there is no slope, and for "few" no intercept either; None where there are both."""
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
        """Over the cells of `tally`: of each bin, the referable among all."""
        cell_bin, cell_has = np.divmod(np.arange(2 * self.n_bins), 2)
        whole = cell_bin == np.arange(self.n_bins)[:, None]
        return {"share": (whole & (cell_has == 1), whole)}

    def figures(self, weights: Floats) -> Figures:
        """`observed_expected`, `brier`, `slope` and `intercept`, (rounds,), and `share` of the referable in each bin,
        (rounds, n_bins), from weights (patients, rounds); NaN where a round cannot define it."""
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
        """(rounds,) whether some p has all referable photographs of a round on one side and all others on the other,
        or on it: then no slope is steep enough. own (n, rounds): weights of the photographs."""
        drawn, ends = own > 0, []
        for kind in (self.has, ~self.has):
            odds, there = self._odds[kind], drawn[kind]
            ends.append((odds[there.argmax(axis=0)], odds[::-1][there[::-1].argmax(axis=0)]))
        (low, high), (other_low, other_high) = ends
        return np.asarray((low >= other_high) | (high <= other_low))


def quantile_bins(p: Floats) -> NDArray[np.int64]:
    """(n,) numbers of bins from 0 on, of rising p (n,): about as many photographs in each, equal p in one bin."""
    n = max(1, min(BINS, len(p) // 10))
    firsts = np.searchsorted(p, p[np.arange(1, n) * len(p) // n])  # of the values at the cuts
    return np.asarray(np.searchsorted(np.unique(firsts[firsts > 0]), np.arange(len(p)), side="right"), np.int64)


def fit_intercept(odds: Floats, has: NDArray[np.bool_]) -> float:
    """The a for which the logistic of a + odds (n,) sums to as many as are true in has (n,): neither all nor none."""
    from scipy.optimize import brentq
    from scipy.special import expit

    far = float(np.abs(odds).max()) + np.log(len(odds)) + 1  # there even all of them make less than one, or all but one
    return float(brentq(lambda a: expit(a + odds).sum() - has.sum(), -far, far))


def fit_line(x: Floats, has: NDArray[np.bool_]) -> Floats:
    """(2,) a and b for which the logistic of a + b x makes has (n,) likeliest; x (n,) has mean 0 and deviation 1 and
    does not separate the two kinds."""
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
    """(k, rounds) coefficients of logistic regressions of has (n,) on design (k, n) with a fixed offset (n,), under
    weights own (n, rounds), by Newton's method from those of equal weights, start (k,).

    NaN where it does not settle, and where a round is not `defined` (rounds,).
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
    """(k, rounds): sums over the photographs of rows (k, n), values (n, rounds) or, where all rounds have the same,
    (n, 1), and own (n, rounds)."""
    # Products this narrow are faster without BLAS, whose threads would wait for one another.
    if values.shape[1] == 1:
        return np.asarray(np.einsum("kn,nr->kr", rows * values[:, 0], own), np.float64)
    return np.asarray(np.einsum("kn,nr->kr", rows, values * own), np.float64)
