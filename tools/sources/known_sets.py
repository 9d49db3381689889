"""Public data sets that this project knows, and descriptions of the same kind that a user writes."""

import fnmatch
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from pipeline.errors import SourceError
from pipeline.grades import N_GRADES
from tools.sources.columns import ROLES, Asked, fold
from tools.sources.scales import Scale, open_scale, parse_code

_KEYS: Final = frozenset(
    {"title", "home", "lies", "command", "patients", "wrong", "headers", "tables", "columns",
     "gradable", "eyes", "codes", "blank", "scale", "counts", "counts_of", "counts_source"}
)  # fmt: skip


@dataclass(frozen=True)
class KnownSet:
    """What is known of a data set. The texts are for `tools datasets`, the rest is what reading it needs."""

    name: str
    title: str
    home: str = ""
    lies: str = ""  # how its files must lie below SRC
    command: str = "tools preprocess SRC"
    patients: str = ""  # what tells patients and splits
    wrong: str = ""  # what is known to be wrong with it
    headers: frozenset[str] = frozenset()  # folded headers that one of its tables has, all of them
    tables: tuple[str, ...] = ()  # patterns of the names of its tables
    columns: Mapping[str, str] = field(default_factory=dict)  # role -> header
    gradable: frozenset[str] | None = None  # folded cells of the gradable column that mean gradable
    eyes: Mapping[str, str] = field(default_factory=dict)  # folded cell -> left, right
    codes: Mapping[str, int] = field(default_factory=dict)  # cells beside those of the scale -> grade or UNGRADABLE
    blank: str = ""  # "ungradable": what an empty grade means
    scale: str = ""  # the scale that it must be read with, where that is not ICDR
    counts: tuple[int, ...] = ()  # published photographs by grade
    counts_of: str = ""  # of which part, where not of all
    counts_source: str = ""

    def scale_of(self) -> Scale | None:
        """The scale that it is read with, None for ICDR."""
        return open_scale(self.scale) if self.scale else None

    def describes(self, table: str, header: Sequence[str]) -> bool:
        """Whether a table of this name and header, or first row, is one of this set's."""
        if not self.headers and not self.tables:
            return False
        by_name = not self.tables or any(fnmatch.fnmatch(table.casefold(), pattern) for pattern in self.tables)
        return by_name and self.headers <= {fold(cell) for cell in header}

    def asked(self, options: Asked) -> Asked:
        """What options say, and where they say nothing what is known."""
        gradable = options.gradable
        if gradable is None and "gradable" not in options.columns:
            gradable = self.gradable
        columns = {**self.columns, **options.columns}
        return replace(options, columns=columns, gradable=gradable, eyes={**self.eyes, **options.eyes})


@cache
def known_sets() -> dict[str, KnownSet]:
    """The sets of known_sets.toml, by name, in its order."""
    tables = tomllib.loads(files("tools.sources").joinpath("known_sets.toml").read_text("utf-8"))
    return {name: _known_set(name, table) for name, table in tables.items()}


def known_set_of(table: str, header: Sequence[str]) -> KnownSet | None:
    """The set whose description fits a table best: the one that asks for most."""
    fitting = [each for each in known_sets().values() if each.describes(table, header)]
    return max(fitting, key=lambda each: (len(each.headers), len(each.tables) > 0), default=None)


def read_description(path: Path) -> KnownSet:
    """A user's own description of a set: a TOML file with the keys of an entry of known_sets.toml.

    Raises SourceError for what is none.
    """
    try:
        return _known_set(path.stem, tomllib.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{path}: not a description of a data set ({error}); see docs/datasets.md") from error


def _known_set(name: str, table: Mapping[str, Any]) -> KnownSet:
    if unknown := table.keys() - _KEYS:
        raise ValueError(f"no key is called {min(unknown)}")
    columns = dict(table.get("columns", {}))
    if wrong := columns.keys() - ROLES.keys():
        raise ValueError(f"columns: {min(wrong)} is none of {', '.join(ROLES)}")
    counts = tuple(table.get("counts", ()))
    if len(counts) not in (0, N_GRADES):
        raise ValueError("counts needs five numbers")
    texts = ("home", "lies", "command", "patients", "wrong", "blank", "scale", "counts_of", "counts_source")
    return KnownSet(
        name,
        str(table.get("title", name)),
        headers=frozenset(map(fold, table.get("headers", ()))),
        tables=tuple(pattern.casefold() for pattern in table.get("tables", ())),
        columns=columns,
        gradable=frozenset(fold(str(cell)) for cell in table["gradable"]) if "gradable" in table else None,
        eyes={fold(str(cell)): eye for cell, eye in table.get("eyes", {}).items()},
        codes={fold(str(cell)): parse_code(grade) for cell, grade in table.get("codes", {}).items()},
        counts=counts,
        **{key: str(table[key]) for key in texts if key in table},
    )
