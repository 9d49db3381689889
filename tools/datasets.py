"""`tools datasets`: a list of the known public data sets, and the details of one."""

import textwrap
from typing import Final

from pipeline.errors import FundusError
from tools.sources.known_sets import KnownSet, known_sets

_LABEL: Final = 12
"""Width of the labels before the texts, characters."""


def overview(width: int) -> str:
    """All sets, one or two lines each, with lines of at most `width` characters (at least 60)."""
    sets = known_sets().values()
    names = max(len(known.name) for known in sets) + 2
    lines = ["name".ljust(names) + " graded  data set", ""]
    for known in sets:
        graded = f"{sum(known.counts):,}" if known.counts else "?" if known.graded else "none"
        needs = known.command.removeprefix(KnownSet.command).strip()
        title = f"{known.title}, read with {needs}" if needs.startswith("--scale") else known.title
        start = f"{known.name:{names}}{graded:>7}  "
        lines += textwrap.wrap(title, width, initial_indent=start, subsequent_indent=" " * len(start))
    lines += [
        "",
        *textwrap.wrap(
            "graded: photographs with a published grade; ?: no published numbers by grade found; none: the set has no "
            "grades of diabetic retinopathy. `tools datasets NAME` says how a set must lie and what is wrong with it; "
            "docs/datasets.md has the same and how to describe a set of your own.",
            width,
        ),
    ]
    return "\n".join(lines)


def details(name: str, width: int) -> str:
    """The description of a set, with lines of at most `width` characters apart from URLs.

    Raises FundusError if there is no such set.
    """
    sets = known_sets()
    if name not in sets:
        raise FundusError(f"no data set is called {name!r}; known are {', '.join(sets)}")
    known = sets[name]
    rows = {
        "from": known.home,
        "lies": known.lies,
        "known by": known_by(known),
        "command": known.command,
        "scale": scale(known),
        "patients": known.patients,
        "published": published(known),
        "beware": known.wrong,
        "checked": known.checked,
    }
    lines = [f"{known.name}: {known.title}", ""]
    for label, text in rows.items():
        start = f"{label:{_LABEL}}"
        lines += textwrap.wrap(
            text,
            width,
            initial_indent=start,
            subsequent_indent=" " * _LABEL,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def known_by(known: KnownSet) -> str:
    """How a set is recognised, in words."""
    signs = []
    if known.tables:
        signs.append(f"tables {', '.join(known.tables)}")
    if known.headers:
        signs.append(f"columns {', '.join(known.headers)}")
    if known.photographs:
        signs.append(f"names of photographs that fit {known.photographs.pattern}")
    if known.rows:
        signs.append(f"{known.rows:,} rows at least")
    if known.folders:
        signs.append(f"folders {', '.join(known.folders)}")
    return "; ".join(signs) or "nothing of its own: read by the usual headers and names of folders"


def scale(known: KnownSet) -> str:
    """The scale of a set, in words."""
    if not known.graded:
        return "none: nothing in it is a grade of diabetic retinopathy"
    own = known.scale_of()
    return f"{own.name}: {own.steps}" if own else "ICDR, 0 to 4"


def published(known: KnownSet) -> str:
    """The published numbers of a set by grade, in words."""
    return known.published() if known.counts else "no numbers by grade found" if known.graded else "no grades"
