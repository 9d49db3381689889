"""Prints results as tables; `fit`, `evaluate` and `ensemble` share it."""

from collections.abc import Mapping, Sequence

import click

from trainer.console import print_table
from trainer.evaluation.results import Results
from trainer.evaluation.subgroups import Subgroups
from trainer.reporting.external import Site, refit_tables, shown_refit, sites_table
from trainer.reporting.subgroups import subgroup_lines, subgroup_table
from trainer.reporting.tables import grades_table, results_table, ungradable_lines, ungradable_results


def print_results(columns: Mapping[str, Results]) -> None:
    """Prints a column for each of the results, by title."""
    print_table(*results_table(columns))


def print_splits(measured: Mapping[str, Results]) -> None:
    """Prints the results by split, and below them the referral with and without ungradable photographs."""
    print_results(measured)
    for split, results in measured.items():
        print_ungradable(split, results)


def print_by_grade(results: Results) -> None:
    """Prints a row for each grade."""
    print_table(*grades_table(results))


def print_ungradable(what: str, results: Results) -> None:
    """Prints the referral with ungradable photographs left out and with them referred, if there are any.

    what: the split, or the name of the external set.
    """
    if results.ungradable is None:
        return
    table = ungradable_results(what, results.ungradable)
    if table.rows:
        print_table(*table)
    for line in ungradable_lines(results.ungradable):
        click.echo(line)


def print_subgroups(subgroups: Subgroups, what: str) -> None:
    """Prints a table for each column, and the worst group. what: the split, or the name of the external set."""
    for column in subgroups.columns:
        print_table(*subgroup_table(column, what))
    for line in subgroup_lines(subgroups):
        click.echo(line)


def print_sites(sites: Sequence[Site]) -> None:
    """Prints the sets beside each other, then the refits of the threshold."""
    print_table(*sites_table(sites))
    for refit in refit_tables(sites):
        print_table(*shown_refit(refit))
        click.echo(refit.line)
