"""Drawings of probabilities: ROC, precision-recall, risk-coverage and reliability."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from trainer.evaluation.bootstrap import Floats, exact_interval
from trainer.evaluation.calibration import Bin
from trainer.evaluation.referable import Band
from trainer.reporting.drawings import BLUE, DIM, INK, ORANGE, new_drawing, unit_axes


class Point(NamedTuple):
    """The operating point of a threshold; all values are 0 to 1."""

    threshold: float
    sensitivity: float
    specificity: float
    ppv: float | None
    """None if nothing is referred."""


def draw_roc(
    path: Path,
    truth: NDArray[np.bool_],
    score: NDArray[np.float64],
    auc: float,
    point: Point | None,
    *,
    band: Band,
    counts: str,
    title: str,
) -> None:
    """Draws the ROC curve with the band of its intervals.

    truth, score (n,): whether each photograph is referable, and its p(referable); both classes occur. auc: 0 to 1.
    point: marked on the curve. counts: the numbers of photographs and patients, for the legend.
    """
    from sklearn.metrics import roc_curve

    false_positive, sensitivity, _ = roc_curve(truth, score)
    with new_drawing(path, 7.6, 7.6) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=DIM, linestyle=":", linewidth=1.6, label="chance")
        draw_band(axes, band)
        axes.plot(false_positive, sensitivity, color=BLUE, label=f"AUC {auc:.3f}")
        if point:
            label = (
                f"operating point: sensitivity {100 * point.sensitivity:.0f} %,\n"
                f"specificity {100 * point.specificity:.0f} %"
            )
            axes.plot(1 - point.specificity, point.sensitivity, "o", color=ORANGE, markersize=12, label=label)
        unit_axes(axes, "1 - specificity", "sensitivity")
        axes.set_title(title)
        axes.legend(loc="lower right", title=counts, alignment="left")


def draw_precision_recall(
    path: Path,
    truth: NDArray[np.bool_],
    score: NDArray[np.float64],
    point: Point | None,
    *,
    band: Band,
    counts: str,
    title: str,
) -> None:
    """Draws precision (PPV) against recall (sensitivity) with the band of its intervals. Arguments as of `draw_roc`."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    precision, recall, _ = precision_recall_curve(truth, score)
    prevalence = float(truth.mean())
    with new_drawing(path, 7.6, 7.6) as figure:
        axes = figure.subplots()
        label = f"referring everybody: PPV {100 * prevalence:.0f} %"
        axes.axhline(prevalence, color=DIM, linestyle=":", linewidth=1.6, label=label)
        draw_band(axes, band)
        # Steps, no straight lines: precision between two thresholds is not linear (Davis and Goadrich, ICML 2006).
        average = average_precision_score(truth, score)
        axes.step(recall, precision, where="post", color=BLUE, label=f"average precision {average:.3f}")
        if point and point.ppv is not None:
            label = f"operating point: sensitivity {100 * point.sensitivity:.0f} %,\nPPV {100 * point.ppv:.0f} %"
            axes.plot(point.sensitivity, point.ppv, "o", color=ORANGE, markersize=12, label=label)
        unit_axes(axes, "sensitivity (recall)", "positive predictive value (precision)")
        axes.set_title(title)
        # The side without the curve.
        axes.legend(loc="upper right" if average < 0.5 else "lower left", title=counts, alignment="left")


def draw_band(axes: Axes, band: Band) -> None:
    """Shades the intervals of a curve. A point without an interval is a gap."""
    limits = np.array([each or (np.nan, np.nan) for each in band.intervals])
    axes.fill_between(band.x, *limits.T, color=BLUE, alpha=0.2, linewidth=0, label="95 % interval at each point")


def draw_risk_coverage(path: Path, coverage: Floats, risk: Floats, *, title: str) -> None:
    """Draws the risk-coverage curve, with those of a random and of the best order.

    coverage (n,): share of photographs that the network decides. risk (n,): share of these decided wrongly.
    """
    wrong = risk[-1]
    ideal = np.maximum(0, coverage - (1 - wrong)) / coverage
    with new_drawing(path, 7.6, 7.6) as figure:
        axes = figure.subplots()
        axes.axhline(wrong, color=DIM, linestyle=":", linewidth=1.6, label="random order")
        axes.plot(coverage, ideal, color=DIM, linestyle="--", linewidth=1.6, label="best order")
        axes.plot(coverage, risk, color=BLUE, label=f"by confidence, area {risk.mean():.3f}")
        axes.set(xlim=(-0.015, 1.015), ylim=(0, max(0.02, 1.1 * float(risk.max()))))
        axes.set(
            xlabel="share of photographs that the network decides", ylabel="share of them decided wrongly", title=title
        )
        axes.legend(loc="best")


def draw_reliability(path: Path, bins: Sequence[Bin], ece: float, *, title: str) -> None:
    """Draws accuracy by confidence, and below it the number of photographs of each bin. ece: 0 to 1.

    Each share has the exact 95 % interval of independent photographs, so that a bin of three photographs does not look
    like a finding.
    """
    with new_drawing(path, 7.6, 8) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        filled = [bin for bin in bins if bin.photographs]
        confidence = [bin.confidence for bin in filled]
        accuracy = [bin.accuracy or 0.0 for bin in filled]
        rights = [round(bin.photographs * fraction) for bin, fraction in zip(filled, accuracy, strict=True)]
        limits = [exact_interval(right, bin.photographs) for bin, right in zip(filled, rights, strict=True)]
        upper.plot([0, 1], [0, 1], color=DIM, linestyle=":", linewidth=1.6, label="perfect calibration")
        upper.vlines(confidence, *np.transpose(limits), color=BLUE, alpha=0.35, linewidth=5, label="95 % interval")
        upper.plot(confidence, accuracy, "o-", color=BLUE, markersize=8, label=f"ECE {ece:.3f}")
        upper.set(title=title, ylabel="share that is right", xlim=(-0.015, 1.015), ylim=(-0.015, 1.03))
        upper.legend(loc="upper left")
        lower.bar(
            [bin.low for bin in bins],
            [bin.photographs for bin in bins],
            [bin.high - bin.low for bin in bins],
            align="edge",
            color=BLUE,
            edgecolor=INK,
            linewidth=0.6,
        )
        lower.set(xlabel="probability given to the likeliest grade", ylabel="photographs")
