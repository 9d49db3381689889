"""What the columns of a table mean (photograph, grade, patient, eye, split, gradable), and how their cells are read."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pipeline.errors import SourceError
from pipeline.photos.eye_names import EYE_WORDS
from tools.sources.scales import parse_words

PHOTOGRAPH: Final = (
    "image", "id code", "image path", "img path", "image name", "image id", "imageid", "imagename", "filename",
    "file name", "filepath", "file path", "path", "file", "fundus images", "fundus image", "fundus", "photograph",
    "photo", "picture", "img", "image file", "name", "id",
)  # fmt: skip
ICDR: Final = (
    "icdr", "dr icdr", "final icdr", "icdr grade", "icdr level",
    "dr grade(international clinical dr severity scale)",
)  # fmt: skip
GRADE: Final = (
    "level", "diagnosis", "retinopathy grade", "dr grade", "dr level", "dr levels", "uwf dr levels",
    "adjudicated dr grade", "dr severity", "retinopathy", "grade", "label", "class", "severity",
)  # fmt: skip
PATIENT: Final = ("patient", "patient id", "patientid", "patient code", "subject", "subject id", "subjectid", "pid")
EYE: Final = ("eye", "laterality", "exam eye", "eye side", "side", "left/right", "left right eye")
SPLIT: Final = ("split", "usage", "set", "subset", "partition", "dataset split", "data split")
GRADABLE: Final = ("gradable", "adjudicated gradable", "is gradable", "gradeable", "gradability")
UNGRADABLES: Final = ("ungradable", "is ungradable", "ungradeable")
QUALITY: Final = ("quality", "image quality", "overall quality", "final quality", "photo quality")

ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "photograph": PHOTOGRAPH, "grade": (*ICDR, *GRADE), "patient": PATIENT, "eye": EYE, "split": SPLIT,
    "gradable": (*GRADABLE, *UNGRADABLES, *QUALITY),
}  # fmt: skip
"""Role -> its usual headers, folded, the clearest first."""

SPLIT_WORDS: Final = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "evaluation": "test", "public": "test", "private": "test",
}  # fmt: skip
NO_PATIENT: Final = frozenset({"", "unknown", "na", "n/a", "nan", "none", "null", "-", "?", "unbekannt"})
"""Cells, folded, that name no patient."""
GOOD: Final = frozenset({"adequate", "good", "usable", "gradable", "gradeable", "yes", "true", "acceptable", "ok"})
BAD: Final = frozenset({"inadequate", "reject", "bad", "ungradable", "ungradeable", "no", "false", "poor", "unusable"})
_OF_AN_EYE: Final = re.compile(r"(left|right|l|r|os|od|le|re)( eye)?( dr| icdr| retinopathy)? ?(level|grade|icdr|dr)")


class Columns(NamedTuple):
    """The position of each role's column in a header; None: the table has no such column."""

    photograph: int
    grade: int | None = None
    of_eye: Mapping[str, int] | None = None  # "left", "right" -> column of that eye's grade
    one_hot: tuple[int, ...] | None = None  # a column a grade, 0 to 4
    patient: int | None = None
    eye: int | None = None
    split: int | None = None
    gradable: int | None = None
    keep: tuple[int | None, ...] = ()  # of the columns that the user keeps

    @property
    def has_grade(self) -> bool:
        return self.grade is not None or self.of_eye is not None or self.one_hot is not None

    @property
    def has_information(self) -> bool:
        """Whether there is any column besides the photograph's."""
        return self.has_grade or bool(self.others)

    @property
    def others(self) -> list[int]:
        """The columns that are read besides those of the photograph and of grades."""
        at = (self.patient, self.eye, self.split, self.gradable, *self.keep)
        return [each for each in at if each is not None]

    @property
    def last(self) -> int:
        """The last column that is read."""
        grades = [] if self.grade is None else [self.grade]
        return max([self.photograph, *grades, *(self.of_eye or {}).values(), *(self.one_hot or ()), *self.others])


@dataclass(frozen=True)
class ColumnOptions:
    """How to read the columns of a table, from the user's options or the description of a known set."""

    columns: Mapping[str, str] = field(default_factory=dict)  # role -> header
    gradable: frozenset[str] | None = None  # folded cells of the gradable column that mean gradable
    eyes: Mapping[str, str] = field(default_factory=dict)  # folded cell -> "left" or "right"
    keep: tuple[str, ...] = ()


def fold(text: str) -> str:
    """The form of a header or a cell that is compared: in lower case, with spaces for `_`, `-` and `.`.

    >>> fold(" Image_name ")
    'image name'
    """
    return " ".join(re.sub(r"[\s_\-.]+", " ", text).casefold().split())


def find_columns(
    header: Sequence[str], options: ColumnOptions, names_photographs: Callable[[int], bool] = lambda at: True
) -> Columns | None:
    """The columns of a header; None if it has no column for the photograph.

    names_photographs: whether the column at a position names photographs; the first usual header whose column does is
    taken.
    """
    folded = [fold(cell) for cell in header]

    def named(role: str) -> int | None:
        if role not in options.columns:
            return None
        wanted = fold(options.columns[role])
        return folded.index(wanted) if wanted in folded else None

    def usual(role: str) -> list[int]:
        return [folded.index(name) for name in ROLES[role] if name in folded]

    def one(role: str) -> int | None:
        if role in options.columns:
            return named(role)
        return next(iter(usual(role)), None)

    if "photograph" in options.columns:
        photograph = named("photograph")
    else:
        candidates = usual("photograph")
        photograph = next((at for at in candidates if names_photographs(at)), next(iter(candidates), None))
    if photograph is None:
        return None
    keep = tuple(folded.index(fold(name)) if fold(name) in folded else None for name in options.keep)
    others = {role: one(role) for role in ("patient", "eye", "split", "gradable")}
    grade = one("grade")
    of_eye = one_hot = None
    if grade is None and "grade" not in options.columns:
        by_eye = {EYE_WORDS[m[1]]: at for at, name in enumerate(folded) if (m := _OF_AN_EYE.fullmatch(name))}
        of_eye = by_eye if len(by_eye) == 2 else None
        one_hot = _one_hot(header) if of_eye is None else None
    return Columns(photograph, grade, of_eye, one_hot, **others, keep=keep)


def grade_columns(header: Sequence[str]) -> list[int]:
    """Every column with a usual header for grades; if one names ICDR, only that one."""
    folded = [fold(cell) for cell in header]
    sure = [folded.index(name) for name in ICDR if name in folded]
    return sure[:1] or [folded.index(name) for name in GRADE if name in folded]


def split_word(cell: str) -> str | None:
    """The split that a cell names, "" for an empty cell, None if it names no split."""
    folded = fold(cell)
    return SPLIT_WORDS.get(folded) if folded else ""


def split_in_name(name: str) -> str:
    """The split in the name of a folder or a file, "" if it names none or several.

    >>> split_in_name("a. Training Set"), split_in_name("trainLabels.csv"), split_in_name("train-test")
    ('train', 'train', '')
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # trainLabels
    words = (word for word in re.split(r"[^a-z]+", apart.casefold()) if word)
    splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS and word not in ("public", "private", "dev")}
    return splits.pop() if len(splits) == 1 else ""


def eye_in_name(name: str) -> str:
    """The eye in a photograph's name, "left" or "right"; "" if it names none.

    >>> eye_in_name("1/1_l1.jpg"), eye_in_name("17_right")
    ('left', 'right')
    """
    stem = re.split(r"[/\\]", name)[-1].rpartition(".")[0] or name
    match = re.search(r"(?:^|[_\-\s])(left|right|od|os|l|r)\d*(?:$|[_\-\s])", stem.casefold())
    return EYE_WORDS[match[1]] if match else ""


def patient_cell(cell: str) -> str:
    """The patient in a cell, "" if it names none. 12.0 becomes 12: pandas writes a column with blanks so.

    >>> patient_cell("12.0"), patient_cell("n/a")
    ('12', '')
    """
    if fold(cell) in NO_PATIENT or cell.casefold() in NO_PATIENT:
        return ""
    return re.sub(r"^(\d+)\.0+$", r"\1", cell)


def gradable_key(cell: str) -> str:
    """The form of a gradable column's cell that is compared: folded, and 0.0 is 0."""
    return re.sub(r"^(\d+) 0+$", r"\1", fold(cell))


def gradable_cells(header: str, cells: Iterable[str], options: ColumnOptions, source: str) -> frozenset[str]:
    """The folded cells of a gradable column that mean "gradable". An empty cell says nothing.

    Raises SourceError if it is not known which cells mean that.
    """
    written = {gradable_key(cell) for cell in cells} - {""}
    if options.gradable is not None:
        if written and not written & options.gradable:
            raise SourceError(
                f"{source}: no cell of column {header} says {' or '.join(sorted(options.gradable))}; it has "
                f"{', '.join(sorted(written)[:6])}"
            )
        return options.gradable
    if fold(header) in UNGRADABLES and written <= {"0", "1", "yes", "no", "true", "false"}:
        return frozenset({"0", "no", "false"})
    if written <= GOOD | BAD:
        return GOOD
    if fold(header) in GRADABLE and written <= {"0", "1"}:
        return frozenset({"1"})
    shown = ", ".join(sorted(written)[:6])
    first = sorted(written)[0]
    raise SourceError(
        f"{source}: column {header} says which photographs can be graded, but not which of {shown} means it (0 is "
        f"good in one data set, 1 in another); name these cells: --gradable-column '{header}={first},...'"
    )


def _one_hot(header: Sequence[str]) -> tuple[int, ...] | None:
    at: dict[int, int] = {}
    for number, cell in enumerate(header):
        try:
            at.setdefault(parse_words(cell), number)
        except ValueError:
            continue
    return tuple(at[grade] for grade in range(5)) if all(grade in at for grade in range(5)) else None
