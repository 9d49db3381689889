"""Tables of results as text. Each figure has its 95 % interval."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Final, NamedTuple, Protocol

from pipeline.grades import GRADES
from trainer.evaluation.bootstrap import Interval, listed, single
from trainer.evaluation.operating_point import Elsewhere
from trainer.evaluation.results import Results
from trainer.evaluation.ungradable import Decided, Ungradable

Show = Callable[[float], str]


class Table(NamedTuple):
    """A table as text: the titles of the columns, and the cells of each row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Part(Protocol):
    """A part of the results whose figures are attributes."""

    @property
    def intervals(self) -> Mapping[str, Interval | None]:
        """95 % intervals by the name of the figure; a figure without one may be missing."""


def results_table(measured: Mapping[str, Results]) -> Table:
    """A column for each split and a row for each figure. Below accuracy and kappa: the baselines that use no
    photograph."""
    rows: list[Sequence[str]] = []
    operating, calibration = attrgetter("operating"), attrgetter("calibration")

    def row(title: str, cell: Callable[[Results], str]) -> None:
        """Adds a row, unless all its cells are empty."""
        cells = [cell(each) for each in measured.values()]
        if any(cells):
            rows.append((title, *cells))

    def headline(title: str, name: str, show: Show) -> None:
        row(title, lambda each: with_interval(getattr(each.metrics, name), single(each.intervals[name]), show))

    def without_image(name: str, show: Show) -> None:
        row("  majority grade, no image", lambda each: _baseline(each, "majority", name, show))
        row("  fellow eye's grade, no image", lambda each: _baseline(each, "fellow_eye", name, show))

    def part(title: str, of: Callable[[Results], Part | None], name: str, show: Show) -> None:
        row(title, lambda each: _cell(of(each), name, show))

    row("photographs", lambda each: f"{each.metrics.photographs:,}" if each.calibration else "")
    row("eyes", lambda each: f"{each.metrics.photographs:,}" if each.eyes else "")
    row("  of several photographs", lambda each: f"{each.eyes.several:,}" if each.eyes else "")
    row("  graded differently, the worst counts", lambda each: f"{each.eyes.disagreeing:,}" if each.eyes else "")
    row("  eye not known, counted as one", lambda each: f"{each.eyes.eye_unknown:,}" if each.eyes else "")
    row("patients", lambda each: f"{each.patients:,}")
    headline("accuracy", "accuracy", percent)
    without_image("accuracy", percent)
    headline("balanced accuracy", "balanced_accuracy", percent)
    headline("kappa, quadratic weights", "kappa", decimals)
    without_image("kappa", decimals)
    headline("AUC, mean over grades", "auc", decimals)
    headline("AUC, referable (grade 2 or worse)", "referable_auc", decimals)
    headline("  sensitivity, predicted grade", "sensitivity", percent)
    headline("  specificity, predicted grade", "specificity", percent)
    card = next((each.operating for each in measured.values() if each.operating), None)
    if card:
        part(f"  threshold chosen for {card.wanted} {percent(card.level)}", operating, "threshold", decimals)
        for name, title in (("sensitivity", "sensitivity"), ("specificity", "specificity"),
                            ("prevalence", "prevalence"), ("ppv", "PPV"), ("npv", "NPV")):  # fmt: skip
            part(f"    {title}", operating, name, percent)
        if card.at_prevalence:
            where = f"at a prevalence of {percent(card.at_prevalence.prevalence)}"
            part(f"    PPV {where}", _elsewhere, "ppv", percent)
            part(f"    NPV {where}", _elsewhere, "npv", percent)
    part("calibration: temperature", calibration, "temperature", decimals)
    if any(each.calibration and each.calibration.temperature_with_fellow for each in measured.values()):
        part("  with the other eye", calibration, "temperature_with_fellow", decimals)
    for name, title in (("ece", "expected error"), ("brier", "Brier score")):
        part(f"  {title}", calibration, name, decimals)
        part("    at temperature 1", calibration, f"{name}_before", decimals)
    return Table(["95 % intervals by patients", *measured], rows)


def grades_table(results: Results) -> Table:
    """A row for each grade: the figures of that grade against all others."""
    shown = {"sensitivity": percent, "specificity": percent, "precision": percent, "auc": decimals}
    rows = []
    for grade, title in enumerate(GRADES):
        cells = [
            with_interval(getattr(results.metrics, name)[grade], listed(results.intervals[name])[grade], show)
            for name, show in ((f"{figure}_by_grade", show) for figure, show in shown.items())
        ]
        rows.append((title, f"{results.metrics.grades[grade]:,}", *cells))
    return Table(["grade", "photographs", "sensitivity", "specificity", "precision", "AUC"], rows)


UNGRADABLE_FRACTIONS: Final = ("sensitivity", "specificity", "referred")
UNGRADABLE_COUNTS: Final = {
    "true_positive": "TP",
    "false_positive": "FP",
    "false_negative": "FN",
    "true_negative": "TN",
    "no_grade": "no grade",
}


def ungradable_results(what: str, measured: Ungradable) -> Table:
    """The referral with ungradable photographs left out and with them referred; no rows without graded photographs.

    what: the split, or the name of the external set.
    """
    rows = [
        (
            title,
            *(with_interval(getattr(decided, name), decided.intervals[name], percent) for name in UNGRADABLE_FRACTIONS),
            *(f"{getattr(decided, name):,}" for name in UNGRADABLE_COUNTS),
        )
        for title, decided in ungradable_rows(measured)
    ]
    return Table([what, *UNGRADABLE_FRACTIONS, *UNGRADABLE_COUNTS.values()], rows)


def ungradable_rows(measured: Ungradable) -> list[tuple[str, Decided]]:
    """Titles and results: for photographs, then patients, with ungradable ones left out, then referred."""
    rows = []
    for who, both in (("photographs", measured.photographs), ("patients", measured.patients)):
        for title, decided in (("left out", both and both.left_out), ("referred", both and both.referred)):
            if decided:
                rows.append((f"{who}, ungradable {title}", decided))
    return rows


def ungradable_lines(measured: Ungradable) -> list[str]:
    """How many ungradable photographs are counted, and how many are not, in sentences."""
    n, not_counted, lines = measured.ungradable, measured.not_counted, []
    if n:
        lines.append(
            f"{counted(n, 'ungradable photograph')} counted, {measured.graded or 'none'} with a grade. "
            "An ungradable eye refers its patient. No grade: referred, and nobody can say whether rightly. "
            "Intervals: 95 %, by patients."
        )
    if not_counted:
        lines.append(
            f"{counted(not_counted, 'ungradable photograph')} not counted: the patient is not known, or is in no split."
        )
    return lines


def counted(n: int, what: str) -> str:
    """
    >>> counted(1, "patient"), counted(1200, "patient")
    ('1 patient', '1,200 patients')
    """
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def with_interval(value: float | None, interval: Sequence[float] | None, show: Show) -> str:
    """A figure with its interval: "72.3 % (68.1-76.0)", "0.012 (-0.031 to 0.040)"; "-" if it is not defined."""
    if value is None:
        return "-"
    if interval is None:
        return show(value)
    low, high = (show(limit).removesuffix(" %") for limit in interval)
    return f"{show(value)} ({low}{' to ' if low.startswith('-') else '-'}{high})"


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def decimals(value: float) -> str:
    return f"{value:.3f}"


def _cell(part: Part | None, name: str, show: Show) -> str:
    return with_interval(getattr(part, name), part.intervals.get(name), show) if part else ""


def _baseline(results: Results, kind: str, name: str, show: Show) -> str:
    """A baseline that uses no photograph. That of the fellow eye is empty if no patient leaks: it equals the majority
    grade then."""
    no_image = results.no_image
    if no_image is None or (kind == "fellow_eye" and not no_image.leaked):
        return ""
    return show(getattr(getattr(no_image, kind), name))


def _elsewhere(results: Results) -> Elsewhere | None:
    return results.operating.at_prevalence if results.operating else None
