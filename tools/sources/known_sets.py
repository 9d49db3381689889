"""The known public data sets, and descriptions of data sets that users write."""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from pipeline.errors import SourceError
from pipeline.grades import N_GRADES
from pipeline.photos.discovery import split_suffix
from tools.sources.columns import ROLES, ColumnOptions, fold, gradable_key
from tools.sources.scales import BLANK, Scale, open_scale, parse_code
from tools.sources.tables import ROWS_CHECKED

_KINDS: Final[Mapping[str, tuple[type, str]]] = {
    **dict.fromkeys(
        ("title", "home", "lies", "command", "patients", "wrong", "checked", "photographs", "blank", "scale",
         "counts_of", "counts_source"),
        (str, "a text"),
    ),
    **dict.fromkeys(("headers", "tables", "folders", "gradable", "counts"), (list, "a list")),
    **dict.fromkeys(("columns", "eyes", "codes"), (dict, "a table { ... }")),
    "rows": (int, "a number"),
    **dict.fromkeys(("graded", "other_eye"), (bool, "true or false")),
}  # fmt: skip
"""Key of a description -> (type of its value, the type in words)."""

Rows = Sequence[tuple[int, list[str]]]  # (line, cells), the header first


@dataclass(frozen=True)
class KnownSet:
    """The description of a data set. The texts are for `tools datasets`; the rest says how to recognise and read it."""

    name: str
    title: str
    home: str = ""
    lies: str = ""  # how its files must lie below SRC
    command: str = "tools preprocess SRC"
    patients: str = ""  # where patients, eyes and splits come from
    wrong: str = ""  # what is known to be wrong with it
    checked: str = ""  # what was compared with its real files, and what was not
    headers: tuple[str, ...] = ()  # of one of its tables; it must have all of them
    tables: tuple[str, ...] = ()  # glob patterns of the names of its tables
    photographs: re.Pattern[str] | None = None  # for the names of its photographs, without suffix
    rows: int = 0  # the least number in one of its tables
    folders: tuple[str, ...] = ()  # names of its folders; it must have all of them
    graded: bool = True  # False: nothing in it is a grade of diabetic retinopathy
    other_eye: bool = False  # the grade may stand only in the column of the other eye
    columns: Mapping[str, str] = field(default_factory=dict)  # role -> header
    gradable: frozenset[str] | None = None  # folded cells of the gradable column that mean gradable
    eyes: Mapping[str, str] = field(default_factory=dict)  # folded cell -> left, right
    codes: Mapping[str, int] = field(default_factory=dict)  # cell -> grade, UNGRADABLE or BLANK, beside the scale
    blank: str = ""  # "ungradable": what an empty grade means
    scale: str = ""  # the scale of its grades; "": ICDR
    counts: tuple[int, ...] = ()  # published photographs by grade
    counts_of: str = ""  # glob pattern of the tables that `counts` is about; "": all
    counts_source: str = ""

    def scale_of(self) -> Scale | None:
        """The scale of its grades, None for ICDR."""
        return open_scale(self.scale) if self.scale else None

    def check_scale(self, where: str, scale: Scale | None) -> None:
        """Raises SourceError if the grades, in `where`, need a scale that the user has not named."""
        if self.scale and scale is None:
            raise SourceError(
                f"{where} of {self.title}, whose scale is not ICDR; --scale {self.scale} reads them as they are"
            )

    def describes(self, table: str, rows: Rows) -> bool:
        """Whether a table with this name and these rows, the header first, belongs to this set."""
        if not (self.headers or self.tables) or len(rows) < self.rows:
            return False
        by_name = not self.tables or _fits(table, self.tables)
        header = _folded(rows[0][1]) if rows else set()
        return by_name and _folded(self.headers) <= header and self._names_its_photographs(rows[1:ROWS_CHECKED] or rows)

    def _names_its_photographs(self, rows: Rows) -> bool:
        if self.photographs is None:
            return True
        names = self.photographs.fullmatch
        columns = zip(*(cells for _, cells in rows), strict=False)
        return any(all(names(stem_of(cell)) for cell in column) for column in columns)

    def column_options(self, options: ColumnOptions) -> ColumnOptions:
        """The column options of the user; what they leave open is filled from the description."""
        gradable = options.gradable
        if gradable is None and "gradable" not in options.columns:
            gradable = self.gradable
        columns = {**self.columns, **options.columns}
        return replace(options, columns=columns, gradable=gradable, eyes={**self.eyes, **options.eyes})

    def counts_table(self, table: str) -> bool:
        """Whether `counts` includes the photographs of the table with this name."""
        return not self.counts_of or _fits(table, (self.counts_of,))

    def published(self) -> str:
        """The published numbers by grade, in words, with their source."""
        of = f" of {self.counts_of}" if self.counts_of else ""
        source = f" ({self.counts_source})" if self.counts_source else ""
        return f"{sum(self.counts):,}{of}: {by_grade(self.counts)}{source}"


def by_grade(counts: Iterable[int]) -> str:
    """Numbers by grade, 0 to 4, in words.

    >>> by_grade([1805, 370, 999, 193, 295])
    '1,805 / 370 / 999 / 193 / 295'
    """
    return " / ".join(f"{count:,}" for count in counts)


def other_counts(graded: Iterable[tuple[KnownSet, int]]) -> list[str]:
    """A note on each set whose photographs by grade differ from the published numbers.

    graded: (set, grade) of each graded photograph that the published numbers include.
    """
    sets: dict[str, KnownSet] = {}
    counts: dict[str, list[int]] = {}
    for known, grade in graded:
        sets[known.name] = known
        counts.setdefault(known.name, [0] * N_GRADES)[grade] += 1
    return [
        f"{known.title}: {sum(counts[name]):,} graded photographs, by grade {by_grade(counts[name])}; published are "
        f"{known.published()}"
        for name, known in sets.items()
        if tuple(counts[name]) != known.counts
    ]


@cache
def known_sets() -> dict[str, KnownSet]:
    """The sets of known_sets.toml by name, in the order of the file."""
    tables = tomllib.loads(files("tools.sources").joinpath("known_sets.toml").read_text("utf-8"))
    return {name: _known_set(name, table) for name, table in tables.items()}


def known_set_of(table: str, rows: Rows) -> KnownSet | None:
    """The set that a table belongs to, None for none; if several fit, the one with the strictest description."""
    fitting = [each for each in known_sets().values() if each.describes(table, rows)]
    return max(fitting, key=lambda each: (len(each.headers), len(each.tables) > 0), default=None)


def known_set_of_folders(names: Iterable[str]) -> KnownSet | None:
    """The set whose folders have these names, None for none."""
    there = _folded(names)
    return next((each for each in known_sets().values() if each.folders and _folded(each.folders) <= there), None)


def read_description(path: Path) -> KnownSet:
    """The user's description of a data set: a TOML file with the keys of known_sets.toml.

    Raises SourceError with the file and the key if it is not valid.
    """
    try:
        return _known_set(path.stem, tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise SourceError(f"{path}: not a description of a data set: {error}; see docs/datasets.md") from error


def _known_set(name: str, table: Mapping[str, Any]) -> KnownSet:
    """The description in a TOML table. Raises ValueError, which begins with the key, if it is not valid."""
    for key, value in table.items():
        if key not in _KINDS:
            raise ValueError(f"{key}: no such key; there are {', '.join(_KINDS)}")
        kind, in_words = _KINDS[key]
        if not isinstance(value, kind):
            raise ValueError(f"{key}: {value!r} is not {in_words}")
    columns = {str(role): str(header) for role, header in table.get("columns", {}).items()}
    if wrong := columns.keys() - ROLES.keys():
        raise ValueError(f"columns: {min(wrong)} is none of {', '.join(ROLES)}")
    eyes = {fold(str(cell)): str(eye) for cell, eye in table.get("eyes", {}).items()}
    if wrong := set(eyes.values()) - {"left", "right"}:
        raise ValueError(f"eyes: {min(wrong)!r} is neither 'left' nor 'right'")
    if (blank := table.get("blank", "")) not in ("", "ungradable"):
        raise ValueError(f"blank: {blank!r} is not 'ungradable'")
    counts = tuple(table.get("counts", ()))
    if counts and (len(counts) != N_GRADES or not all(isinstance(count, int) for count in counts)):
        raise ValueError(f"counts: {list(counts)} are not five numbers, of the grades 0 to 4")
    described = KnownSet(
        name,
        table.get("title", name),
        headers=tuple(map(str, table.get("headers", ()))),
        tables=tuple(map(str, table.get("tables", ()))),
        photographs=_pattern(table["photographs"]) if "photographs" in table else None,
        folders=tuple(map(str, table.get("folders", ()))),
        columns=columns,
        gradable=frozenset(gradable_key(str(cell)) for cell in table["gradable"]) if "gradable" in table else None,
        eyes=eyes,
        codes={fold(str(cell)): _code(grade) for cell, grade in table.get("codes", {}).items()},
        counts=counts,
        **{key: table[key] for key in _UNCHANGED if key in table},
    )
    try:
        described.scale_of()
    except SourceError as error:
        raise ValueError(f"scale: {error.message}") from error
    return described


_UNCHANGED: Final = (
    "home", "lies", "command", "patients", "wrong", "checked", "rows", "graded", "other_eye", "blank", "scale",
    "counts_of", "counts_source",
)  # fmt: skip


def _folded(texts: Iterable[str]) -> set[str]:
    return {fold(text) for text in texts}


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise ValueError(f"photographs: {text!r} is no regular expression ({error})") from error


def _code(value: object) -> int:
    if value == "blank":
        return BLANK
    try:
        return parse_code(value)
    except ValueError as error:
        raise ValueError(f"codes: {error}; write 0 to 4, 'ungradable' or 'blank'") from error


def _fits(table: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(table.casefold(), pattern.casefold()) for pattern in patterns)


def stem_of(cell: str) -> str:
    """The name of a photograph in a cell, without folders and suffix."""
    return split_suffix(re.split(r"[/\\]", cell)[-1])[0]
