"""Metrics for many weightings of the patients at once: the sample itself and its bootstrap resamples.

The figures of the sample are those of equal weights, so figures and intervals are computed by the same code.
scikit-learn takes one weighting at a time: 2,000 resamples of 7,026 photographs take it 40 s for the six AUCs alone,
and 1 s here for everything.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.grades import N_GRADES, REFERABLE, UNKNOWN
from pipeline.metrics import quadratic_kappas
from trainer.evaluation.bootstrap import Figures, Floats
from trainer.kinds import PROBABILITIES, SCORE
from trainer.network.decision import p_referable

Masks = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""Definition of a share: the cells of a table of counts in its numerator, and those in its denominator; (cells,) each,
or (5, cells) for a share of each grade."""

_TRUE, _GIVEN = np.divmod(np.arange(N_GRADES**2), N_GRADES)
_GRADE: Final = np.arange(N_GRADES)[:, None]
_HIT: Final = (_TRUE == _GRADE) & (_GIVEN == _GRADE)
SHARES: Final[Mapping[str, Masks]] = {
    "accuracy": (_TRUE == _GIVEN, _TRUE >= 0),
    "sensitivity": ((_TRUE >= REFERABLE) & (_GIVEN >= REFERABLE), _TRUE >= REFERABLE),
    "specificity": ((_TRUE < REFERABLE) & (_GIVEN < REFERABLE), _TRUE < REFERABLE),
    "sensitivity_by_grade": (_HIT, _TRUE == _GRADE),
    "specificity_by_grade": ((_TRUE != _GRADE) & (_GIVEN != _GRADE), _TRUE != _GRADE),
    "precision_by_grade": (_HIT, _GIVEN == _GRADE),
}
"""Shares over the 25 cells of a confusion matrix, row by row."""


class Ranking(NamedTuple):
    """Positive and negative photographs in the order of a score, which is all that an AUC depends on."""

    without: NDArray[np.int64]  # their patients, in order of the score
    having: NDArray[np.int64]  # patients of the others
    below: NDArray[np.int64]  # for each of those, how many of `without` have a lower score
    upto: NDArray[np.int64]  # and how many have no higher one

    @classmethod
    def of(cls, has: NDArray[np.bool_], scores: NDArray[Any], patients: NDArray[np.int64]) -> "Ranking":
        order = np.argsort(scores[~has], kind="stable")
        ascending = scores[~has][order]
        places = [np.searchsorted(ascending, scores[has], side) for side in ("left", "right")]
        return cls(patients[~has][order], patients[has], *places)

    def auc(self, weights: Floats) -> Floats:
        """(rounds,) area under the ROC curve, exact for tied scores (Mann and Whitney 1947), from weights (patients,
        rounds). NaN if a round lacks a class."""
        lower = np.zeros((len(self.without) + 1, weights.shape[1]))
        np.cumsum(weights[self.without], axis=0, out=lower[1:])
        having = weights[self.having]
        wins = np.einsum("ij,ij->j", having, lower[self.below]) + np.einsum("ij,ij->j", having, lower[self.upto])
        return ratio(wins, 2 * having.sum(axis=0) * lower[-1])


@dataclass(frozen=True, eq=False)
class Sample:
    """The graded photographs of a split: truth, prediction and patients."""

    grades: NDArray[np.int64]  # (n,) 0-4
    predicted: NDArray[np.int64]  # (n,) 0-4
    probabilities: NDArray[np.float32]  # (n, 5)
    patients: NDArray[np.int64]  # (n,) numbered from 0
    scores: Floats | None = None  # (n,) for the referral, 0 to 1; None: p_referable

    @classmethod
    def of(cls, predictions: pd.DataFrame, patients: "pd.Series[str] | None" = None) -> "Sample":
        """The graded ones of predictions (n,). patients (n,): of the predictions; None: each counts as a patient of
        its own.

        Raises ValueError if no photograph is graded.
        """
        known = (predictions["grade"] != UNKNOWN).to_numpy()
        if not known.any():
            raise ValueError("none of the photographs has a grade to measure against")
        table = predictions[known]
        codes = np.arange(len(table)) if patients is None else pd.factorize(patients.to_numpy()[known])[0]
        return cls(
            table["grade"].to_numpy(np.int64),
            table["predicted"].to_numpy(np.int64),
            table[list(PROBABILITIES)].to_numpy(np.float32),
            codes.astype(np.int64),
            table[SCORE].to_numpy(np.float64) if SCORE in table else None,
        )

    def part(self, chosen: NDArray[np.bool_], patients: NDArray[np.int64]) -> "Sample":
        """Some of the photographs. chosen: (n,). patients: of those chosen, numbered from 0."""
        scores = None if self.scores is None else self.scores[chosen]
        return Sample(self.grades[chosen], self.predicted[chosen], self.probabilities[chosen], patients, scores)

    @cached_property
    def n_patients(self) -> int:
        return int(self.patients.max()) + 1

    @property
    def equal_weights(self) -> Floats:
        """(patients, 1) weights of the sample itself: all 1."""
        return np.ones((self.n_patients, 1))

    @cached_property
    def p_referable(self) -> Floats:
        """(n,) p2 + p3 + p4."""
        return p_referable(self.probabilities)

    @property
    def referral_scores(self) -> Floats:
        """(n,) what is compared with the threshold for referral, see `DecisionRule.referral_scores`."""
        return self.p_referable if self.scores is None else self.scores

    def tally(self, cells: NDArray[np.int64], n_cells: int) -> Floats:
        """(patients, n_cells) numbers of each patient's photographs by cell. cells (n,): the cell of each
        photograph."""
        return tally(self.patients, self.n_patients, cells, n_cells)

    @cached_property
    def confusions(self) -> Floats:
        """(patients, 25) the confusion matrix of each patient, row by row."""
        return self.tally(self.grades * N_GRADES + self.predicted, N_GRADES**2)

    @cached_property
    def _rankings(self) -> list[Ranking]:
        by_grade = [
            Ranking.of(self.grades == grade, self.probabilities[:, grade], self.patients) for grade in range(N_GRADES)
        ]
        return [*by_grade, Ranking.of(self.grades >= REFERABLE, self.p_referable, self.patients)]

    @cached_property
    def _occurs(self) -> NDArray[np.bool_]:
        """(5,) whether any photograph has the grade."""
        return np.bincount(self.grades, minlength=N_GRADES) > 0

    def figures(self, weights: Floats) -> Figures:
        """Every figure of `Metrics` by name, for each round of weights (patients, rounds)."""
        counts = weights.T @ self.confusions
        found = shares(counts, SHARES)
        *by_grade, referable = [ranking.auc(weights) for ranking in self._rankings]
        aucs = np.stack(by_grade, axis=1)
        return {
            **found,
            "balanced_accuracy": _mean(found["sensitivity_by_grade"][:, self._occurs]),
            "kappa": quadratic_kappas(counts.reshape(-1, N_GRADES, N_GRADES)),
            "auc": _mean(aucs[:, self._occurs]),
            "auc_by_grade": aucs,
            "referable_auc": referable,
        }

    def share_patients(self) -> dict[str, NDArray[np.int64]]:
        """The number of patients behind each figure that is a share, by name."""
        return patients_behind(self.confusions, SHARES)


def tally(patients: NDArray[np.int64], n_patients: int, cells: NDArray[np.int64], n_cells: int) -> Floats:
    """(n_patients, n_cells) numbers of photographs by patient and cell. patients (n,), cells (n,): of each photograph,
    from 0."""
    flat = np.bincount(patients * n_cells + cells, minlength=n_patients * n_cells)
    return flat.reshape(n_patients, n_cells).astype(np.float64)


def ratio(part: Floats, whole: Floats) -> Floats:
    """part / whole; NaN if the whole is 0."""
    shares: Floats = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
    return shares


def shares(counts: Floats, masks: Mapping[str, Masks]) -> Figures:
    """Shares of the counts (rounds, cells): (rounds,) or, for one of each grade, (rounds, 5)."""
    return {name: ratio(counts @ part.T, counts @ whole.T) for name, (part, whole) in masks.items()}


def patients_behind(tally: Floats, masks: Mapping[str, Masks]) -> dict[str, NDArray[np.int64]]:
    """The number of patients of a tally (patients, cells) in the denominator of each share, by name."""
    return {name: (tally @ whole.T > 0).sum(axis=0) for name, (_, whole) in masks.items()}


def _mean(values: Floats) -> Floats:
    """(rounds,) means of (rounds, k); NaN if one of the values is, or k is 0.

    A resample that lacks a grade of the sample therefore has no mean. A mean over the other grades would be another
    figure.
    """
    return values.mean(axis=1) if values.shape[1] else np.full(len(values), np.nan)
