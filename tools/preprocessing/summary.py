"""What `tools preprocess` and `tools audit` report, as lines of text: layout, refusals, counts, leaks between
splits."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

import pandas as pd

from pipeline.cache.manifest import COLUMNS
from pipeline.cache.rejects import NOT_USED
from pipeline.cache.splits import SPLITS, leak_of
from pipeline.grades import GRADES, UNKNOWN
from pipeline.photos.discovery import Refusal
from pipeline.storage.url import Url
from tools.preprocessing.preprocess import Outcome
from tools.sources.listing import Listing

SHOWN: Final = 10
"""Lines of a kind before "and N more"."""


def listing_lines(listing: Listing) -> Iterator[str]:
    """How SRC was read, before anything is prepared."""
    yield f"layout: {listing.layout}"
    if listing.scale.codes:
        yield f"scale: {listing.scale.name}, {listing.scale.title}"
    yield from (f"  note: {note}" for note in [*listing.notes, *listing.row_notes[:SHOWN]])
    yield from _more(len(listing.row_notes))
    yield from (f"WARNING: {warning}" for warning in listing.warnings)
    yield from _unread_lines(listing.unread)
    yield from _refusal_lines("rows without a photograph to use", listing.rows)
    yield from _refusal_lines("photographs ignored", listing.ignored)


def outcome_lines(listing: Listing, outcome: Outcome, out: Path | Url, size: int) -> Iterator[str]:
    """What a run did. size: of the cached photographs, pixels."""
    rejected = [Refusal(source, reason.removeprefix(NOT_USED)) for source, reason in outcome.refused]
    yield from _refusal_lines("photographs rejected", rejected)
    cached, refused, ignored = len(outcome.rows), len(outcome.refused), len(listing.ignored)
    yield f"found {listing.found} = {cached} cached + {refused} rejected + {ignored} ignored"
    table = pd.DataFrame(outcome.rows, columns=list(COLUMNS))
    if (table["grade"] != UNKNOWN).any():
        yield grades_by_split(table)
    for flag, count in table["flags"].str.split().explode().value_counts().sort_index().items():
        left_out = flag == "blank" and (table.loc[table["flags"].str.contains("blank"), "split"] == "").all()
        note = ", left out of every split (--keep-blank keeps them)" if left_out else ""
        yield f"flagged {flag}: {count}{note}"
    yield from _enlarged_lines(table, size)
    yield from leak_lines(table, outcome.copies)
    for copy in outcome.shown[:SHOWN]:
        yield f"  {copy.test} = {copy.other}, correlation {copy.correlation:.3f}"
    yield from _more(len(outcome.shown))
    if outcome.changed:
        rate = listing.found / outcome.seconds
        yield f"{out}: {outcome.encoded} encoded in {outcome.seconds:.1f} s ({rate:.1f} photographs/s)"
    else:
        yield f"{out}: up to date, nothing written ({outcome.seconds:.1f} s)"
    if refused or listing.rows:
        yield f"done with skips (photographs: {refused}, rows: {len(listing.rows)}), see {out / 'rejects.csv'}"


def _enlarged_lines(table: pd.DataFrame, size: int) -> Iterator[str]:
    """That most photographs are smaller than the cached ones, if they are."""
    enlarged = int((table[["width", "height"]].max(axis=1) < size).sum())
    if 2 * enlarged > len(table):
        yield (
            f"enlarged: {enlarged:,} of {len(table):,} photographs are smaller than {size} x {size} pixels. That adds "
            "no detail; a smaller --size takes less space and time"
        )


def grades_by_split(table: pd.DataFrame) -> str:
    """A table of the numbers of photographs, one row a split, one column a grade."""
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
    """Test photographs whose patient is also in train, and those that are copies of a photograph of train or val."""
    n, leaked, copied, unknown, photographs = leak = leak_of(table, copies=copies)
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
    if leak.no_patient_known:
        return ["leak: the patients are not known (see --patient-pattern), so leaks between splits cannot be found"]
    if unknown:
        return [
            f"leak: none found, but the patients of {unknown:,} of {photographs:,} photographs are not known (see "
            "--patient-pattern)"
        ]
    return [f"leak: none, no patient of the {n:,} test photographs is in train"]


def _unread_lines(unread: Sequence[Refusal]) -> Iterator[str]:
    """Each reason once, with one of its files and the number of files of each kind."""
    if unread:
        yield f"files not read: {len(unread)}"
    for reason, group in groupby(sorted(unread, key=lambda each: each.reason), key=lambda each: each.reason):
        sources = [each.source for each in group]
        kinds = Counter(Path(source).suffix.lower() or "no suffix" for source in sources)
        more = f" and {len(sources) - 1} more ({', '.join(f'{n} {kind}' for kind, n in kinds.most_common())})"
        yield f"  {sources[0]}{more if len(sources) > 1 else ''}: {reason}"


def _refusal_lines(title: str, refusals: Sequence[Refusal]) -> Iterator[str]:
    if refusals:
        yield f"{title}: {len(refusals)}"
        yield from (f"  {refusal.source}: {refusal.reason}" for refusal in refusals[:SHOWN])
        yield from _more(len(refusals))


def _more(count: int) -> Iterator[str]:
    if count > SHOWN:
        yield f"  and {count - SHOWN} more"
