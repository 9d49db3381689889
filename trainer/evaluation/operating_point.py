"""The operating point for referable retinopathy: the threshold, and sensitivity, specificity, PPV and NPV there.

The threshold is chosen on validation and then held fixed; it is never moved to suit the photographs it is measured on.
"""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError
from pipeline.grades import REFERABLE
from trainer.console import warn
from trainer.evaluation.bootstrap import Figures, Floats, Interval, Resamples, intervals, single
from trainer.evaluation.calibration import fit_temperature
from trainer.evaluation.metrics import graded, plain_value, referable_scores
from trainer.evaluation.weighted_metrics import Masks, Sample, patients_behind, ratio, shares
from trainer.network.decision import p_referable, probabilities
from trainer.network.metadata import Operating
from trainer.run_folder import RunFolder

Wanted = Literal["sensitivity", "specificity"]


@dataclass(frozen=True)
class Wish:
    """What a user wants of the operating card.

    Diabetes UK asks of a screening test a sensitivity of 80 %, the trial that IDx-DR was admitted by 85 % (Abramoff et
    al., npj Digital Medicine 2018).
    """

    wanted: Wanted = "sensitivity"
    level: float = 0.90  # at least so much on validation


_HAS, _REFERRED = np.divmod(np.arange(4), 2)
REFERRAL_SHARES: Final[dict[str, Masks]] = {
    "sensitivity": ((_HAS & _REFERRED) == 1, _HAS == 1),
    "specificity": ((_HAS | _REFERRED) == 0, _HAS == 0),
    "ppv": ((_HAS & _REFERRED) == 1, _REFERRED == 1),
    "npv": ((_HAS | _REFERRED) == 0, _REFERRED == 0),
    "prevalence": (_HAS == 1, _HAS >= 0),
}
"""Over the four cells: neither, referred only, diseased only, both."""


def choose_operating(logits: Floats, grades: NDArray[np.int64]) -> Operating | None:
    """Temperature and threshold from logits (n, 5) and grades (n,), all known, of validation; None, with a warning,
    where these cannot tell."""
    temperature = fit_temperature(logits, grades)
    if temperature is None:
        warn("validation fits no temperature from 0.1 to 10 and cannot calibrate: probabilities stay as they are")
        temperature = 1.0
    scores, wish = p_referable(probabilities(logits, temperature)), Wish()
    try:
        threshold = choose_threshold(scores, grades >= REFERABLE, wish)
    except ValueError as error:
        warn(f"no operating point can be chosen on validation: {error}")
        return None
    return Operating(temperature, threshold, wish.wanted, wish.level)


def wished(run: RunFolder, temperature: float, wish: Wish) -> Operating:
    """The operating point chosen anew, from the run's predictions, of that temperature, for its validation photographs.

    Raises RunError where these are missing, of another cache, or cannot tell.
    """
    val = graded(run.read_predictions("val"))
    run.read_own_metrics("val")
    scores = referable_scores(val)
    try:
        threshold = choose_threshold(scores, (val["grade"] >= REFERABLE).to_numpy(), wish)
    except ValueError as error:
        raise RunError(f"no operating point can be chosen on {run.predictions('val')}: {error}") from error
    return Operating(temperature, threshold, wish.wanted, wish.level)


def choose_threshold(scores: Floats, referable: NDArray[np.bool_], wish: Wish) -> float:
    """The threshold on scores (n,), 0 to 1, that shows the wished sensitivity or specificity on the referable (n,) ones
    and the others, and the most of the other of the two; of several alike, the one that shows most of the wished one.

    It lies half-way between two scores, so that rounding moves nobody across. Raises ValueError without both sides.
    """
    if referable.all() or not referable.any():
        which = "all" if referable.all() else "none"
        raise ValueError(f"{which} of its photographs show referable retinopathy")
    limits = np.unique(scores)  # limit n: refer from the n-th score on; the last one refers nobody
    edges = np.concatenate([[0.0], limits, [1.0 if limits[-1] < 1 else 2.0]])
    at = np.append(limits, np.inf)
    referred = referable.sum() - np.searchsorted(np.sort(scores[referable]), at)  # of the referable, by limit
    passed = np.searchsorted(np.sort(scores[~referable]), at)  # of the others, by limit
    wished, rest = (referred, passed) if wish.wanted == "sensitivity" else (passed, referred)
    need = max(1, int(np.ceil(wish.level * wished.max() - 1e-9)))  # 0.55 * 100 is a little more than 55
    best = max(np.flatnonzero(wished >= need).tolist(), key=lambda n: (rest[n], wished[n]))
    low, high = edges[best], edges[best + 1]
    half = (low + high) / 2
    return float(half if half > low else high)


class AtThreshold(NamedTuple):
    """What a threshold that was chosen on validation shows on the photographs measured, 0 to 1; None: not defined."""

    wanted: Wanted
    level: float
    threshold: float
    sensitivity: float | None
    specificity: float | None
    ppv: float | None
    npv: float | None


LISTED: Final = (
    Wish("sensitivity", 0.80),
    Wish("sensitivity", 0.85),
    Wish("sensitivity", 0.90),
    Wish("sensitivity", 0.95),
    Wish("sensitivity", 0.98),
    Wish("specificity", 0.90),
    Wish("specificity", 0.95),
)
"""Wishes whose thresholds a report lists beside the one in use."""


def threshold_table(
    val_scores: Floats, val_referable: NDArray[np.bool_], scores: Floats, referable: NDArray[np.bool_]
) -> list[AtThreshold]:
    """For each of LISTED the threshold chosen on validation (scores and truth (m,)) and what it shows here (n,); empty
    where validation has one side alone."""
    rows = []
    for wish in LISTED:
        try:
            threshold = choose_threshold(val_scores, val_referable, wish)
        except ValueError:
            return []
        table = two_by_two(scores >= threshold, referable)
        rows.append(AtThreshold(wish.wanted, wish.level, threshold, *table.shares()))
    return rows


class TwoByTwo(NamedTuple):
    """How many were referred rightly, referred wrongly, missed, and passed rightly."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    def shares(self) -> tuple[float | None, float | None, float | None, float | None]:
        """Sensitivity, specificity, PPV, NPV, 0 to 1; None where nobody is there to be counted."""
        tp, fp, fn, tn = self
        parts = ((tp, tp + fn), (tn, tn + fp), (tp, tp + fp), (tn, tn + fn))
        sensitivity, specificity, ppv, npv = (right / of if of else None for right, of in parts)
        return sensitivity, specificity, ppv, npv


def two_by_two(referred: NDArray[np.bool_], referable: NDArray[np.bool_]) -> TwoByTwo:
    """Of (n,) decisions and (n,) truths."""
    counts = np.bincount(2 * referable + referred, minlength=4).tolist()
    return TwoByTwo(
        true_positive=counts[3], false_positive=counts[1], false_negative=counts[2], true_negative=counts[0]
    )


@dataclass(frozen=True)
class Elsewhere:
    """What a referral means where another share of the photographs is referable; 0 to 1. Sensitivity and specificity
    are taken to be the same there."""

    prevalence: float
    ppv: float | None
    npv: float | None
    intervals: dict[str, Interval | None]
    """95 %, of PPV and NPV."""


@dataclass(frozen=True)
class OperatingCard:
    """The `operating` part of metrics_*.json: what a threshold shows. All but it lie between 0 and 1, and are None
    where nobody is there to be counted."""

    threshold: float
    """Above 1: none is referred."""
    wanted: Wanted
    """What the threshold was chosen for on validation,"""
    level: float
    """and how much of it validation shows at least."""
    sensitivity: float | None
    specificity: float | None
    ppv: float | None
    npv: float | None
    prevalence: float | None
    """Of referable retinopathy among these photographs, to which PPV and NPV belong."""
    intervals: dict[str, Interval | None]
    """95 %, of the five figures."""
    at_prevalence: Elsewhere | None
    """None where no other prevalence was asked for."""

    @property
    def wish(self) -> Wish:
        """What the threshold was chosen for."""
        return Wish(self.wanted, self.level)


def least_ppv(card: OperatingCard) -> float | None:
    """What the interval of the specificity still allows a PPV of 1 to be, at the card's prevalence; None for a PPV
    below 1, and where no interval is known.

    A handful of photographs without a false referral is no proof that there are none.
    """
    interval = card.intervals["specificity"]
    if card.ppv != 1 or not interval or not card.sensitivity or card.prevalence is None:
        return None
    sensitivity, specificity = np.array([card.sensitivity]), np.array([interval[0]])
    return float(by_bayes(sensitivity, specificity, card.prevalence)[0][0])


class Referral:
    """A sample cut at a threshold."""

    def __init__(self, sample: Sample, operating: Operating, prevalence: float | None) -> None:
        """`prevalence`, 0 to 1: of another population, to say what a referral would mean there."""
        self.operating, self.prevalence, self.sample = operating, prevalence, sample
        has = sample.grades >= REFERABLE
        self._tally = sample.tally(2 * has + (sample.p_referable >= operating.threshold), 4)

    def figures(self, weights: Floats) -> Figures:
        """(rounds,) each, from weights (patients, rounds)."""
        found = shares(weights.T @ self._tally, REFERRAL_SHARES)
        if self.prevalence is not None:
            elsewhere = by_bayes(found["sensitivity"], found["specificity"], self.prevalence)
            found |= dict(zip(("ppv_elsewhere", "npv_elsewhere"), elsewhere, strict=True))
        return found

    def card(self, resamples: Resamples) -> OperatingCard:
        """What the threshold shows. It is the same in every resample. `resamples`: of the sample's patients."""
        resampled = resamples.figures(self.figures)
        values = self.figures(self.sample.equal_weights)
        plain = {name: plain_value(value[0]) for name, value in values.items()}
        found = intervals(values, resampled, patients_behind(self._tally, REFERRAL_SHARES))
        limits = {name: single(each) for name, each in found.items()}
        at_prevalence = None
        if self.prevalence is not None:
            at_prevalence = Elsewhere(
                self.prevalence,
                ppv=plain.pop("ppv_elsewhere"),
                npv=plain.pop("npv_elsewhere"),
                intervals={name: limits.pop(f"{name}_elsewhere") for name in ("ppv", "npv")},
            )
        return OperatingCard(
            threshold=self.operating.threshold,
            wanted=self.operating.wanted,
            level=self.operating.level,
            **plain,
            intervals=limits,
            at_prevalence=at_prevalence,
        )


def by_bayes(sensitivity: Floats, specificity: Floats, prevalence: float) -> tuple[Floats, Floats]:
    """Predictive values, positive and negative, where that share of the photographs, 0 to 1, is referable.

    Bayes' rule, as in Altman and Bland, BMJ 1994; NaN where nobody, or everybody, would be referred.
    """
    right, wrong = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    passed, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    return ratio(right, right + wrong), ratio(passed, passed + missed)
