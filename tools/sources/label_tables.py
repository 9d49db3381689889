"""Tables of grades: the kind of each table, and what each row says of its photograph."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

from pipeline.errors import SourceError
from pipeline.grades import UNKNOWN
from pipeline.photos.eye_names import EYE_WORDS
from tools.sources.columns import (
    PHOTOGRAPH,
    ColumnOptions,
    Columns,
    eye_in_name,
    find_columns,
    fold,
    gradable_cells,
    gradable_key,
    grade_columns,
    patient_cell,
    split_in_name,
    split_word,
)
from tools.sources.known_sets import KnownSet, known_set_of, stem_of
from tools.sources.scales import BLANK, ENOUGH_ROWS, ICDR, UNGRADABLE, Scale, parse_words, why_other_scale
from tools.sources.tables import HEADER_ROWS, ROWS_CHECKED, RawTable

NO_COLUMN: Final = -5
"""In place of a grade: the table has no grades, but other columns about photographs."""


class Label(NamedTuple):
    """What a row says of its photograph."""

    grade: int  # 0-4, UNKNOWN (see `error`), UNGRADABLE, BLANK or NO_COLUMN
    error: str = ""  # why there is no grade
    patient: str = ""
    eye: str = ""
    split: str = ""
    kept: tuple[str, ...] = ()


@dataclass
class LabelTable:
    """A table that says something of photographs, grades for the most part."""

    source: str  # as in RawTable
    description: str  # the columns that are read, for messages: "columns image, level"
    columns: Columns
    rows: list[tuple[int, list[str]]]
    scale: Scale
    known: KnownSet | None = None
    gradable: frozenset[str] | None = None  # folded cells that mean gradable
    eyes: dict[str, str] = field(default_factory=dict)  # folded cell -> left, right
    splits: bool = True  # False: the cells of the split column are not splits
    may_grade: bool = False  # no column of grades, but one that may be one
    grades_file: str = ""  # the file with the grades, if it is another one
    notes: list[str] = field(default_factory=list)
    _grades: dict[str, tuple[int, str]] = field(default_factory=dict)  # cell -> grade, error
    _labels: dict[str, Label] = field(default_factory=dict)  # cell -> label, if only the grade is read

    @cached_property
    def name(self) -> str:
        return re.split(r"[/#]", self.source)[-1]

    @cached_property
    def folder(self) -> str:
        """The folder of the table, below SRC; "" for SRC itself. An archive counts as a folder."""
        return self.source.replace("#", "/").rpartition("/")[0]

    @cached_property
    def split(self) -> str:
        """The split in the name of the table, "" for none."""
        return split_in_name(self.name)

    def where(self, number: int) -> str:
        """A row as messages name it: "trainLabels.csv:5"."""
        return f"{self.name}:{number}" + (f", {self.grades_file}:{number}" if self.grades_file else "")

    @cached_property
    def _only_grade(self) -> bool:
        return self.columns.grade is not None and not self.columns.others

    def label(self, cells: list[str]) -> Label:
        """What a row says of its photograph."""
        if not self._only_grade:
            return self._label(cells)
        assert self.columns.grade is not None
        cell = cells[self.columns.grade]
        label = self._labels.get(cell)
        if label is None:
            label = self._labels[cell] = self._label(cells)
        return label

    def _label(self, cells: list[str]) -> Label:
        at = self.columns
        eye = ""
        if at.eye is not None:
            folded = fold(cells[at.eye])
            eye = self.eyes.get(folded) or EYE_WORDS.get(folded, "")
        if at.grade is not None:
            grade, error = self._grade(cells[at.grade])
        elif at.has_grade:
            grade, error = self._of_columns(cells, eye)
        else:
            grade, error = NO_COLUMN, ""
        if at.gradable is not None and self.gradable is not None:
            quality = gradable_key(cells[at.gradable])
            if quality and quality not in self.gradable:
                grade, error = UNGRADABLE, ""
        if grade == BLANK and self.known and self.known.blank == "ungradable":
            grade, error = UNGRADABLE, ""
        return Label(
            grade,
            error,
            patient_cell(cells[at.patient]) if at.patient is not None else "",
            eye,
            (split_word(cells[at.split]) or "") if at.split is not None and self.splits else "",
            tuple("" if each is None else cells[each] for each in at.keep),
        )

    def _grade(self, cell: str) -> tuple[int, str]:
        parsed = self._grades.get(cell)
        if parsed is None:
            parsed = self._grades[cell] = self._parsed(cell)
        return parsed

    def _parsed(self, cell: str) -> tuple[int, str]:
        if not cell or cell.casefold() in ("nan", "na", "n/a", "none", "null"):
            return BLANK, "the grade is empty"
        if self.known and (code := self.known.codes.get(fold(cell).removesuffix(" 0"))) is not None:
            return code, f"{cell!r} is no grade here, and no other table has one" if code == BLANK else ""
        try:
            return self.scale.parse(cell), ""
        except ValueError as error:
            return UNKNOWN, str(error)

    def _of_columns(self, cells: list[str], eye: str) -> tuple[int, str]:
        """(grade, error) of a table with a column for each eye, or a column for each grade."""
        if self.columns.of_eye is not None:
            filled = {each: cells[at] for each, at in self.columns.of_eye.items() if cells[at]}
            eye = eye or eye_in_name(cells[self.columns.photograph])
            alone = len(filled) == 1 and (not eye or (self.known is not None and self.known.other_eye))
            if alone:
                return self._grade(*filled.values())
            if eye:
                return self._grade(filled.get(eye, ""))
            same = set(filled.values())
            if not same:
                return BLANK, "the grade is empty"
            return self._grade(*same) if len(same) == 1 else (UNKNOWN, "which eye it shows is not known")
        assert self.columns.one_hot is not None
        marked = [
            grade for grade, at in enumerate(self.columns.one_hot) if fold(cells[at]) in ("1", "1 0", "true", "x")
        ]
        if len(marked) == 1:
            return marked[0], ""
        return (BLANK, "the grade is empty") if not marked else (UNKNOWN, f"several grades are marked: {marked}")


class PairTable(NamedTuple):
    """A table whose rows name the two photographs of a patient, such as Messidor-2's."""

    source: str
    pairs: list[tuple[int, str, str]]  # (line, left, right)


class UnreadTable(NamedTuple):
    """A table that is not read, and why."""

    source: str
    reason: str
    may_grade: bool = False  # it names photographs and has a column that may be grades


def read_label_table(
    raw: RawTable,
    options: ColumnOptions,
    scale: Scale | None,
    layout: KnownSet | None,
    is_photograph: Callable[[str], bool],
) -> LabelTable | PairTable | UnreadTable:
    """Reads a table according to its kind.

    scale, layout: those that the user gave; None: ICDR, and the known sets.
    is_photograph: whether a name is that of a photograph.
    Raises SourceError if the table can be read in two ways, or if a row has too few or too many cells.
    """
    if not raw.rows:
        return UnreadTable(raw.source, "an empty table")
    wanted = {fold(name) for role, name in options.columns.items() if role == "photograph"}
    tried: list[tuple[int, Columns, KnownSet | None, ColumnOptions]] = []
    for position, (_, header) in enumerate(raw.rows[:HEADER_ROWS]):
        if len(header) < 2 or not wanted <= {fold(cell) for cell in header}:
            continue
        known = layout or known_set_of(raw.name, raw.rows[position:])
        if known and not known.graded:
            return _of_ungraded_set(raw.source, known, options)
        merged = known.column_options(options) if known else options
        below = raw.rows[position + 1 : position + ROWS_CHECKED]

        def names(at: int, below: list[tuple[int, list[str]]] = below) -> bool:
            return any(len(cells) > at and is_photograph(cells[at]) for _, cells in below)

        columns = find_columns(header, merged, names)
        if columns is not None:
            tried.append((position, columns, known, merged))
    graded = [each for each in tried if each[1].has_grade]
    informative = [each for each in tried if not graded and each[1].has_information]
    if graded or informative:
        if raw.broken:
            raise SourceError(raw.broken)
        position, columns, known, merged = (graded or informative)[0]
        _check_photographs(raw, position, columns, merged, is_photograph)
        return _label_table(raw, position, columns, known, merged, scale, is_photograph)
    if raw.broken:
        return UnreadTable(raw.source, raw.broken.removeprefix(f"{raw.source}:"))
    if (pairs := _pairs(raw)) is not None:
        return pairs
    if not options.columns and (bare := _without_header(raw, scale, layout)) is not None:
        return bare
    may_grade = _may_have_grades(raw, is_photograph)
    if tried:
        why = f"names photographs and has no column of grades ({raw.start()}); --grade-column names one"
    else:
        why = f"no columns for photograph and grade ({raw.start()}); --id-column and --grade-column name them"
    return UnreadTable(raw.source, why, may_grade)


def _may_have_grades(raw: RawTable, is_photograph: Callable[[str], bool], understood: Sequence[int] = ()) -> bool:
    """Whether a table names photographs and has a column that may be grades, whatever its header.

    Such a column has three to ten different cells, all like steps of a scale. The columns `understood` do not count.
    """
    rows = [cells for _, cells in raw.rows[1:ROWS_CHECKED]]
    if not rows:
        return False
    numbers = [at for at in range(len(raw.rows[0][1])) if at not in understood]
    columns = [[cells[at] for cells in rows if len(cells) > at] for at in numbers]
    names = any(sum(map(is_photograph, column)) * 2 >= len(rows) for column in columns)
    return names and any(3 <= len(cells := {*column} - {""}) <= 10 and all(map(_is_step, cells)) for column in columns)


def _is_step(cell: str) -> bool:
    """Whether a cell may be a step of a scale: a digit, a letter, a word of ICDR, R1, "Stage 2"."""
    return re.fullmatch(r"[^\W\d]*[\s_-]*\d(\.0)?|[A-Za-z]", cell.strip()) is not None or _is_word(cell)


def _is_word(cell: str) -> bool:
    try:
        parse_words(cell)
    except ValueError:
        return False
    return True


def _check_photographs(
    raw: RawTable, position: int, columns: Columns, options: ColumnOptions, is_photograph: Callable[[str], bool]
) -> None:
    """Raises SourceError if two columns name photographs and differ."""
    if "photograph" in options.columns:
        return
    header = raw.rows[position][1]
    for at, name in enumerate(header):
        if at == columns.photograph or fold(name) not in PHOTOGRAPH:
            continue
        for line, cells in raw.rows[position + 1 : position + ROWS_CHECKED]:
            if len(cells) <= max(at, columns.photograph):
                continue
            one, other = cells[columns.photograph], cells[at]
            if not (one and other and is_photograph(one) and is_photograph(other)):
                continue
            if stem_of(one).casefold() != stem_of(other).casefold():
                raise SourceError(
                    f"{raw.source}:{line}: columns {header[columns.photograph]} ({one}) and {name} ({other}) may "
                    "both name the photograph; choose with --id-column"
                )


def _of_ungraded_set(source: str, known: KnownSet, options: ColumnOptions) -> UnreadTable:
    """A table of a set without grades. Raises SourceError if the user names a column of grades in it."""
    why = f"is of {known.title}, which has no grades of diabetic retinopathy"
    if "grade" in options.columns:
        raise SourceError(f"{source}: {why}; its column {options.columns['grade']} says something else")
    return UnreadTable(source, why, True)


def _label_table(
    raw: RawTable,
    position: int,
    columns: Columns,
    known: KnownSet | None,
    options: ColumnOptions,
    scale: Scale | None,
    is_photograph: Callable[[str], bool],
) -> LabelTable | UnreadTable:
    header_line, header = raw.rows[position]
    rows, width, last = raw.rows[position + 1 :], len(header), columns.last
    for number, cells in rows:
        if len(cells) <= last or (len(cells) > width and any(cells[width:])):
            if len(cells) <= last and len(cells) >= min(width, 2) and not any(cells[columns.photograph + 1 :]):
                cells.extend([""] * (last + 1 - len(cells)))
                continue
            raise SourceError(
                f"{raw.source}:{number}: expected {width} cells as in line {header_line}, found {len(cells)}"
            )
    if known:
        known.check_scale(f"{raw.source}: grades", scale)
    used = scale or ICDR
    if "grade" not in options.columns and columns.grade is not None:
        _check_rivals(raw.source, header, rows, columns.grade)
    _check_doubled(raw, position, columns)
    description = f"columns {header[columns.photograph]}, {_grade_headers(header, columns)}"
    table = LabelTable(raw.source, description, columns, rows, used, known, eyes=dict(options.eyes))
    if known:
        table.notes.append(f"{table.name}: read as {known.title}")
    return _checked(table, header, options, scale, is_photograph)


def _checked(
    table: LabelTable,
    header: Sequence[str],
    options: ColumnOptions,
    scale: Scale | None,
    is_photograph: Callable[[str], bool],
) -> LabelTable | UnreadTable:
    """The table after a check of its cells. Raises SourceError if they may not mean what the header says."""
    at, rows = table.columns, table.rows
    if at.grade is not None and rows:
        if why := _why_no_grades(table, header[at.grade], [cells[at.grade] for _, cells in rows], options, scale):
            return UnreadTable(table.source, why, True)
    elif not at.has_grade:
        raw = RawTable(table.source, [(0, list(header)), *rows])
        table.may_grade = _may_have_grades(raw, is_photograph, at.others)
    if at.gradable is not None:
        cells_of = (cells[at.gradable] for _, cells in rows)
        table.gradable = gradable_cells(header[at.gradable], cells_of, options, table.source)
    if at.split is not None:
        strange = sorted({cells[at.split] for _, cells in rows if split_word(cells[at.split]) is None})
        if strange and "split" in options.columns:
            raise SourceError(f"{table.source}: column {header[at.split]} has {strange[0]!r}, which is no split")
        if strange:
            table.splits = False
            table.notes.append(f"{table.name}: column {header[at.split]} has no splits ({', '.join(strange[:4])})")
    if at.eye is not None:
        read = table.eyes.keys() | EYE_WORDS.keys() | {""}
        strange = sorted({fold(cells[at.eye]) for _, cells in rows} - read)
        if strange and "eye" in options.columns:
            raise SourceError(
                f"{table.source}: column {header[at.eye]} has {strange[0]!r}, which is neither left nor right; "
                "`eyes` in a file for --layout says what it means"
            )
        if strange:
            table.notes.append(f"{table.name}: column {header[at.eye]} has no eyes ({', '.join(strange[:4])})")
    return table


def _why_no_grades(
    table: LabelTable, name: str, written: Sequence[str], options: ColumnOptions, scale: Scale | None
) -> str:
    """Why the cells of the column `name` are no grades, "" if they are.

    Raises SourceError if they are grades of another scale, or may be something else.
    """
    texts = set(written)
    standard = scale is None and table.known is None
    if standard and (why := why_other_scale(written)):
        raise SourceError(f"{table.source}: column {name}: {why}")
    if all(table._grade(text)[0] in (UNKNOWN, BLANK) for text in texts):
        shown = ", ".join(sorted(texts)[:5])
        return f"has no grades of {table.scale.name} in its column {name} ({shown}); --scale FILE says what they mean"
    binary = {"0", "1"} == {text.removesuffix(".0") for text in texts if text} and len(written) >= ENOUGH_ROWS
    if standard and binary and "grade" not in options.columns:
        raise SourceError(
            f"{table.source}: column {name} has only 0 and 1: grades of ICDR, or 'has no DR, has DR'; if they are "
            f"grades, say so: --grade-column '{name}'"
        )
    return ""


def _check_doubled(raw: RawTable, position: int, columns: Columns) -> None:
    """Raises SourceError if a column that is read stands in the table twice, with different cells."""
    header_line, header = raw.rows[position]
    folded = [fold(cell) for cell in header]
    used = [columns.photograph, columns.grade, columns.patient, columns.eye, columns.split, columns.gradable]
    for at in used:
        if at is None:
            continue
        for other in range(at + 1, len(folded)):
            if folded[other] != folded[at]:
                continue
            for line, cells in raw.rows[position + 1 :]:
                if len(cells) > other and cells[at] != cells[other]:
                    raise SourceError(
                        f"{raw.source}:{line}: two columns are called {header[at]}, and one says {cells[at]!r}, the "
                        f"other {cells[other]!r}; give them names of their own in line {header_line}"
                    )


def _check_rivals(source: str, header: Sequence[str], rows: list[tuple[int, list[str]]], grade: int) -> None:
    """Raises SourceError if two usual columns of grades contradict each other."""
    for rival in grade_columns(header):
        if rival == grade:
            continue
        for number, cells in rows:
            if len(cells) > max(rival, grade) and cells[rival] != cells[grade]:
                raise SourceError(
                    f"{source}:{number}: columns {header[grade]} ({cells[grade]}) and {header[rival]} ({cells[rival]}) "
                    f"may both be the grade; choose with --grade-column"
                )


def _grade_headers(header: Sequence[str], columns: Columns) -> str:
    """The headers of the columns of grades; without any, those of the other columns."""
    if columns.grade is not None:
        return header[columns.grade]
    if not columns.has_grade:
        return ", ".join(header[at] for at in columns.others)
    return ", ".join(header[at] for at in (*(columns.of_eye or {}).values(), *(columns.one_hot or ())))


def _without_header(raw: RawTable, scale: Scale | None, layout: KnownSet | None) -> LabelTable | None:
    """A table without header whose rows have two cells, photograph and grade; None if it is none."""
    if any(len(cells) != 2 for _, cells in raw.rows):
        return None
    known = layout or known_set_of(raw.name, raw.rows)
    table = LabelTable(raw.source, "no header, photograph and grade", Columns(0, 1), raw.rows, scale or ICDR, known)
    if known:
        table.notes.append(f"{table.name}: read as {known.title}")
    cells = {row[1] for _, row in raw.rows}
    readable = {cell for cell in cells if not table._grade(cell)[1]}
    return table if raw.rows[0][1][1] in readable and len(readable) * 2 > len(cells) else None


def _pairs(raw: RawTable) -> PairTable | None:
    """A table of pairs of photographs, None if it is none."""
    first = [fold(cell) for cell in raw.rows[0][1]]
    if first[:2] not in (["left", "right"], ["left eye", "right eye"]) or len(first) > 2:
        return None
    pairs = [(number, cells[0], cells[1]) for number, cells in raw.rows[1:] if len(cells) == 2]
    return PairTable(raw.source, pairs)
