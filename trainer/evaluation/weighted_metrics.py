"""Metrics for many weightings of the patients at once: the sample itself and its bootstrap resamples.

The figures of the sample are those of equal weights, so an interval cannot be of anything else than its figure.
scikit-learn takes one weighting at a time: 2,000 resamples of 7,026 photographs are 40 s of work for the six AUC alone,
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
from trainer.kinds import PROBABILITIES
from trainer.network.decision import p_referable

Masks = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""Of a share: which cells of a table of counts are counted, and among which; (cells,), or (5, cells) for each grade."""

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
"""Over the 25 cells of a confusion matrix, row by row."""


class Ranking(NamedTuple):
    """Positive and negative photographs, ordered by a score: all that an AUC depends on."""

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
        """(rounds,) area under the ROC curve, exact where scores tie (Mann and Whitney 1947); weights (patients,
        rounds). NaN where a round has none of either side."""
        lower = np.zeros((len(self.without) + 1, weights.shape[1]))
        np.cumsum(weights[self.without], axis=0, out=lower[1:])
        having = weights[self.having]
        wins = np.einsum("ij,ij->j", having, lower[self.below]) + np.einsum("ij,ij->j", having, lower[self.upto])
        return ratio(wins, 2 * having.sum(axis=0) * lower[-1])


@dataclass(frozen=True, eq=False)
class Sample:
    """Graded photographs as they are measured."""

    grades: NDArray[np.int64]  # (n,) 0-4
    predicted: NDArray[np.int64]  # (n,) 0-4
    probabilities: NDArray[np.float32]  # (n, 5)
    patients: NDArray[np.int64]  # (n,) numbered from 0

    @classmethod
    def of(cls, predictions: pd.DataFrame, patients: "pd.Series[str] | None" = None) -> "Sample":
        """The graded ones of (n,) predictions, whose (n,) patients are given; without: each is a patient of its own.

        Raises ValueError where no photograph is graded.
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
        )

    @cached_property
    def n_patients(self) -> int:
        return int(self.patients.max()) + 1

    @property
    def equal_weights(self) -> Floats:
        """(patients, 1): the sample as it is."""
        return np.ones((self.n_patients, 1))

    @cached_property
    def p_referable(self) -> Floats:
        """(n,) p2 + p3 + p4."""
        return p_referable(self.probabilities)

    def tally(self, cells: NDArray[np.int64], n_cells: int) -> Floats:
        """(patients, n_cells) photographs of each patient in each of some cells; `cells` (n,) says which."""
        return tally(self.patients, self.n_patients, cells, n_cells)

    @cached_property
    def confusions(self) -> Floats:
        """(patients, 25): the confusion matrix of each patient, row by row."""
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
        """By name of a share, how many patients have a photograph among those that it is a share of."""
        return patients_behind(self.confusions, SHARES)


def tally(patients: NDArray[np.int64], n_patients: int, cells: NDArray[np.int64], n_cells: int) -> Floats:
    """(n_patients, n_cells) how often each patient is in each cell; the patient (n,) and the cell (n,) of n things are
    numbered from 0."""
    flat = np.bincount(patients * n_cells + cells, minlength=n_patients * n_cells)
    return flat.reshape(n_patients, n_cells).astype(np.float64)


def ratio(part: Floats, whole: Floats) -> Floats:
    """NaN where the whole is 0."""
    shares: Floats = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
    return shares


def shares(counts: Floats, masks: Mapping[str, Masks]) -> Figures:
    """Shares of the counts (rounds, cells): (rounds,) or, for one of each grade, (rounds, 5)."""
    return {name: ratio(counts @ part.T, counts @ whole.T) for name, (part, whole) in masks.items()}


def patients_behind(tally: Floats, masks: Mapping[str, Masks]) -> dict[str, NDArray[np.int64]]:
    """By name of a share, how many patients of a tally (patients, cells) are in what it is a share of."""
    return {name: (tally @ whole.T > 0).sum(axis=0) for name, (_, whole) in masks.items()}


def _mean(values: Floats) -> Floats:
    """(rounds,) means of (rounds, k); NaN where one of them is, or k is 0.

    So a resample that lacks a grade of the sample has no mean: one over the other grades would be another figure.
    """
    return values.mean(axis=1) if values.shape[1] else np.full(len(values), np.nan)
