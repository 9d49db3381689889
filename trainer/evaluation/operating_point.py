"""The operating point for referable retinopathy: the threshold, and sensitivity, specificity, PPV and NPV there.

The threshold is chosen on validation and then fixed. It is never changed to suit the photographs that are measured.
"""

import logging
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError
from pipeline.grades import REFERABLE
from trainer.evaluation.bootstrap import Figures, Floats, Interval, Resamples, intervals, single
from trainer.evaluation.calibration import fit_temperature
from trainer.evaluation.metrics import graded, plain_value, referral_scores
from trainer.evaluation.weighted_metrics import Masks, Sample, patients_behind, ratio, shares
from trainer.network.decision import p_referable, probabilities
from trainer.network.metadata import Operating
from trainer.run_folder import RunFolder

logger = logging.getLogger(__name__)

Wanted = Literal["sensitivity", "specificity"]


@dataclass(frozen=True)
class Wish:
    """The sensitivity or specificity that a threshold is chosen for.

    Diabetes UK asks for a sensitivity of 80 % of a screening test. The trial by which IDx-DR was admitted asked for 85
    % (Abramoff et al., npj Digital Medicine 2018).
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
"""Masks of the four cells: neither, only referred, only referable, both."""


def choose_operating(logits: Floats, grades: NDArray[np.int64]) -> Operating | None:
    """Temperature and threshold from logits (n, 5) and grades (n,), all known, of validation. None, with a warning, if
    they cannot be chosen."""
    temperature = fit_temperature(logits, grades)
    if temperature is None:
        logger.warning(
            "validation fits no temperature from 0.1 to 10 and cannot calibrate: probabilities stay as they are"
        )
        temperature = 1.0
    scores, wish = p_referable(probabilities(logits, temperature)), Wish()
    try:
        threshold = choose_threshold(scores, grades >= REFERABLE, wish)
    except ValueError as error:
        logger.warning(f"no operating point can be chosen on validation: {error}")
        return None
    return Operating(temperature, threshold, wish.wanted, wish.level)


def wished(run: RunFolder, temperature: float, wish: Wish) -> Operating:
    """Another operating point for a wish, chosen on the run's predictions for validation, which have that temperature.

    Raises RunError if these are missing, of another cache, or lack a class.
    """
    val = graded(run.read_predictions("val"))
    run.read_own_metrics("val")
    scores = referral_scores(val)
    try:
        threshold = choose_threshold(scores, (val["grade"] >= REFERABLE).to_numpy(), wish)
    except ValueError as error:
        raise RunError(f"no operating point can be chosen on {run.predictions('val')}: {error}") from error
    return Operating(temperature, threshold, wish.wanted, wish.level)


def choose_threshold(scores: Floats, referable: NDArray[np.bool_], wish: Wish) -> float:
    """The threshold that gives the wished sensitivity or specificity, and the highest possible value of the other one.
    If several do, that with the most of the wished one.

    scores (n,): 0 to 1. referable (n,): the truth. The threshold lies half-way between two scores, so that rounding
    changes no decision. Raises ValueError if all photographs, or none, are referable.
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
    """Figures of a threshold, chosen on validation, on the photographs measured, 0 to 1; None if not defined."""

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
"""Wishes for which a report lists thresholds, besides the one in use."""


def threshold_table(
    val_scores: Floats, val_referable: NDArray[np.bool_], scores: Floats, referable: NDArray[np.bool_]
) -> list[AtThreshold]:
    """For each of LISTED the threshold, chosen on validation (scores and truth (m,)), and its figures here (n,). Empty
    if validation lacks a class."""
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
    """Numbers of photographs by decision and truth. Positive: referred, or referable."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    def shares(self) -> tuple[float | None, float | None, float | None, float | None]:
        """Sensitivity, specificity, PPV, NPV, 0 to 1; None for a share of no photographs."""
        tp, fp, fn, tn = self
        parts = ((tp, tp + fn), (tn, tn + fp), (tp, tp + fp), (tn, tn + fn))
        sensitivity, specificity, ppv, npv = (right / of if of else None for right, of in parts)
        return sensitivity, specificity, ppv, npv


def two_by_two(referred: NDArray[np.bool_], referable: NDArray[np.bool_]) -> TwoByTwo:
    """The table of (n,) decisions and (n,) truths."""
    counts = np.bincount(2 * referable + referred, minlength=4).tolist()
    return TwoByTwo(
        true_positive=counts[3], false_positive=counts[1], false_negative=counts[2], true_negative=counts[0]
    )


@dataclass(frozen=True)
class Elsewhere:
    """PPV and NPV in another population, 0 to 1. Sensitivity and specificity are assumed to be the same there."""

    prevalence: float
    ppv: float | None
    npv: float | None
    intervals: dict[str, Interval | None]
    """95 % intervals of PPV and NPV."""


@dataclass(frozen=True)
class OperatingCard:
    """The `operating` part of metrics_*.json: the threshold and its figures, 0 to 1; None for a share of no
    photographs."""

    threshold: float
    """Above 1: no photograph is referred."""
    wanted: Wanted
    """The measure that the threshold was chosen for on validation."""
    level: float
    """The least of that measure on validation."""
    sensitivity: float | None
    specificity: float | None
    ppv: float | None
    npv: float | None
    prevalence: float | None
    """Share of referable photographs among those measured. PPV and NPV hold for it."""
    intervals: dict[str, Interval | None]
    """95 % intervals of the five figures."""
    at_prevalence: Elsewhere | None
    """None if no other prevalence was asked for."""

    @property
    def wish(self) -> Wish:
        """The wish that the threshold was chosen for."""
        return Wish(self.wanted, self.level)


def least_ppv(card: OperatingCard) -> float | None:
    """The lowest PPV that the interval of the specificity allows, at the card's prevalence, for a PPV of 1. None for a
    PPV below 1, or without an interval.

    A few photographs without a false referral do not prove that there are none.
    """
    interval = card.intervals["specificity"]
    if card.ppv != 1 or not interval or not card.sensitivity or card.prevalence is None:
        return None
    sensitivity, specificity = np.array([card.sensitivity]), np.array([interval[0]])
    return float(by_bayes(sensitivity, specificity, card.prevalence)[0][0])


class Referral:
    """A sample that is referred at a threshold."""

    def __init__(self, sample: Sample, operating: Operating, prevalence: float | None) -> None:
        """prevalence: of another population, 0 to 1, for PPV and NPV there; None: none."""
        self.operating, self.prevalence, self.sample = operating, prevalence, sample
        has = sample.grades >= REFERABLE
        self._tally = sample.tally(2 * has + (sample.referral_scores >= operating.threshold), 4)

    def figures(self, weights: Floats) -> Figures:
        """(rounds,) each, from weights (patients, rounds)."""
        found = shares(weights.T @ self._tally, REFERRAL_SHARES)
        if self.prevalence is not None:
            elsewhere = by_bayes(found["sensitivity"], found["specificity"], self.prevalence)
            found |= dict(zip(("ppv_elsewhere", "npv_elsewhere"), elsewhere, strict=True))
        return found

    def card(self, resamples: Resamples) -> OperatingCard:
        """The figures of the threshold, which is the same in every resample. resamples: of the sample's patients."""
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
    """PPV and NPV at a prevalence, 0 to 1, by Bayes' rule (Altman and Bland, BMJ 1994). NaN if nobody, or everybody,
    would be referred.
    """
    right, wrong = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    passed, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    return ratio(right, right + wrong), ratio(passed, passed + missed)
