"""p(referable) on the page and the card: bands of the curves, calibration and net benefit, as numbers and sentences."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from trainer.evaluation.bootstrap import Interval
from trainer.evaluation.referable import Band, NetBenefit, Referable, ReferableBin
from trainer.evaluation.referable_calibration import FEWEST
from trainer.reporting.page import number
from trainer.reporting.referable_drawings import draw_decision_curve, draw_referable_calibration
from trainer.run_folder import RunFolder

LISTED: Final = {
    "roc": (0.05, 0.1, 0.2, 0.3, 0.5),
    "precision_recall": (0.5, 0.8, 0.85, 0.9, 0.95),
    "net_benefit": (0.05, 0.1, 0.2, 0.3, 0.5),
}
"""The points of each curve that the page lists, by x; metrics_*.json has all points."""
MEASURES: Final = (
    ("slope", "Calibration slope", "1"),
    ("intercept", "Calibration intercept", "0"),
    ("observed_expected", "Observed by expected (O:E)", "1"),
    ("brier", "Brier score of the referral", "0"),
)
"""Key, title, and the best possible value."""
LACKS: Final = {
    "few": f"Slope and intercept are not estimated: they need {FEWEST} patients with a referable photograph and "
    f"{FEWEST} with another one.",
    "alike": "The slope cannot be estimated: p(referable) is the same for all photographs.",
    "separated": "The slope cannot be estimated: p(referable) separates the referable photographs from the others "
    "completely.",
}


class Point(NamedTuple):
    """A point of a curve, and the 95 % interval of y."""

    x: float
    y: float
    interval: Interval | None


class Benefit(NamedTuple):
    """The decision curve at one threshold."""

    threshold: float
    per_right: float
    """False referrals that are worth one right referral."""
    net_benefit: float
    """Of the network."""
    refer_all: float
    gain: float
    intervals: dict[str, Interval | None]
    """95 % intervals: "net_benefit" and "gain"."""


class ReferableSection(NamedTuple):
    """What the templates show about p(referable)."""

    roc: list[Point]
    precision_recall: list[Point]
    measures: list[tuple[str, str, float | None, Interval | None]]
    """Title, best possible value, value, and its 95 % interval."""
    bins: list[ReferableBin]
    clip: str
    brier_of_prevalence: float
    """Brier score of the prevalence, given to every photograph."""
    calibration_lines: list[str]
    benefit: list[Benefit]
    """Empty, like `benefit_lines`, if all photographs, or none, are referable."""
    benefit_lines: list[str]
    prevalence: float | None
    """Prevalence in the population that the net benefit is weighted to, 0 to 1; None: that of the sample."""


def describe_referable(referable: Referable) -> ReferableSection:
    """The `referable` part of metrics_*.json, prepared for the templates."""
    calibration, benefit = referable.calibration, referable.net_benefit
    prevalence = referable.referable / referable.photographs
    return ReferableSection(
        roc=_points(referable.roc, LISTED["roc"]),
        precision_recall=_points(referable.precision_recall, LISTED["precision_recall"]),
        measures=[
            (title, best, getattr(calibration, key), calibration.intervals[key]) for key, title, best in MEASURES
        ],
        bins=calibration.bins,
        clip=f"{calibration.clip:f}",
        brier_of_prevalence=prevalence * (1 - prevalence),
        calibration_lines=calibration_lines(referable),
        benefit=benefit_rows(benefit) if benefit else [],
        benefit_lines=benefit_lines(benefit) if benefit else [],
        prevalence=benefit.prevalence if benefit else None,
    )


def counts_line(referable: Referable, *, patients_known: bool) -> str:
    """The numbers of photographs and patients behind a curve. patients_known: whether any patient is known."""
    return f"{referable.photographs:,} photographs, {referable.referable:,} referable\n" + (
        f"{referable.patients:,} patients" if patients_known else "patients not known"
    )


def draw_referable(run: RunFolder, split: str, referable: Referable, *, counts: str, title: str) -> dict[Path, str]:
    """Draws reliability and net benefit into the run folder; returns path -> description. counts: of `counts_line`."""
    calibration, benefit = referable.calibration, referable.net_benefit
    path = run.report_drawing("referable_calibration", split)
    draw_referable_calibration(path, calibration, counts=counts, title=f"{title}: calibration")
    drawn = {path: "Reliability curve of p(referable) with 95 % intervals; the table of bins holds its numbers"}
    if benefit:
        path = run.report_drawing("decision_curve", split)
        draw_decision_curve(path, benefit, title=f"{title}: net benefit")
        drawn[path] = "Decision curve: net benefit of the network with its 95 % band, of referring all and of none"
        drawn[path] += "; the table holds numbers"
    return drawn


def calibration_lines(referable: Referable) -> list[str]:
    """What the calibration shows about p(referable), in sentences."""
    calibration = referable.calibration
    lines = [LACKS[calibration.lacks]] if calibration.lacks else []
    if not referable.referable:
        lines.append("No photograph is referable, so there is no O:E.")
    slope, intercept = (calibration.intervals[name] for name in ("slope", "intercept"))
    if slope is None and not calibration.lacks:
        lines.append("The slope has no interval: too many resamples of these photographs have no slope.")
    if slope and slope[1] < 1:
        lines.append("The probabilities are too extreme: the low ones are too low, the high ones too high.")
    if slope and slope[0] > 1:
        lines.append("The probabilities are too moderate: the low ones are too high, the high ones too low.")
    if intercept and intercept[1] < 0:
        lines.append("On the whole the probabilities are too high.")
    if intercept and intercept[0] > 0:
        lines.append("On the whole the probabilities are too low.")
    if slope and intercept and not lines:
        lines.append("These photographs do not show that the probabilities are wrong.")
    return lines


def benefit_rows(benefit: NetBenefit) -> list[Benefit]:
    """A row for each listed threshold."""
    return [
        Benefit(
            threshold=(threshold := benefit.thresholds[index]),
            per_right=(1 - threshold) / threshold,
            net_benefit=benefit.net_benefit[index],
            refer_all=benefit.refer_all[index],
            gain=benefit.gain[index],
            intervals={name: benefit.intervals[name][index] for name in ("net_benefit", "gain")},
        )
        for index in _nearest(benefit.thresholds, LISTED["net_benefit"])
    ]


def benefit_lines(benefit: NetBenefit) -> list[str]:
    """The decision curve in sentences: at 10 %, and where the network is shown to be better than referring all or
    none."""
    at = benefit_rows(benefit)[1]
    between = _between(at.intervals["net_benefit"])
    lines = [
        f"At a threshold of {_whole(at.threshold)}, nine false referrals count as much as one right one. There the "
        f"net benefit of the network is {number(at.net_benefit, 'decimals')}{between}, of referring everybody "
        f"{number(at.refer_all, 'decimals')}, of referring nobody 0."
    ]
    better = [bool(limits and limits[0] > 0) for limits in benefit.intervals["gain"]]
    shown = [threshold for threshold, is_better in zip(benefit.thresholds, better, strict=True) if is_better]
    what = "referring by the network has more net benefit than referring everybody or nobody"
    if not shown:
        lines.append(f"At no threshold from {_whole(0.02)} to {_whole(0.5)} is it shown that {what}.")
    elif len(shown) == round(100 * (shown[-1] - shown[0])) + 1:
        lines.append(f"At thresholds from {_whole(shown[0])} to {_whole(shown[-1])} {what}; its 95 % interval says so.")
    else:
        spread = f"{len(shown)} of {len(better)} thresholds, between {_whole(shown[0])} and {_whole(shown[-1])},"
        lines.append(f"At {spread} {what}; its 95 % interval says so.")
    return lines


def _between(limits: Sequence[float] | None) -> str:
    return f" ({number(limits[0], 'decimals')} to {number(limits[1], 'decimals')})" if limits else ""


def _whole(fraction: float) -> str:
    return f"{100 * fraction:.0f}\N{NO-BREAK SPACE}%"


def _points(band: Band | None, listed: Sequence[float]) -> list[Point]:
    """The points of a curve nearest to the listed x; empty without a curve."""
    if band is None:
        return []
    return [Point(band.x[index], band.y[index], band.intervals[index]) for index in _nearest(band.x, listed)]


def _nearest(x: Sequence[float], listed: Sequence[float]) -> list[int]:
    """The index of the x that is nearest to each listed value."""
    return [int(np.argmin(np.abs(np.array(x) - each))) for each in listed]
