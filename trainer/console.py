"""What `trainer` says: plain lines that a program can read, and a live bar on a terminal."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pipeline.grades import GRADES

if TYPE_CHECKING:
    from trainer.results import Results

Item = TypeVar("Item")


def warn(line: str) -> None:
    """One prominent line on stderr."""
    click.secho(f"WARNING: {line}", fg="yellow", bold=True, err=True)


def track(items: Iterable[Item], total: int, description: str) -> Iterator[Item]:
    """The items, with a bar on stderr while they last if that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(items, total=total, description=description)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns, the first to the left and numbers to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 1000  # whoever reads a pipe wants whole words; lines end after their last column anyway
    console.print(table)


def print_class_weights(photographs: Sequence[int], weights: Sequence[float]) -> None:
    rows = zip(GRADES, photographs, weights, strict=True)
    print_table(
        ["grade", "training photographs", "weight"], [(name, str(n), f"{weight:.3f}") for name, n, weight in rows]
    )


def epoch_line(row: Mapping[str, Any], epochs: int) -> str:
    """A row of accuracy.csv to read while training."""
    test = "" if row["acc_test"] is None else f" test {row['acc_test']:.1f}"
    return (
        f"epoch {row['epoch']}/{epochs} {row['phase']}: lr {row['lr']:.2e}, "
        f"loss {row['loss_train']:.4f} val {row['loss_val']:.4f}, "
        f"accuracy {row['acc_train']:.1f} val {row['acc_val']:.1f}{test} %, kappa val {row['kappa_val']:.3f}, "
        f"{row['seconds']:.1f} s, {row['images_per_second']:.0f} images/s"
    )


def print_results(measured: Mapping[str, "Results"]) -> None:
    """A column a split, a row a figure with its interval, and under the accuracies what is scored without looking at a
    photograph."""
    columns = list(measured.values())
    rows: list[Sequence[str]] = [
        ("photographs", *(f"{each.metrics.photographs:,}" if each.calibration else "" for each in columns)),
        ("patients", *(f"{each.patients:,}" for each in columns)),
    ]

    def row(title: str, name: str, show: Callable[[float], str]) -> None:
        rows.append((title, *(_figure(getattr(each.metrics, name), each.intervals[name], show) for each in columns)))

    def without_image(name: str, show: Callable[[float], str]) -> None:
        """Two rows at most; the fellow eye's only where patients leak, for else it is the majority's."""
        for kind, title in (("majority", "majority grade"), ("fellow_eye", "fellow eye's grade")):
            shown = [
                each.baselines if each.baselines and (kind == "majority" or each.baselines.leaked) else None
                for each in columns
            ]
            if any(shown):
                cells = ["" if of is None else show(getattr(getattr(of, kind), name)) for of in shown]
                rows.append((f"  {title}, no image", *cells))

    row("accuracy", "accuracy", _percent)
    without_image("accuracy", _percent)
    row("balanced accuracy", "balanced_accuracy", _percent)
    row("kappa, quadratic weights", "kappa", _places)
    without_image("kappa", _places)
    row("AUC, mean over grades", "auc", _places)
    row("referable: AUC", "referable_auc", _places)
    row("  sensitivity, likeliest grade", "sensitivity", _percent)
    row("  specificity, likeliest grade", "specificity", _percent)
    cards = [each.operating for each in columns]
    card = next(filter(None, cards), None)
    if card:
        rows.append((f"  at a threshold of {card['threshold']:.3f}: {card['wanted']} {_percent(card['level'])} on val",
                     *("" for _ in columns)))  # fmt: skip
        for name, title in (("sensitivity", "sensitivity"), ("specificity", "specificity"),
                            ("prevalence", "prevalence"), ("ppv", "PPV"), ("npv", "NPV")):  # fmt: skip
            cells = ["" if of is None else _figure(of[name], of["intervals"][name], _percent) for of in cards]
            rows.append((f"    {title}", *cells))
        if card["at_prevalence"]:
            for name in ("ppv", "npv"):
                cells = [
                    _figure(of["at_prevalence"][name], of["at_prevalence"]["intervals"][name], _percent) if of else ""
                    for of in cards
                ]
                rows.append(
                    (f"    {name.upper()} at a prevalence of {_percent(card['at_prevalence']['prevalence'])}", *cells)
                )
    calibrations = [each.calibration for each in columns]
    of_any = next(filter(None, calibrations), None)
    if of_any:
        for name, title in (("ece", "calibration error"), ("brier", "Brier score")):
            cells = ["" if of is None else _figure(of[name], of["intervals"].get(name), _places) for of in calibrations]
            rows.append((f"{title}, temperature {of_any['temperature']:.2f}", *cells))
            cells = ["" if of is None else _places(of[f"{name}_before"]) for of in calibrations]
            rows.append(("  at temperature 1", *cells))
    print_table(["95 % intervals by patients", *measured], rows)


def print_by_grade(results: "Results") -> None:
    """A row a grade: each against the rest."""
    metrics = results.metrics
    rows = []
    for grade, name in enumerate(GRADES):
        cells = [
            _figure(getattr(metrics, figure)[grade], results.intervals[figure][grade], show)
            for figure, show in (("sensitivity_by_grade", _percent), ("specificity_by_grade", _percent),
                                 ("precision_by_grade", _percent), ("auc_by_grade", _places))
        ]  # fmt: skip
        rows.append((name, f"{metrics.grades[grade]:,}", *cells))
    print_table(["grade", "photographs", "sensitivity", "specificity", "precision", "AUC"], rows)


def _figure(value: float | None, interval: Sequence[float] | None, show: Callable[[float], str]) -> str:
    """ "72.3 % (68.1-76.0)"; "-" where it is not defined."""
    if value is None:
        return "-"
    if interval is None:
        return show(value)
    low, high = (show(limit).removesuffix(" %") for limit in interval)
    return f"{show(value)} ({low}-{high})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _places(value: float) -> str:
    return f"{value:.3f}"
