"""Drawings of p(referable): its reliability curve and its decision curve."""

from pathlib import Path

import numpy as np
from matplotlib.ticker import PercentFormatter

from trainer.evaluation.referable import Band, BinaryCalibration, NetBenefit
from trainer.reporting.curves import draw_band
from trainer.reporting.drawings import BLUE, DIM, INK, new_drawing, unit_axes
from trainer.reporting.tables import decimals, percent


def draw_referable_calibration(path: Path, calibration: BinaryCalibration, *, counts: str, title: str) -> None:
    """Draws the share of referable photographs by p(referable), with the 95 % interval of each bin.

    counts: the numbers of photographs and patients, for the legend.
    """
    bins = calibration.bins
    means, fractions = [bin.mean for bin in bins], [bin.share for bin in bins]
    known = [(bin.mean, *bin.interval) for bin in bins if bin.interval]
    coefficients = {"slope": calibration.slope, "intercept": calibration.intercept}
    label = ", ".join(f"{name} {decimals(value)}" for name, value in coefficients.items() if value is not None)
    with new_drawing(path, 7.6, 7.6) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=DIM, linestyle=":", linewidth=1.6, label="perfect calibration")
        if known:
            x, low, high = np.transpose(known)
            axes.vlines(x, low, high, color=BLUE, alpha=0.35, linewidth=5, label="95 % interval")
        axes.plot(means, fractions, "o-", color=BLUE, markersize=8, label=label or "share of each bin")
        unit_axes(axes, "p(referable), mean of a bin", "share that is referable")
        axes.set_title(title)
        axes.legend(loc="upper left", title=counts, alignment="left")


def draw_decision_curve(path: Path, benefit: NetBenefit, *, title: str) -> None:
    """Draws the net benefit by threshold of the network, of referring everybody and of referring nobody."""
    thresholds, own = benefit.thresholds, benefit.net_benefit
    limits = benefit.intervals["net_benefit"]
    top = max([*own, *benefit.refer_all, *(high for _, high in filter(None, limits)), 0.01])
    with new_drawing(path, 7.6, 7.6) as figure:
        axes = figure.subplots()
        axes.axhline(0, color=DIM, linestyle=":", linewidth=1.6, label="referring nobody")
        axes.plot(thresholds, benefit.refer_all, color=INK, linestyle="--", linewidth=1.6, label="referring everybody")
        draw_band(axes, Band(thresholds, own, limits))
        axes.plot(thresholds, own, color=BLUE, label="the network")
        # Nobody would use a network with a net benefit below 0, so large negative values are cut off.
        bottom = max(-0.8 * top, min(-0.3 * top, 1.08 * min(own)))
        axes.set(xlim=(0, 0.505), ylim=(bottom, top + 0.35 * (top - bottom)))  # room for the legend above the band
        axes.set(
            xlabel="threshold: refer from this probability on", ylabel="net benefit (right referrals a photograph)"
        )
        axes.xaxis.set_major_formatter(PercentFormatter(1, 0, symbol=" %"))
        prevalence = benefit.prevalence
        axes.set_title(title if prevalence is None else f"{title},\nwhere {percent(prevalence)} are referable")
        axes.legend(loc="upper right")
