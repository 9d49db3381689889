"""Tables and sentences about subgroups (`subgroups` in metrics_*.json) for the terminal, the page and the card."""

from collections.abc import Sequence
from typing import Final

from trainer.evaluation.subgroups import LEAST, LEVEL, Column, Comparison, Group, Subgroups
from trainer.reporting.tables import Table, decimals, percent, with_interval

TITLES: Final = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "referable_auc": "AUC, referable",
    "kappa": "kappa, quadratic weights",
}
FRACTIONS: Final = ("sensitivity", "specificity")
TOO_SMALL: Final = (
    f"Groups with fewer than {LEAST} referable patients, or fewer than {LEAST} others, are listed without figures. A "
    "group is compared where the rest has as many too."
)


def subgroup_table(column: Column, what: str) -> Table:
    """The figures of each group, their differences from the rest, and p-values.

    what: the split, or the name of the external set.
    """
    rows: list[Sequence[str]] = []
    for group in column.groups:
        counts = [f"{n:,}" for n in (group.photographs, group.patients, group.referable_patients)]
        rows.append((group.name, *counts, *(_figure(group, name) for name in TITLES)))
        if against := group.against_rest:
            parts = [against_parts(against[name], name) for name in TITLES]
            rows.append(("  minus the rest", "", "", "", *(" ".join(part[:-1]) for part in parts)))
            rows.append(("  corrected p", "", "", "", *(part[-1].removeprefix("p ") for part in parts)))
    return Table([f"{what}, by {column.name}", "photographs", "patients", "referable patients", *TITLES.values()], rows)


def against_parts(comparison: Comparison, figure: str) -> list[str]:
    """Difference, 95 % interval and corrected p-value: ["-12.0 points", "(-20.1 to -3.9)", "p 0.004"]. Those that are
    unknown are left out; ["-"] if the difference is."""
    value, limits, p = comparison.difference, comparison.interval, comparison.p_holm
    if value is None:
        return ["-"]

    def show(number: float) -> str:
        return f"{100 * number:+.1f}" if figure in FRACTIONS else f"{number:+.3f}"

    parts = [show(value) + (" points" if figure in FRACTIONS else "")]
    if limits:
        parts.append(f"({show(limits[0])} to {show(limits[1])})")
    return parts if p is None else [*parts, "p < 0.001" if p < 0.001 else f"p {p:.3f}"]


def subgroup_lines(subgroups: Subgroups) -> list[str]:
    """The worst group, the correction of the p-values, and why groups have no figures."""
    n = subgroups.comparisons
    lines = [worst_line(subgroups)]
    if n:
        lines.append(
            f"p values are corrected by Holm's method over all {n:,} comparisons: each group of {_named(subgroups)} "
            "with the rest, four figures each."
        )
    if any(group.figures is None for column in subgroups.columns for group in column.groups):
        lines.append(TOO_SMALL)
    return lines


def worst_line(subgroups: Subgroups) -> str:
    """The worst group, by which figure, and whether it is significantly worse than the rest."""
    worst, n = subgroups.worst, subgroups.comparisons
    if worst is None:
        return f"Fewer than two groups have {LEAST} referable patients and {LEAST} others: groups are not compared."
    group = next(
        group
        for column in subgroups.columns
        for group in column.groups
        if (column.name, group.name) == (worst.column, worst.group)
    )
    name, figure = f"{worst.column} = {worst.group}", worst.figure
    value = _figure(group, figure)
    if worst.significant and group.against_rest:
        *parts, p = against_parts(group.against_rest[figure], figure)
        against = f"{' '.join(parts)}, {p}"
        return (
            f"Worst group: {name}. {TITLES[figure][0].upper()}{TITLES[figure][1:]}: {value}; against the rest "
            f"{against} after Holm's correction over {n:,} comparisons."
        )
    tested = "No group could be compared with the rest."
    if n:
        tested = (
            f"No group is significantly worse than the rest (p below {LEVEL:g} after Holm's correction over {n:,} "
            "comparisons). That does not prove the groups alike."
        )
    return f"{tested} Lowest AUC for referable retinopathy: {name}, {value}."


def _figure(group: Group, name: str) -> str:
    if group.figures is None or group.intervals is None:
        return "-"
    return with_interval(group.figures[name], group.intervals[name], percent if name in FRACTIONS else decimals)


def _named(subgroups: Subgroups) -> str:
    names = [column.name for column in subgroups.columns]
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
