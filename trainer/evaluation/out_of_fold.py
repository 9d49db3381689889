"""Cross-validation measured: every photograph as a network graded it that has not seen its patient.

Counts pool the decisions that each fold's network made by its own rule. Scores of different networks do not rank
together (Forman and Scholz, SIGKDD Explorations 2010), so an AUC is the mean of the folds' own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.grades import N_GRADES, REFERABLE
from trainer.evaluation.bootstrap import Figures, Floats, bootstrap, intervals
from trainer.evaluation.metrics import plain_value
from trainer.evaluation.operating_point import REFERRAL_SHARES, two_by_two
from trainer.evaluation.weighted_metrics import Sample, patients_behind, shares

POOLED: Final = ("accuracy", "balanced_accuracy", "kappa", "sensitivity_by_grade")
WITHIN: Final = ("auc", "referable_auc")


@dataclass(frozen=True, eq=False)
class Fold:
    """What a fold's network says of the photographs that it has not seen."""

    predictions: pd.DataFrame  # graded ones, as trainer.evaluation.metrics has them
    patients: "pd.Series[str]"  # (n,) of those
    threshold: float | None  # from which p(referable) on its weights refer


class OutOfFold:
    """All folds together."""

    def __init__(self, folds: Sequence[Fold]) -> None:
        self.folds = folds
        self.table = pd.concat(
            [fold.predictions.assign(fold=number, referred=_referred(fold)) for number, fold in enumerate(folds)],
            ignore_index=True,
        )
        names = [f"{number}\0{patient}" for number, fold in enumerate(folds) for patient in fold.patients]
        self.sample = Sample.of(self.table, pd.Series(names))
        fold_of = np.zeros(self.sample.n_patients, np.int64)
        fold_of[self.sample.patients] = self.table["fold"]
        self.strata = fold_of  # (patients,) the fold of each
        self._members = [np.flatnonzero(fold_of == number) for number in range(len(folds))]
        self._each = [Sample.of(fold.predictions, fold.patients) for fold in folds]
        self.refers = all(fold.threshold is not None for fold in folds)

    def figures(self, weights: Floats) -> Figures:
        """(rounds,) each, from weights (patients, rounds)."""
        pooled = self.sample.figures(weights)
        found = {name: pooled[name] for name in POOLED}
        own = [each.figures(weights[members]) for each, members in zip(self._each, self._members, strict=True)]
        found |= {f"{name}_within_folds": np.mean([each[name] for each in own], axis=0) for name in WITHIN}
        if self.refers:
            found |= shares(weights.T @ self._referrals, REFERRAL_SHARES)
        return found

    @property
    def _referrals(self) -> Floats:
        has = (self.table["grade"] >= REFERABLE).to_numpy()
        return self.sample.tally(2 * has + self.table["referred"].to_numpy(np.int64), 4)

    def as_dict(self) -> dict[str, Any]:
        """What metrics_oof.json says."""
        values = self.figures(self.sample.equal_weights)
        resampled = bootstrap(self.sample.n_patients, self.figures, strata=self.strata)
        behind = {k: v for k, v in self.sample.share_patients().items() if k in values}
        if self.refers:
            behind |= patients_behind(self._referrals, REFERRAL_SHARES)
        own = [
            {name: plain_value(value[0]) for name, value in each.figures(each.equal_weights).items()}
            for each in self._each
        ]
        by_fold = [
            {"photographs": len(each.grades), "patients": each.n_patients}
            | {name: figures[name] for name in ("accuracy", "kappa", *WITHIN)}
            for each, figures in zip(self._each, own, strict=True)
        ]
        pooled_auc = self.sample.figures(self.sample.equal_weights)["referable_auc"][0]
        truth = (self.table["grade"] >= REFERABLE).to_numpy()
        return {
            "folds": len(self.folds),
            "photographs": len(self.table),
            "patients": self.sample.n_patients,
            "grades": np.bincount(self.sample.grades, minlength=N_GRADES).tolist(),
            **{name: plain_value(value[0]) for name, value in values.items()},
            "referable_auc_pooled": plain_value(pooled_auc),
            "referral": two_by_two(self.table["referred"].to_numpy(bool), truth)._asdict() if self.refers else None,
            "intervals": intervals(values, resampled, behind),
            "by_fold": by_fold,
            "spread": {name: _spread([fold[name] for fold in by_fold]) for name in ("accuracy", "kappa", *WITHIN)},
            "intervals_are": "of patients drawn within folds; the variation of training is not in them, the spread is",
        }


def _referred(fold: Fold) -> NDArray[np.bool_]:
    scores = Sample.of(fold.predictions).p_referable
    return np.asarray(scores >= (np.inf if fold.threshold is None else fold.threshold))


def _spread(values: Sequence[float | None]) -> float | None:
    """The standard deviation over folds; None where a fold does not define the figure."""
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) == len(values) > 1 else None
