"""Figures of p(referable) that STARD 2015 and TRIPOD+AI ask for: curves with bands, calibration, net benefit."""

from dataclasses import dataclass

import numpy as np

from pipeline.grades import REFERABLE
from trainer.evaluation.bootstrap import TAIL, Figures, Floats, Interval, Limits, Resamples, intervals, listed, single
from trainer.evaluation.decision_curve import THRESHOLDS, DecisionCurve
from trainer.evaluation.metrics import plain_value
from trainer.evaluation.referable_calibration import Lacking, ReferableCalibration
from trainer.evaluation.referable_curves import RATES, RECALLS, ReferableCurves
from trainer.evaluation.weighted_metrics import Sample, patients_behind
from trainer.network.decision import CLIP


@dataclass(frozen=True)
class Band:
    """A curve at fixed points."""

    x: list[float]
    y: list[float]
    intervals: list[Interval | None]
    """Pointwise 95 % intervals. None if all resamples agree: by definition at the end of an ROC curve, elsewhere
    because there are too few photographs."""


@dataclass(frozen=True)
class ReferableBin:
    """Photographs with neighbouring values of p(referable)."""

    low: float
    """The smallest p, 0 to 1."""
    high: float
    """The largest."""
    photographs: int
    mean: float
    """Mean of p."""
    share: float
    """Share of the bin's photographs that are referable, 0 to 1."""
    interval: Interval | None


@dataclass(frozen=True)
class BinaryCalibration:
    """Calibration of p(referable)."""

    slope: float | None
    """Calibration slope. 1 is best; less if probabilities are too extreme."""
    intercept: float | None
    """Calibration intercept, with the slope fixed at 1. 0 is best; less if probabilities are too high."""
    observed_expected: float | None
    """O:E, the number of referable photographs divided by the sum of p. None if there are none."""
    brier: float
    """Mean of (p - truth) squared, 0 to 1."""
    intervals: dict[str, Interval | None]
    """95 % intervals of the four figures."""
    lacks: Lacking | None
    """Why there is no slope. With "few" there is no intercept either."""
    clip: float
    """Before log-odds are taken, p is clipped to this and 1 minus this."""
    bins: list[ReferableBin]


@dataclass(frozen=True)
class NetBenefit:
    """A decision curve, at each of the thresholds."""

    prevalence: float | None
    """Prevalence of the population that the photographs were weighted to; None: they were not weighted."""
    thresholds: list[float]
    net_benefit: list[float]
    """Net benefit of referring at the threshold or above."""
    refer_all: list[float]
    gain: list[float]
    """Net benefit of the network minus that of referring all or none, whichever is better. Referring none has 0."""
    intervals: dict[str, list[Interval | None]]
    """Pointwise 95 % intervals of the net benefit and of the gain."""


@dataclass(frozen=True)
class Referable:
    """The `referable` part of metrics_*.json, by photograph."""

    photographs: int
    patients: int
    referable: int
    """Photographs."""
    roc: Band | None
    """Sensitivity by false positive rate. This, the next one and the net benefit are None if all photographs, or none,
    are referable."""
    precision_recall: Band | None
    calibration: BinaryCalibration
    net_benefit: NetBenefit | None


def measure_referable(sample: Sample, resamples: Resamples, prevalence: float | None) -> Referable:
    """All these figures of a sample. resamples: of its patients. prevalence: of another population, 0 to 1, for the net
    benefit; None: that of the sample."""
    referable = int((sample.grades >= REFERABLE).sum())
    calibration = ReferableCalibration(sample)
    measured: list[ReferableCalibration | ReferableCurves | DecisionCurve] = [calibration]
    both = 0 < referable < len(sample.grades)
    if both:
        measured += [ReferableCurves(sample), DecisionCurve(sample, prevalence)]

    def figures(weights: Floats) -> Figures:
        return {name: value for each in measured for name, value in each.figures(weights).items()}

    values, resampled = figures(sample.equal_weights), resamples.figures(figures)
    limits = intervals(values, resampled, patients_behind(calibration.tally, calibration.bin_shares))
    for name in ("slope", "intercept"):
        # Rounds without one have an infinite slope. Leaving them out would make the interval too narrow.
        if np.isnan(resampled[name]).mean() > TAIL:
            limits[name] = None
    parts = _parts(values, limits, prevalence) if both else (None, None, None)
    roc, precision_recall, benefit = parts
    return Referable(
        photographs=len(sample.grades),
        patients=sample.n_patients,
        referable=referable,
        roc=roc,
        precision_recall=precision_recall,
        calibration=_calibration(calibration, values, limits),
        net_benefit=benefit,
    )


def _parts(values: Figures, limits: dict[str, Limits], prevalence: float | None) -> tuple[Band, Band, NetBenefit]:
    plain = {name: value[0].tolist() for name, value in values.items()}
    return (
        Band(RATES.tolist(), plain["sensitivity"], listed(limits["sensitivity"])),
        Band(RECALLS.tolist(), plain["precision"], listed(limits["precision"])),
        NetBenefit(
            prevalence=prevalence,
            thresholds=THRESHOLDS.tolist(),
            net_benefit=plain["net_benefit"],
            refer_all=plain["refer_all"],
            gain=plain["gain"],
            intervals={name: listed(limits[name]) for name in ("net_benefit", "gain")},
        ),
    )


def _calibration(measured: ReferableCalibration, values: Figures, limits: dict[str, Limits]) -> BinaryCalibration:
    bins = []
    for number, (share, interval) in enumerate(zip(values["share"][0].tolist(), listed(limits["share"]), strict=True)):
        inside = measured.p[measured.bins == number]
        low, high, mean = float(inside[0]), float(inside[-1]), float(inside.mean())
        bins.append(ReferableBin(low, high, len(inside), mean, share, interval))
    names = ("slope", "intercept", "observed_expected", "brier")
    slope, intercept, observed_expected, brier = (plain_value(values[name][0]) for name in names)
    return BinaryCalibration(
        slope=slope,
        intercept=intercept,
        observed_expected=observed_expected,
        brier=brier,
        intervals={name: single(limits[name]) for name in names},
        lacks=measured.lacks,
        clip=CLIP,
        bins=bins,
    )
