"""Reads grades as people write them: digits, words, and codes of other scales than ICDR."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from pipeline.errors import SourceError
from pipeline.grades import N_GRADES, parse_grade

UNGRADABLE: Final = -2
"""In place of a grade: a grader found the photograph ungradable. pipeline.grades.UNKNOWN: nobody has graded it."""
BLANK: Final = -3
"""In place of a grade: the cell is empty; another table may have the grade."""

_NUMBERED: Final = re.compile(r"\s*(?:grade|class|level|stage|icdr)[\s_-]*([0-4])\s*", re.IGNORECASE | re.ASCII)
_NUMBER_FIRST: Final = re.compile(r"(?:grade|class|level|stage)?([0-4])")
_KIND: Final = r"(npdr|dr|nonproliferative(dr|diabeticretinopathy)?|diabeticretinopathy|retinopathy)?"
_WORDS: Final = tuple(
    re.compile(words)
    for words in (
        r"a?no(diabeticretinopathy|retinopathy|drsigns|dr)|normal|noapparent(diabetic)?(retinopathy|dr)",
        rf"b?mild{_KIND}",
        rf"c?moderate{_KIND}",
        rf"d?severe{_KIND}",
        r"e?proliferat(iv)?e(dr|diabeticretinopathy|retinopathy)?|e?prodr|pdr",
    )
)
"""Patterns for a cell's letters, by grade. RETFound puts a to e before its words to sort them."""
_DIGIT: Final = re.compile(r"\s*[^\W\d]*[\s_-]*([0-9])(?:\.0*)?\s*", re.ASCII)
ENOUGH_ROWS: Final = 30
"""Least number of rows: with fewer, a missing grade does not mean another scale."""
_R_CODE: Final = re.compile(r"\s*[Rr][0-6][ASas]?(\s*[Mm][0-2])?\s*")


@dataclass(frozen=True)
class Scale:
    """A scale of diabetic retinopathy, and the ICDR grade of each of its steps."""

    name: str
    title: str = ""
    source: str = ""
    steps: str = ""
    exact: bool = True  # False: its steps are not those of ICDR, so metrics of five grades carry a warning
    codes: Mapping[str, int] = field(default_factory=dict)  # folded text -> grade; empty: ICDR itself

    def parse(self, text: str) -> int:
        """The ICDR grade of a step, 0-4, or UNGRADABLE. Raises ValueError if the text is no step of this scale."""
        if not self.codes:
            return parse_words(text)
        folded = _folded(text)
        number = folded.removesuffix(".0")
        if number not in self.codes:
            raise ValueError(f"grade {text!r} is no step of the scale {self.name}" if folded else "the grade is empty")
        return self.codes[number]


ICDR: Final = Scale("icdr", "International Clinical Diabetic Retinopathy scale", exact=True)


def parse_words(text: str) -> int:
    """The ICDR grade, 0-4, of a digit or the usual words; UNGRADABLE for that word.

    A number and a word in one cell must agree. Raises ValueError for any other text.

    >>> parse_words("No_DR"), parse_words("3 - Severe NPDR"), parse_words("eproliferativedr")
    (0, 3, 4)
    """
    try:
        return parse_grade(text)
    except ValueError:
        plain = re.sub(r"[^a-z0-9]", "", text.casefold())
        if plain in ("ungradable", "ungradeable"):
            return UNGRADABLE
        if named := _NUMBERED.fullmatch(text):
            return int(named[1])
        number = _NUMBER_FIRST.match(plain)
        rest = plain[number.end() :] if number else plain
        for grade, words in enumerate(_WORDS):
            if words.fullmatch(rest):
                if number and int(number[1]) != grade:
                    break
                return grade
        raise


def open_scale(name: str) -> Scale:
    """A known scale by its name, or a scale from a TOML file with the keys of scales.toml.

    Raises SourceError if there is no such scale or file, or if the file has no scale.
    """
    if name == ICDR.name:
        return ICDR
    known = known_scales()
    if name in known:
        return known[name]
    path = Path(name)
    if not path.is_file():
        raise SourceError(f"{name}: no scale; choose {', '.join([ICDR.name, *known])}, or a TOML file")
    try:
        return _scale(path.stem, tomllib.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"{path}: not a scale: it needs codes = {{ step = grade }}, grades 0-4 or 'ungradable' ({error})"
        ) from error


@cache
def known_scales() -> dict[str, Scale]:
    """The known scales besides ICDR, by name."""
    tables = tomllib.loads(files("tools.sources").joinpath("scales.toml").read_text("utf-8"))
    return {name: _scale(name, table) for name, table in tables.items()}


def why_other_scale(texts: Sequence[str]) -> str | None:
    """Why these grades, one text a row, may be of another scale than ICDR; None if nothing suggests it."""
    written = {text for text in texts if text.strip()}
    if written and all(_R_CODE.fullmatch(text) for text in written):
        return (
            "the grades are R0, R1 ...: in Scotland R3 is severe background retinopathy, in England proliferative; "
            "say which with --scale scottish or --scale nhs"
        )
    matches = [_DIGIT.fullmatch(text) for text in written]
    digits = {match[1] for match in matches if match is not None}
    if "0" in digits or None in matches:
        return None
    if {"1", "5"} <= digits <= set("12345"):
        return "the grades run from 1 to 5, those of ICDR from 0 to 4; say what they mean with --scale FILE"
    if digits == set("1234") and len(texts) >= ENOUGH_ROWS:
        return (
            "the grades are 1 to 4, without a 0: of ICDR without healthy eyes, or of another scale; --scale icdr says "
            "that they are ICDR, --scale FILE what else they mean"
        )
    return None


def _scale(name: str, table: Mapping[str, Any]) -> Scale:
    codes = {_folded(str(step)): parse_code(grade) for step, grade in table["codes"].items()}
    if not codes or not isinstance(table.get("exact", False), bool):
        raise ValueError("codes must not be empty, exact is true or false")
    title, source, steps = (str(table.get(key, "")) for key in ("title", "source", "steps"))
    return Scale(name, title, source, steps, table.get("exact", False), codes)


def parse_code(value: object) -> int:
    """The grade of a code in a TOML file: 0-4, or UNGRADABLE. Raises ValueError for any other value."""
    if value == "ungradable":
        return UNGRADABLE
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < N_GRADES:
        return value
    raise ValueError(f"{value!r} is no grade")


def _folded(text: str) -> str:
    return " ".join(re.sub(r"[_\-]", " ", text.casefold()).split())
