"""Results of cross-validation: each photograph is graded by a network that has not seen its patient.

Counts pool the decisions of all folds, each by its own network's decision rule. Scores of different networks cannot be
ranked together (Forman and Scholz, SIGKDD Explorations 2010), so an AUC is the mean of the folds' own.

With several seeds each fold is trained several times, and a figure is the mean over seeds. Its interval resamples the
patients and takes that mean in each resample, so it does not contain how trainings differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.grades import N_GRADES, REFERABLE
from trainer.evaluation.bootstrap import Figures, Floats, Limits, Resamples, intervals
from trainer.evaluation.metrics import plain_value
from trainer.evaluation.operating_point import REFERRAL_SHARES, TwoByTwo, two_by_two
from trainer.evaluation.weighted_metrics import Sample, patients_behind, shares

Value = float | tuple[float | None, ...] | None
"""A figure, or one for each grade; None if it is not defined."""

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
    """Predictions of a fold's network for the photographs of its test part."""

    predictions: pd.DataFrame  # graded ones, as trainer.evaluation.metrics has them
    patients: "pd.Series[str]"  # (n,) of those
    threshold: float | None  # from which p(referable) on its weights refer


@dataclass(frozen=True)
class FoldFigures:
    """Figures of a fold's network on its test part."""

    photographs: int
    patients: int
    accuracy: float | None
    kappa: float | None
    auc: float | None
    referable_auc: float | None


@dataclass(frozen=True)
class SeedResults:
    """The results of all folds, trained with one of several seeds."""

    seed: int
    figures: Mapping[str, Value]
    referral: TwoByTwo | None
    by_fold: list[FoldFigures]

    def as_dict(self) -> dict[str, Any]:
        own = {"referral": _plain(self.referral), "by_fold": [asdict(each) for each in self.by_fold]}
        return {"seed": self.seed, **self.figures, **own}


@dataclass(frozen=True)
class OutOfFoldResults:
    """The contents of metrics_oof.json. With several seeds, figures are means over them."""

    photographs: int
    patients: int
    grades: list[int]
    """Photographs by true grade."""
    figures: Mapping[str, Value]
    """Those of `OutOfFold.figures`, and the AUC of all folds' scores in one ranking."""
    referral: TwoByTwo | None
    """With several seeds, their sum. None if a network has no threshold."""
    intervals: Mapping[str, Limits]
    """95 % intervals by name of a figure."""
    by_fold: list[FoldFigures]
    spread: Mapping[str, float | None]
    """Standard deviation over the folds, by name of a figure."""
    by_seed: list[SeedResults]
    """Empty if each fold was trained once."""

    @property
    def seeds(self) -> list[int]:
        return [each.seed for each in self.by_seed]

    @property
    def spread_over_seeds(self) -> dict[str, float | None]:
        """Standard deviation over the seeds, by name of a figure; empty if each fold was trained once."""
        names = [name for name in OF_A_SEED if all(name in seed.figures for seed in self.by_seed)]
        spread = {name: _spread([seed.figures[name] for seed in self.by_seed]) for name in names}
        return spread if self.by_seed else {}

    def as_dict(self) -> dict[str, Any]:
        over_seeds = {"by_seed": [each.as_dict() for each in self.by_seed], "spread_over_seeds": self.spread_over_seeds}
        return {
            "folds": len(self.by_fold),
            **({"seeds": self.seeds} if self.by_seed else {}),
            "photographs": self.photographs,
            "patients": self.patients,
            "grades": self.grades,
            **self.figures,
            "referral": _plain(self.referral),
            "intervals": self.intervals,
            "by_fold": [asdict(each) for each in self.by_fold],
            "spread": self.spread,
            **(over_seeds if self.by_seed else {}),
            "intervals_are": SEEDS_INTERVALS if self.by_seed else INTERVALS,
        }


def _plain(referral: TwoByTwo | None) -> dict[str, int] | None:
    return referral._asdict() if referral else None


class OutOfFold:
    """All folds of one training each, measured together."""

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
        """(patients, 4) numbers of each patient's photographs: neither, only referred, only referable, both."""
        has = (self.table["grade"] >= REFERABLE).to_numpy()
        return self.sample.tally(2 * has + self.table["referred"].to_numpy(np.int64), 4)

    def referral(self) -> TwoByTwo:
        return two_by_two(self.table["referred"].to_numpy(bool), (self.table["grade"] >= REFERABLE).to_numpy())

    def by_fold(self) -> list[FoldFigures]:
        found = []
        for each in self._each:
            figures = each.figures(each.equal_weights)
            plain = {name: plain_value(figures[name][0]) for name in OF_A_FOLD}
            found.append(FoldFigures(len(each.grades), each.n_patients, **plain))
        return found

    def pooled_areas(self) -> dict[str, Floats]:
        """(1,) AUC of all folds' scores in one ranking. It is reported for comparison only: these scores are of
        different networks."""
        pooled = self.sample.figures(self.sample.equal_weights)
        return {f"{name}_pooled": pooled[name] for name in WITHIN}


class CrossValidation:
    """Folds that were trained once, or once for each of several seeds. Every figure is the mean over the seeds.

    by_seed: the folds by seed; all have the same photographs.
    """

    def __init__(self, by_seed: Mapping[int, OutOfFold]) -> None:
        self.by_seed = by_seed
        self.each = list(by_seed.values())
        self.first = self.each[0]  # for what no training changes: photographs, patients, folds
        self.refers = all(each.refers for each in self.each)

    @property
    def table(self) -> pd.DataFrame:
        """Out-of-fold predictions, seed by seed, with a column `seed` if there are several."""
        if len(self.by_seed) == 1:
            return self.first.table
        return pd.concat([each.table.assign(seed=seed) for seed, each in self.by_seed.items()], ignore_index=True)

    def figures(self, weights: Floats) -> Figures:
        """(rounds,) each, from weights (patients, rounds), which are the same for every seed."""
        own = [each.figures(weights) for each in self.each]
        names = [name for name in own[0] if self.refers or name not in REFERRAL_SHARES]
        return {name: np.mean([figures[name] for figures in own], axis=0) for name in names}

    def measure(self) -> OutOfFoldResults:
        """Every figure with its interval. Patients are drawn within folds."""
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
        return OutOfFoldResults(
            photographs=len(self.first.table),
            patients=sample.n_patients,
            grades=np.bincount(sample.grades, minlength=N_GRADES).tolist(),
            figures={
                **{name: plain_value(value[0]) for name, value in values.items()},
                **{name: plain_value(np.mean([each[name][0] for each in areas])) for name in areas[0]},
            },
            referral=TwoByTwo(*referrals) if self.refers else None,
            intervals=intervals(values, resampled, behind),
            by_fold=by_fold,
            spread={name: _spread([getattr(fold, name) for fold in by_fold]) for name in OF_A_FOLD},
            by_seed=self._by_seed(folds) if len(self.by_seed) > 1 else [],
        )

    def _by_seed(self, folds: Sequence[list[FoldFigures]]) -> list[SeedResults]:
        found = []
        for (seed, each), own in zip(self.by_seed.items(), folds, strict=True):
            figures = each.figures(each.sample.equal_weights)
            plain = {name: plain_value(value[0]) for name, value in figures.items()}
            found.append(SeedResults(seed, plain, each.referral() if each.refers else None, own))
        return found


def _mean_fold(own: Sequence[FoldFigures]) -> FoldFigures:
    """A fold's figures: the mean over seeds; None if one seed does not define it."""
    first = own[0]
    means = {
        name: None if getattr(first, name) is None else float(np.mean([getattr(each, name) for each in own]))
        for name in OF_A_FOLD
    }
    return FoldFigures(first.photographs, first.patients, **means)


def _referred(fold: Fold) -> NDArray[np.bool_]:
    scores = Sample.of(fold.predictions).referral_scores
    return np.asarray(scores >= (np.inf if fold.threshold is None else fold.threshold))


def _spread(values: Sequence[Value]) -> float | None:
    """The standard deviation over folds or seeds; None if one of them does not define the figure."""
    known = [value for value in values if isinstance(value, float)]
    return float(np.std(known, ddof=1)) if len(known) == len(values) > 1 else None
