"""Results of cross-validation: each photograph is graded by a network that has not seen its patient.

Counts pool the decisions that each fold's network made by its own rule. Scores of different networks do not rank
together (Forman and Scholz, SIGKDD Explorations 2010), so an AUC is the mean of the folds' own.

Several seeds are several trainings on the same folds. A figure is then the mean of the seeds' figures. Its interval
resamples the patients and takes that mean in each resample, so it is of the networks that were trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.grades import N_GRADES, REFERABLE
from trainer.evaluation.bootstrap import Figures, Floats, Resamples, intervals
from trainer.evaluation.metrics import plain_value
from trainer.evaluation.operating_point import REFERRAL_SHARES, TwoByTwo, two_by_two
from trainer.evaluation.weighted_metrics import Sample, patients_behind, shares

POOLED: Final = ("accuracy", "balanced_accuracy", "kappa", "sensitivity_by_grade")
WITHIN: Final = ("auc", "referable_auc")
OF_A_FOLD: Final = ("accuracy", "kappa", *WITHIN)
OF_A_SEED: Final = ("accuracy", "kappa", *(f"{name}_within_folds" for name in WITHIN), "sensitivity", "specificity")
INTERVALS: Final = "of patients drawn within folds; the variation of training is not in them, the spread is"
SEEDS_INTERVALS: Final = (
    "of patients drawn within folds, of the mean over seeds in each resample; the variation of training is not in "
    "them, the spread over folds and the one over seeds are"
)


@dataclass(frozen=True, eq=False)
class Fold:
    """What a fold's network says of the photographs that it has not seen."""

    predictions: pd.DataFrame  # graded ones, as trainer.evaluation.metrics has them
    patients: "pd.Series[str]"  # (n,) of those
    threshold: float | None  # from which p(referable) on its weights refer


class OutOfFold:
    """All folds together, each as one network grades it."""

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
            found |= shares(weights.T @ self.referrals, REFERRAL_SHARES)
        return found

    @property
    def referrals(self) -> Floats:
        """(patients, 4) photographs of each patient by whether they are referable and referred."""
        has = (self.table["grade"] >= REFERABLE).to_numpy()
        return self.sample.tally(2 * has + self.table["referred"].to_numpy(np.int64), 4)

    def referral(self) -> TwoByTwo:
        return two_by_two(self.table["referred"].to_numpy(bool), (self.table["grade"] >= REFERABLE).to_numpy())

    def by_fold(self) -> list[dict[str, Any]]:
        """What metrics_oof.json says of each fold."""
        found = []
        for each in self._each:
            figures = each.figures(each.equal_weights)
            sizes = {"photographs": len(each.grades), "patients": each.n_patients}
            found.append(sizes | {name: plain_value(figures[name][0]) for name in OF_A_FOLD})
        return found

    def pooled_areas(self) -> dict[str, Floats]:
        """(1,) AUC of all folds' scores in one ranking, in which they do not belong."""
        pooled = self.sample.figures(self.sample.equal_weights)
        return {f"{name}_pooled": pooled[name] for name in WITHIN}


class CrossValidation:
    """The same folds, trained once or once for each of several seeds. Every figure is the mean over the seeds.

    by_seed: of a training; each graded the same photographs.
    """

    def __init__(self, by_seed: Mapping[int, OutOfFold]) -> None:
        self.by_seed = by_seed
        self.each = list(by_seed.values())
        self.first = self.each[0]  # for what no training changes: photographs, patients, folds
        self.refers = all(each.refers for each in self.each)

    @property
    def table(self) -> pd.DataFrame:
        """Out-of-fold predictions, one seed's after another's; a column `seed` where there are several."""
        if len(self.by_seed) == 1:
            return self.first.table
        return pd.concat([each.table.assign(seed=seed) for seed, each in self.by_seed.items()], ignore_index=True)

    def figures(self, weights: Floats) -> Figures:
        """(rounds,) each, from weights (patients, rounds): a resample's patients are the same for every seed."""
        own = [each.figures(weights) for each in self.each]
        names = [name for name in own[0] if self.refers or name not in REFERRAL_SHARES]
        return {name: np.mean([figures[name] for figures in own], axis=0) for name in names}

    def as_dict(self) -> dict[str, Any]:
        """What metrics_oof.json says."""
        sample = self.first.sample
        values = self.figures(sample.equal_weights)
        resampled = Resamples(sample.n_patients, strata=self.first.strata).figures(self.figures)
        behind = {k: v for k, v in sample.share_patients().items() if k in values}
        if self.refers:
            behind |= patients_behind(self.first.referrals, REFERRAL_SHARES)
        areas = [each.pooled_areas() for each in self.each]
        referrals = np.sum([each.referral() for each in self.each], axis=0).tolist()
        folds = [each.by_fold() for each in self.each]
        by_fold = [_mean_fold([own[fold] for own in folds]) for fold in range(len(self.first.folds))]
        several = len(self.by_seed) > 1
        return {
            "folds": len(by_fold),
            **({"seeds": list(self.by_seed)} if several else {}),
            "photographs": len(self.first.table),
            "patients": sample.n_patients,
            "grades": np.bincount(sample.grades, minlength=N_GRADES).tolist(),
            **{name: plain_value(value[0]) for name, value in values.items()},
            **{name: plain_value(np.mean([each[name][0] for each in areas])) for name in areas[0]},
            "referral": TwoByTwo(*referrals)._asdict() if self.refers else None,
            "intervals": intervals(values, resampled, behind),
            "by_fold": by_fold,
            "spread": {name: _spread([fold[name] for fold in by_fold]) for name in OF_A_FOLD},
            **(self._over_seeds(folds) if several else {}),
            "intervals_are": SEEDS_INTERVALS if several else INTERVALS,
        }

    def _over_seeds(self, folds: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
        """Each seed's own figures, and how far they lie apart."""
        by_seed = []
        for (seed, each), own in zip(self.by_seed.items(), folds, strict=True):
            figures = each.figures(each.sample.equal_weights)
            by_seed.append(
                {"seed": seed}
                | {name: plain_value(value[0]) for name, value in figures.items()}
                | {"referral": each.referral()._asdict() if each.refers else None, "by_fold": own}
            )
        names = [name for name in OF_A_SEED if all(name in seed for seed in by_seed)]
        return {
            "by_seed": by_seed,
            "spread_over_seeds": {name: _spread([seed[name] for seed in by_seed]) for name in names},
        }


def _mean_fold(own: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A fold's figures, the mean over seeds; what one seed does not define, none does."""
    sizes = {name: own[0][name] for name in ("photographs", "patients")}
    return sizes | {
        name: None if own[0][name] is None else float(np.mean([each[name] for each in own])) for name in OF_A_FOLD
    }


def _referred(fold: Fold) -> NDArray[np.bool_]:
    scores = Sample.of(fold.predictions).p_referable
    return np.asarray(scores >= (np.inf if fold.threshold is None else fold.threshold))


def _spread(values: Sequence[float | None]) -> float | None:
    """The standard deviation over folds or seeds; None where one of them does not define the figure."""
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) == len(values) > 1 else None
