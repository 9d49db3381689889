"""What `tools preprocess` says: the layout, what was refused, and how the numbers add up."""

from collections.abc import Sequence
from pathlib import Path

import click
import pandas as pd

from pipeline.grades import GRADES, UNKNOWN
from pipeline.manifest import COLUMNS, SPLITS, leaked
from tools.preprocess import Outcome
from tools.sources import Listing, Refusal

SHOWN = 10
"""Lines of a kind before "and N more"."""


def say_listing(listing: Listing) -> None:
    click.echo(f"layout: {listing.layout}")
    for note in listing.notes[:SHOWN]:
        click.echo(f"  note: {note}")
    _more(len(listing.notes))
    _say_some("rows without a photograph to use", listing.rows)
    _say_some("photographs ignored", listing.ignored)


def say_outcome(listing: Listing, outcome: Outcome, out: Path) -> None:
    _say_some("photographs rejected", outcome.refused)
    cached, refused, ignored = len(outcome.rows), len(outcome.refused), len(listing.ignored)
    click.echo(f"found {listing.found} = {cached} cached + {refused} rejected + {ignored} ignored")
    table = pd.DataFrame(outcome.rows, columns=list(COLUMNS))
    if (table["grade"] != UNKNOWN).any():
        click.echo(grades_by_split(table))
    flags = table["flags"].str.split().explode().value_counts()
    for flag, count in sorted(flags.items()):
        says = "; left out of every split, --keep-blank keeps them" if flag == "blank" and not (
            table.loc[table["flags"].str.contains("blank"), "split"] != ""
        ).any() else ""
        click.echo(f"flagged {flag}: {count}{says}")
    say_leak(table)
    if outcome.changed:
        rate = listing.found / outcome.seconds
        click.echo(f"{out}: {outcome.encoded} encoded in {outcome.seconds:.1f} s ({rate:.1f} photographs/s)")
    else:
        click.echo(f"{out}: up to date, nothing written ({outcome.seconds:.1f} s)")
    if refused or listing.rows:
        click.echo(f"done with skips: {refused} photographs and {len(listing.rows)} rows, listed in {out / 'rejects.csv'}")


def grades_by_split(table: pd.DataFrame) -> str:
    """A small table: how many photographs of each grade are in each split."""
    names = {**dict(enumerate(GRADES)), UNKNOWN: "ungraded"}
    counts = pd.crosstab(table["split"].replace("", "none"), table["grade"])
    splits = [split for split in (*SPLITS, "none") if split in counts.index]
    grades = [grade for grade in names if grade in counts.columns or grade != UNKNOWN]
    lines = ["split".ljust(8) + "".join(f"{f'{grade} {names[grade]}' if grade >= 0 else names[grade]:>16}" for grade in grades) + f"{'all':>9}"]
    for split in splits:
        row = [int(counts.loc[split].get(grade, 0)) for grade in grades]
        lines.append(split.ljust(8) + "".join(f"{count:>16}" for count in row) + f"{sum(row):>9}")
    return "\n".join(lines)


def say_leak(table: pd.DataFrame) -> None:
    """Whether test photographs have a patient whom the net has seen; nothing where there is no test."""
    tested, leaks = int((table["split"] == "test").sum()), int(leaked(table).sum())
    if not tested:
        return
    if (table["eye"] == "").all():
        click.echo("leak: the names tell no patients (see --patient-pattern), so leaks between splits cannot be seen")
    elif leaks:
        click.secho(
            f"LEAK: {leaks} of {tested} test photographs ({leaks / tested:.0%}) have a patient who is also in train; "
            "accuracy on them says little. Cure: --split patient",
            fg="red",
            bold=True,
        )
    else:
        click.echo(f"leak: none, no patient of the {tested} test photographs is in train")


def _say_some(title: str, refusals: Sequence[Refusal]) -> None:
    if refusals:
        click.echo(f"{title}: {len(refusals)}")
        for refusal in refusals[:SHOWN]:
            click.echo(f"  {refusal.source}: {refusal.reason}")
        _more(len(refusals))


def _more(count: int) -> None:
    if count > SHOWN:
        click.echo(f"  and {count - SHOWN} more")
