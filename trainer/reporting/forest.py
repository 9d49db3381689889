"""The forest plot: the figures of several sets of photographs, each with its interval."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from trainer.reporting.drawings import BLUE, DIM, INK, ORANGE, PAPER, new_drawing
from trainer.reporting.external import FOREST, Column, Site

LETTERS: Final = 24
"""Most letters of a set's name; a longer one is cut."""
SMALL: Final = 13  # points


def draw_forest(path: Path, sites: Sequence[Site], *, title: str) -> None:
    """Draws a row for each set and a panel for each figure. A dashed line marks the run's own test part."""
    with new_drawing(path, 14, max(4.2, 2.4 + 0.62 * len(sites))) as figure:
        panels = figure.subplots(1, len(FOREST), sharey=True, gridspec_kw={"wspace": 0.08})
        for axes, column in zip(panels, FOREST, strict=True):
            _draw(axes, column, sites)
        panels[0].set_yticks(range(len(sites)), [label(each) for each in sites], fontsize=SMALL)
        panels[0].set_ylim(len(sites) - 0.5, -0.65)
        notes = ["95 % intervals by patients; grey: chance"]
        if any(site.own for site in sites):
            notes.append("dashed: the run's own test part")
        if not all(site.exact for site in sites):
            notes.append("open: grades on another scale, not to be compared")
        figure.suptitle(f"{title}: external validation", x=0.01, ha="left", fontweight="bold", fontsize=16)
        figure.supxlabel("; ".join(notes), fontsize=SMALL, color=DIM)


def label(site: Site) -> str:
    """The name of a set, its number of photographs and the prevalence, in two lines."""
    name = site.name if len(site.name) <= LETTERS else f"{site.name[: LETTERS - 1]}…"
    return f"{name}\nn = {site.results.metrics.photographs:,}, {100 * site.prevalence:.0f} % referable"


def _draw(axes: Axes, column: Column, sites: Sequence[Site]) -> None:
    shown = [site.figure(column.key) for site in sites]
    lowest = [min(value, *(limits or (value,))) for value, limits in shown if value is not None]
    left = min(0.5, np.floor(10 * min(lowest, default=0.5)) / 10)
    if column.chance is not None:
        axes.axvline(column.chance, color=DIM, linewidth=1.2)
    for row, (site, (value, limits)) in enumerate(zip(sites, shown, strict=True)):
        if value is None:
            axes.text((left + 1) / 2, row, "not defined", ha="center", va="center", color=DIM, fontsize=SMALL)
            continue
        colour = ORANGE if site.own else BLUE
        if site.own:
            axes.axvline(value, color=ORANGE, linewidth=1.2, linestyle="--")
        if limits:
            axes.hlines(row, *limits, color=colour)
        face = colour if site.exact or column.key != "kappa" else PAPER
        axes.plot(value, row, "D" if site.own else "o", color=colour, markerfacecolor=face, markersize=9)
        words = f"{value:.2f}" + (f" ({limits[0]:.2f} to {limits[1]:.2f})" if limits else "")
        axes.text((left + 1) / 2, row - 0.2, words, ha="center", va="bottom", color=INK, fontsize=SMALL,
                  bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1})  # fmt: skip
    margin = 0.04 * (1 - left)
    axes.set(xlim=(left - margin, 1 + margin), title=column.title)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=SMALL)
    axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
