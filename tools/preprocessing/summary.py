"""The output of `tools preprocess`: the layout, what was refused, and the counts."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import click
import pandas as pd

from pipeline.cache.manifest import COLUMNS
from pipeline.cache.rejects import NOT_USED
from pipeline.cache.splits import SPLITS, leak_of
from pipeline.grades import GRADES, UNKNOWN
from pipeline.photos.discovery import Refusal
from pipeline.storage.url import Url
from tools.preprocessing.preprocess import Outcome
from tools.sources.listing import Listing

SHOWN = 10
"""Lines of a kind before "and N more"."""


def say_listing(listing: Listing) -> None:
    click.echo(f"layout: {listing.layout}")
    if listing.scale.codes:
        click.echo(f"scale: {listing.scale.name}, {listing.scale.title}")
    for note in [*listing.notes, *listing.row_notes[:SHOWN]]:
        click.echo(f"  note: {note}")
    _more(len(listing.row_notes))
    for warning in listing.warnings:
        click.secho(f"WARNING: {warning}", fg="red")
    _say_unread(listing.unread)
    _say_some("rows without a photograph to use", listing.rows)
    _say_some("photographs ignored", listing.ignored)


def say_outcome(listing: Listing, outcome: Outcome, out: Path | Url) -> None:
    _say_some("photographs rejected", [Refusal(s, reason.removeprefix(NOT_USED)) for s, reason in outcome.refused])
    cached, refused, ignored = len(outcome.rows), len(outcome.refused), len(listing.ignored)
    click.echo(f"found {listing.found} = {cached} cached + {refused} rejected + {ignored} ignored")
    table = pd.DataFrame(outcome.rows, columns=list(COLUMNS))
    if (table["grade"] != UNKNOWN).any():
        click.echo(grades_by_split(table))
    for flag, count in table["flags"].str.split().explode().value_counts().sort_index().items():
        left_out = flag == "blank" and (table.loc[table["flags"].str.contains("blank"), "split"] == "").all()
        note = ", left out of every split (--keep-blank keeps them)" if left_out else ""
        click.echo(f"flagged {flag}: {count}{note}")
    for line in leak_lines(table, outcome.copies):
        click.secho(line, fg="red" if line.startswith(("LEAK", "COPIES")) else None)
    for copy in outcome.shown[:SHOWN]:
        click.echo(f"  {copy.test} = {copy.other}, correlation {copy.correlation:.3f}")
    _more(len(outcome.shown))
    if outcome.changed:
        rate = listing.found / outcome.seconds
        click.echo(f"{out}: {outcome.encoded} encoded in {outcome.seconds:.1f} s ({rate:.1f} photographs/s)")
    else:
        click.echo(f"{out}: up to date, nothing written ({outcome.seconds:.1f} s)")
    if refused or listing.rows:
        click.echo(f"done with skips (photographs: {refused}, rows: {len(listing.rows)}), see {out / 'rejects.csv'}")


def grades_by_split(table: pd.DataFrame) -> str:
    """A small table: how many photographs of each grade are in each split."""
    names = {**{grade: f"{grade} {name}" for grade, name in enumerate(GRADES)}, UNKNOWN: "ungraded"}
    counts = pd.crosstab(table["split"].replace("", "none"), table["grade"])
    grades = [grade for grade in names if grade in counts or grade != UNKNOWN]
    lines = [["split", *(names[grade] for grade in grades), "all"]]
    for split in (*SPLITS, "none"):
        if split in counts.index:
            row = [int(counts[grade][split]) if grade in counts else 0 for grade in grades]
            lines.append([split, *map(str, row), str(sum(row))])
    return "\n".join(f"{line[0]:8}" + "".join(f"{cell:>17}" for cell in line[1:]) for line in lines)


def leak_lines(table: pd.DataFrame, copies: int = 0) -> list[str]:
    """What is known of test photographs whose patient, or whose very picture, the network sees in train."""
    n, leaked, copied, untold, photographs = leak = leak_of(table, copies=copies)
    lines = []
    if copied:
        lines.append(
            f"COPIES: {copied:,} of {n:,} test photographs ({copied / n:.0%}) look like a photograph of train or val; "
            "accuracy on them says little. Advice: name the patients (--patient-pattern, --patient-column), then "
            "--split patient"
        )
    if leaked:
        lines.append(
            f"LEAK: {leaked:,} of {n:,} test photographs ({leaked / n:.0%}) show a patient who is also in train; "
            "accuracy on them says little. Advice: --split patient"
        )
    if lines or not n:
        return lines
    if leak.blind:
        return ["leak: nothing tells the patients (see --patient-pattern), so leaks between splits cannot be seen"]
    if untold:
        return [
            f"leak: none seen, but nothing tells the patient of {untold:,} of {photographs:,} photographs (see "
            "--patient-pattern)"
        ]
    return [f"leak: none, no patient of the {n:,} test photographs is in train"]


def _say_unread(unread: Sequence[Refusal]) -> None:
    """Every reason once, with the kinds of files and one of them."""
    if unread:
        click.echo(f"files not read: {len(unread)}")
    for reason, group in groupby(sorted(unread, key=lambda each: each.reason), key=lambda each: each.reason):
        sources = [each.source for each in group]
        kinds = Counter(Path(source).suffix.lower() or "no suffix" for source in sources)
        more = f" and {len(sources) - 1} more ({', '.join(f'{n} {kind}' for kind, n in kinds.most_common())})"
        click.echo(f"  {sources[0]}{more if len(sources) > 1 else ''}: {reason}")


def _say_some(title: str, refusals: Sequence[Refusal]) -> None:
    if refusals:
        click.echo(f"{title}: {len(refusals)}")
        for refusal in refusals[:SHOWN]:
            click.echo(f"  {refusal.source}: {refusal.reason}")
        _more(len(refusals))


def _more(count: int) -> None:
    if count > SHOWN:
        click.echo(f"  and {count - SHOWN} more")
