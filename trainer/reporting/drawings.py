"""Drawings in one style: large enough for a slide, in colours that colour-blind people can distinguish.

Each is written as PNG and as SVG. The same numbers give the same bytes.
"""

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy
from numpy.typing import NDArray

from pipeline.grades import GRADES, N_GRADES
from pipeline.metrics import Counts, quadratic_kappa
from pipeline.storage.artifacts import picture_mark
from pipeline.storage.atomic import write_atomically
from trainer.evaluation.metrics import row_shares
from trainer.kinds import COMPARISON, RANGE_TEST

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
"""From the palette of Okabe and Ito."""
INK, DIM, FAINT, PAPER = "#222326", "#5E6066", "#E2E3E6", "#FFFFFE"
"""Text and axes, secondary text, grid lines, background. Nothing else has these four colours, so that a dark page can
replace them (trainer.reporting.page)."""
PRETRAINED: Final = (BLUE, "#56B4E9", GREEN)
SCRATCH: Final = (ORANGE, "#E69F00", PURPLE)
MANY: Final = {PRETRAINED: ("YlGnBu", 1.0, 0.4), SCRATCH: ("plasma", 0.2, 0.87)}
"""For more than three runs: a colour map of matplotlib and its range, navy to green or purple to yellow."""
LINES: Final[dict[str, dict[str, Any]]] = {
    "train": {"marker": "o", "linestyle": ":"},
    "val": {"marker": "s", "linestyle": "--"},
    "test": {"marker": "^", "linestyle": "-"},
}
"""With markers: a run of one epoch has no line."""
NAMES: Final = {"train": "train (augmented)", "val": "validation", "test": "test"}
STYLE: Final[dict[str, Any]] = {
    "font.size": 15,  # 14 on a slide of 13.3 x 7.5 inches that is filled by a drawing 8 inches high
    "axes.titlesize": 16,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": DIM,
    "axes.facecolor": PAPER,
    "axes.labelcolor": INK,
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "grid.color": FAINT,
    "legend.edgecolor": PAPER,
    "legend.facecolor": PAPER,
    "legend.framealpha": 0.85,
    "lines.linewidth": 2.4,
    "savefig.dpi": 150,
    "svg.hashsalt": "fundus-grading",  # ids in an SVG are random without it
    "text.color": INK,
    "text.parse_math": False,  # "$" in a run's name is a dollar
    "xtick.color": DIM,
    "xtick.labelcolor": INK,
    "ytick.color": DIM,
    "ytick.labelcolor": INK,
}


NAME_LETTERS: Final = 32
"""Most letters of a name in a title."""


@contextmanager
def new_drawing(path: Path, width: float, height: float, what: str = "a figure of a run") -> Iterator[Figure]:
    """A new drawing, width and height in inches. When the block ends it is written to `path` as PNG, and beside it as
    SVG.

    what: a description that both files have in their metadata. A user's matplotlibrc changes nothing.
    """
    with style.context(STYLE, after_reset=True), warnings.catch_warnings():
        # A run's name may have letters that the font lacks; boxes are drawn for them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height))
        yield figure
        for text in figure.findobj(Text):  # a run's name may hold any bytes; those that cannot be drawn become "?"
            shown = (letter if letter.isprintable() or letter == "\n" else "?" for letter in text.get_text())
            text.set_text("".join(shown))
        with write_atomically(path) as png:
            figure.savefig(png, format="png", metadata={"Software": picture_mark(what)})
        with write_atomically(path.with_suffix(".svg")) as svg:
            figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": picture_mark(what)})


def short_name(name: str) -> str:
    """The name of a run or a set for a title. A long name is cut at its beginning: names mostly differ at the end."""
    name = " ".join(name.split())
    return name if len(name) <= NAME_LETTERS else f"…{name[1 - NAME_LETTERS :]}"


def unit_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Sets both axes to 0 to 1, with a margin for lines along the edge."""
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.015, 1.015), ylim=(-0.015, 1.015), aspect="equal")
    ticks = np.linspace(0, 1, 6)
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)


def epoch_axis(axes: Axes, epochs: int) -> None:
    """Sets the x axis to epochs 1 to `epochs`, with whole numbers, also for a single epoch."""
    axes.set(xlabel="epoch", xlim=(0.5, epochs + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def draw_accuracy(path: Path, table: pd.DataFrame, *, title: str, kept: int, majority: float | None) -> None:
    """Draws accuracy and kappa by epoch.

    table: accuracy.csv. kept: the epoch of the weights, from 1. majority: accuracy on val of the commonest grade of
    train, percent; None if unknown.
    """
    with new_drawing(path, 9, 8) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        epochs, point = table["epoch"], {"markersize": 5}
        upper.plot(epochs, table["acc_train"], "o-", color=BLUE, label="train (augmented)", **point)
        upper.plot(epochs, table["acc_val"], "s-", color=ORANGE, label="validation", **point)
        if table["acc_test"].notna().any():
            upper.plot(epochs, table["acc_test"], "^-", color=GREEN, label="test (not used to choose)", **point)
        if majority is not None:
            label = f"majority grade ({majority:.1f} % of validation)"
            upper.axhline(majority, color=INK, linewidth=1.6, linestyle=":", label=label)
        lower.plot(epochs, table["kappa_val"], "s-", color=ORANGE, **point)
        head = int((table["phase"] == "head").sum())
        for axes, own in ((upper, ""), (lower, "_")):  # "_" hides a label from the legend, which has it already
            axes.axvline(kept, color=DIM, linewidth=1.2, linestyle="--", label=f"{own}kept: epoch {kept}")
            if head:
                axes.axvspan(0.5, head + 0.5, color=FAINT, alpha=0.5, zorder=0, label=f"{own}last layer alone")
        upper.set(title=title, ylabel="accuracy (%)")
        figure.legend(loc="outside lower center", ncols=2)  # the curves may be anywhere inside
        lower.set_ylabel("validation kappa\n(quadratic weights)")
        epoch_axis(lower, len(table))


def draw_confusion(path: Path, counts: Counts, *, title: str) -> None:
    """Draws a confusion matrix. counts (5, 5): rows are true grades. Each cell has its share of the true grade, as
    colour and percentage, and its number of photographs."""
    fractions = row_shares(counts)
    n = int(counts.sum())
    with new_drawing(path, 9.4, 8) as figure:
        axes = figure.subplots()
        axes.grid(visible=False)
        image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(N_GRADES, N_GRADES):
            fraction, count = fractions[row, column], counts[row, column]
            text = "" if np.isnan(fraction) else f"{100 * fraction:.0f} %\n{count:,}"
            axes.text(column, row, text, ha="center", va="center", color="white" if fraction > 0.6 else "#202020")
        totals = [f"{name}\n(n = {total:,})" for name, total in zip(GRADES, counts.sum(axis=1), strict=True)]
        axes.set_xticks(range(N_GRADES), GRADES, rotation=25, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(N_GRADES), totals)
        axes.set(xlabel="predicted grade", ylabel="true grade")
        accuracy = f"accuracy {100 * np.trace(counts) / n:.1f} %, kappa {quadratic_kappa(counts):.3f}"
        axes.set_title(f"{title}\n{n:,} photographs, {accuracy}")
        axes.spines[:].set_visible(False)
        axes.set_xticks(np.arange(1, N_GRADES) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, N_GRADES) - 0.5, minor=True)
        axes.grid(which="minor", color=PAPER, linewidth=2)
        axes.tick_params(which="both", length=0)
        bar = figure.colorbar(
            image, ax=axes, shrink=0.8, label="share of the true grade", format=lambda value, _: f"{100 * value:.0f} %"
        )
        bar.outline.set_visible(False)


def draw_comparison(path: Path, runs: Mapping[str, tuple[str, bool, pd.DataFrame]]) -> None:
    """Draws accuracy and, below it, validation kappa by epoch, in a column for each model.

    runs: name -> (model, whether pretrained, accuracy.csv). Accuracy is drawn for train and, if the run tracked it, for
    test, else for validation.
    """
    models = Counter(model for model, _, _ in runs.values())
    alike = defaultdict(list)
    for name, (model, pretrained, _) in runs.items():
        alike[model, pretrained].append(name)
    colours: dict[str, NDArray[np.float64]] = {}
    for (_, pretrained), names in alike.items():
        colours |= zip(names, _colours(PRETRAINED if pretrained else SCRATCH, len(names)), strict=True)
    columns = min(3, len(models))
    rows = -(-len(models) // columns)
    height = 1 + (6.6 + 0.33 * max(models.values())) * rows
    with new_drawing(path, 3 + 6 * columns, height, COMPARISON.what) as figure:
        panels = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=(3, 2) * rows)
        uppers, lowers = panels[::2].flatten(), panels[1::2].flatten()
        for kind in (uppers, lowers):
            for panel in kind[1:]:
                panel.sharey(kind[0])
        for number, (upper, lower) in enumerate(zip(uppers, lowers, strict=True)):
            if number >= len(models):
                upper.set_visible(False)
                lower.set_visible(False)
                continue
            model = list(models)[number]
            of_model = {name: table for name, (its_model, _, table) in runs.items() if its_model == model}
            labels = {name: f"{name}, {'pretrained' if runs[name][1] else 'from scratch'}" for name in of_model}
            _compare_runs(figure, upper, lower, of_model, labels, colours)
            upper.set_title(model)
            if number % columns == 0:
                upper.set_ylabel("accuracy (%)")
                lower.set_ylabel("validation kappa\n(quadratic weights)")


def _compare_runs(
    figure: Figure,
    upper: Axes,
    lower: Axes,
    tables: Mapping[str, pd.DataFrame],
    labels: Mapping[str, str],
    colours: Mapping[str, NDArray[np.float64]],
) -> None:
    """Draws the runs of a model. By name: accuracy.csv, label of the legend, colour."""
    drawn = set()
    for name, table in tables.items():
        measured = "test" if table["acc_test"].notna().any() else "val"
        drawn |= {"train", "val", measured}
        line: dict[str, Any] = {"color": colours[name], "markersize": 5}
        lower.plot([], [], color=colours[name], linewidth=5, label=labels[name])
        for split in ("train", measured):
            upper.plot(table["epoch"], table[f"acc_{split}"], **line, **LINES[split])
        lower.plot(table["epoch"], table["kappa_val"], **line, **LINES["val"])
    for split in [split for split in LINES if split in drawn]:
        lower.plot([], [], color=INK, label=NAMES[split], markersize=5, **LINES[split])
    upper.sharex(lower)
    upper.tick_params(labelbottom=False)
    epoch_axis(lower, max(len(table) for table in tables.values()))
    below = offset_copy(lower.transAxes, figure, y=-0.7)  # inches: below the label for any height of the axes
    lower.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below)


def _colours(few: tuple[str, str, str], n: int) -> NDArray[np.float64]:
    """(n, 4), RGBA from 0 to 1: the first n of `few`; if they are too few, n from a colour map."""
    if n <= len(few):
        return to_rgba_array(few[:n])
    name, first, last = MANY[few]
    return colormaps[name](np.linspace(first, last, n))


def draw_rates(
    path: Path,
    rates: NDArray[np.float64],
    losses: NDArray[np.float64],
    smoothed: NDArray[np.float64],
    proposal: float,
) -> None:
    """Draws the losses (n,), measured and smoothed, against the learning rates (n,), and marks the proposed rate."""
    with new_drawing(path, 13, 8, RANGE_TEST.what) as figure:
        axes = figure.subplots()
        axes.semilogx(rates, losses, color=DIM, linewidth=1, label="a batch each")
        axes.semilogx(rates, smoothed, color=BLUE, label="smoothed")
        axes.axvline(proposal, color=ORANGE, linestyle="--", label=f"proposed: {proposal:.2g}")
        axes.set_ylim(0, 2.1 * float(smoothed[: smoothed.argmin() + 1].max()))
        axes.set_title("Loss while the learning rate rises")
        axes.set_xlabel("learning rate")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_ylabel("loss")
        axes.legend()
