"""Decides the grade, the split and the patient of each photograph from tables, folders and names.

If these contradict each other, or can be read in two ways, the run stops and names both readings. Whatever does not fit
is refused by name or counted, never dropped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.grades import UNKNOWN
from pipeline.photos.dicom import Tags
from pipeline.photos.discovery import Found, Refusal, plain_id, split_suffix
from pipeline.storage.url import Url
from tools.sources import archives
from tools.sources.columns import ColumnOptions, fold, split_in_name
from tools.sources.course import course_tables
from tools.sources.dicom_tags import may_keep, patients_of, tags_of, with_kept
from tools.sources.folders import FolderGrades, folder_of, grade_folders
from tools.sources.inventory import Inventory
from tools.sources.known_sets import KnownSet, known_set_of_folders, other_counts
from tools.sources.label_tables import Label, LabelTable, PairTable, UnreadTable, read_label_table
from tools.sources.listing import ListedSample, Listing
from tools.sources.matching import Matched, Names, match_tables, parts, with_ids
from tools.sources.medmnist import list_medmnist
from tools.sources.patients import with_patients
from tools.sources.pseudonyms import temporary_pseudonym
from tools.sources.same_names import SameNames, resolve_same_names, without_masks
from tools.sources.scales import ICDR, UNGRADABLE, Scale
from tools.sources.set_splits import with_set_splits, with_split_table
from tools.sources.tables import HEADER_ROWS, RawTable


@dataclass(frozen=True)
class SourceOptions:
    """How to read SRC, as the user wants it."""

    labels: Path | Url | None = None  # the only table of grades; None: those below SRC
    columns: ColumnOptions = field(default_factory=ColumnOptions)
    scale: Scale | None = None  # None: ICDR; a table with another scale then stops the run
    layout: str | KnownSet = "auto"  # "auto", "tables", "folders", or a description
    patient_pattern: str | None = None
    split_table: Path | None = None  # a table of photographs and splits
    follow_links: bool = False
    name_patient: Callable[[str], str] = temporary_pseudonym  # patient id of a DICOM file -> id in the cache


class Evidence:
    """What is below SRC, from an inventory to a listing."""

    def __init__(self, root: Path | Url, folder: Path, inventory: Inventory, options: SourceOptions) -> None:
        self.root, self.folder, self.inventory, self.options = root, folder, inventory, options
        self.scale = options.scale or (options.layout.scale_of() if isinstance(options.layout, KnownSet) else None)
        self.notes: list[str] = [
            f"left out: {each.source}, {each.reason} of this program" for each in inventory.own_folders
        ]
        if inventory.left_out:
            self.notes.append(
                f"left out: {inventory.left_out} files that are hidden, half downloaded or of another program"
            )
        self.warnings: list[str] = []
        self.unread = list(inventory.unread)
        self.unread_tables: list[UnreadTable] = []
        self.course_folder: Path | None = None
        self.known_by_folders: KnownSet | None = None
        self.tags: dict[str, Tags] = {}  # of DICOM files

    def listing(self) -> Listing:
        """The listing. Raises SourceError if the evidence can be read in two ways."""
        inventory = self.inventory
        if not inventory.photographs and inventory.medmnist:
            return list_medmnist(self.folder / self._only_medmnist())
        self.tables_read: list[LabelTable] = []
        self.tags = tags_of(self.root, inventory.photographs, self._read)
        not_fundus = [Refusal(source, tags.ignored) for source, tags in self.tags.items() if tags.ignored]
        left_out = {each.source for each in not_fundus}
        photographs = [file for file in inventory.photographs if file.source not in left_out]
        photographs, masks = without_masks(photographs, self._read)
        names = Names(photographs)
        tables, pairs = self.tables(names.has)
        self.tables_read = tables
        folders = self._folder_grades(photographs)
        same = resolve_same_names(names.of_one_stem(), folders.names if folders else [], self._read)
        self.notes += same.notes
        copies = {refusal.source for refusal in same.ignored}
        if copies:
            photographs = [file for file in photographs if file.source not in copies]
            names = Names(photographs)
        grades = folders.grades if folders else {}
        matched = match_tables(names, tables, lambda source: grades.get(folder_of(source)))
        listing = Listing(self.root, "", rows=matched.rows, scale=self.scale or ICDR)
        by_tables, by_folders = self._weigh(photographs, matched, folders)
        listing.layout = self.layout_text(tables if by_tables else [], folders if by_folders else None)
        if not by_tables:
            matched = Matched(without_grade=matched.without_grade, has_splits=matched.has_splits, rows=matched.rows)
        self._collect(listing, photographs, matched, folders if by_folders else None)
        if self.options.split_table is not None:
            listing.samples, notes = with_split_table(listing.samples, names, self.options.split_table)
        else:
            listing.samples, notes = with_set_splits(self.root, listing.samples, matched)
        self.notes += notes
        self._warn_of_shared_patients(matched)
        listing.samples = self._named(listing.samples, same, pairs, names)
        listing.data_set = self._data_set(listing.samples, matched)
        listing.samples = with_kept(listing.samples, self.options.columns.keep, self.tags)
        self.notes += self._other_counts(listing.samples, matched, tables)
        listing.refused = inventory.refused + listing.refused
        listing.ignored += not_fundus + masks + same.ignored
        listing.kept = self.options.columns.keep
        listing.notes, listing.row_notes = self.notes, matched.notes
        listing.warnings, listing.unread = self.warnings, self.unread
        if all(sample.grade == UNKNOWN for sample in listing.samples) and self.unread_tables:
            shown = "; ".join(f"{each.source}: {each.reason}" for each in self.unread_tables[:3])
            self.warnings.append(f"no photograph has a grade, though there are tables: {shown}")
        return listing

    def _only_medmnist(self) -> str:
        name, *others = self.inventory.medmnist
        if others:
            files = ", ".join([name, *others])
            raise SourceError(f"{self.root}: {files} have the same photographs at several sizes; give one")
        return name

    def _read(self, source: str) -> bytes:
        return archives.read_source(self.root, source)

    # --- tables

    def tables(self, is_photograph: Callable[[str], bool]) -> tuple[list[LabelTable], list[PairTable]]:
        """The tables of grades and the tables of pairs. Raises SourceError if one can be read in two ways."""
        if self.options.layout == "folders":
            for raw in self.inventory.tables:
                self.unread.append(Refusal(raw.source, "a table, not read: --layout folders"))
            return [], []
        if self.options.labels is None and (course := course_tables(self.folder)) is not None:
            self.course_folder = course[0]
            return course[1], []
        layout = self.options.layout if isinstance(self.options.layout, KnownSet) else None
        tables: list[LabelTable] = []
        pairs: list[PairTable] = []
        for raw in self.inventory.tables:
            if "submission" in raw.name.casefold() and self.options.labels is None:
                self.unread.append(Refusal(raw.source, "a sample submission, whose grades are made up"))
                continue
            try:
                read = read_label_table(raw, self.options.columns, self.scale, layout, is_photograph)
            except SourceError as error:
                raise SourceError(f"{self._path(raw)}{error.message.removeprefix(raw.source)}") from error
            if isinstance(read, LabelTable):
                if not read.rows:
                    raise SourceError(f"{self._path(raw)}: a header and no rows")
                tables.append(read)
                self.notes += read.notes
            elif isinstance(read, PairTable):
                pairs.append(read)
            else:
                self.unread_tables.append(read)
        self._check_columns(tables)
        if self.options.labels is not None and not tables and self.unread_tables:
            raise SourceError(f"{self.options.labels}: {self.unread_tables[0].reason}")
        self.unread += [Refusal(each.source, each.reason) for each in self.unread_tables]
        return tables, pairs

    def _path(self, raw: RawTable) -> str:
        """The path of a table as the user would write it."""
        return str(self.options.labels or self.root / raw.source)

    def _check_columns(self, tables: Sequence[LabelTable]) -> None:
        """Raises SourceError if an option or a description names a column that no table has."""
        wanted, layout, raws = self.options.columns, self.options.layout, self.inventory.tables
        described = layout.columns.values() if isinstance(layout, KnownSet) else ()
        headers = {fold(cell) for raw in raws for _, row in raw.rows[:HEADER_ROWS] for cell in row}
        for name in [*wanted.columns.values(), *wanted.keep, *described]:
            if fold(name) not in headers and not (self.tags and name in wanted.keep and may_keep(name)):
                line, header = raws[0].rows[0] if raws and raws[0].rows else (1, [])
                where = f"{self._path(raws[0])}:{line}: " if raws else ""
                raise SourceError(f"{where}no column {name!r} among {', '.join(header) or 'none'}")
        if wanted.columns and not tables and self.options.labels is None:
            raise SourceError(
                f"{self.root}: no table has a photograph and grades that can be read in the columns "
                f"{', '.join(wanted.columns.values())}; {self.unread_tables[0].source} {self.unread_tables[0].reason}"
                if self.unread_tables
                else f"{self.root}: no table has the columns {', '.join(wanted.columns.values())}"
            )

    # --- folders

    def _folder_grades(self, photographs: Sequence[Found]) -> FolderGrades | None:
        if self.options.layout == "tables" or self.options.labels is not None or self.course_folder is not None:
            return None
        folders = dict.fromkeys(folder_of(file.source) for file in photographs)
        self.known_by_folders = known = known_set_of_folders(name for folder in folders for name in folder.split("/"))
        if known is not None:
            known.check_scale(f"{self.root}: folders", self.scale)
            self.notes.append(f"folders read as {known.title}")
        grades = grade_folders(folders, self.scale or ICDR, insist=self.options.layout == "folders")
        if grades is None and self.options.layout == "folders":
            raise SourceError(f"{self.root}: --layout folders, but no folders are named by grades")
        return grades

    def _weigh(self, photographs: Sequence[Found], matched: Matched, folders: FolderGrades | None) -> tuple[bool, bool]:
        """(whether tables give the grades, whether folders do).

        If a table names every photograph in the folders of grades, the table counts. If it names some and agrees with
        the folders, both count. Raises SourceError if it names some and contradicts, and if folders are called by
        digits and a table may have other grades.
        """
        if folders is None:
            return True, False
        graded = [file.source for file in photographs if folder_of(file.source) in folders.grades]
        named = [source for source in graded if source in matched.labels]
        refused = {refusal.source for refusal in matched.refused}
        complete = len(named) + sum(source in refused for source in graded) == len(graded)
        insisted = self.options.layout == "folders"
        if folders.only_digits and not complete and not insisted and (rival := self._rival()):
            raise SourceError(
                f"{self.root}: folders {', '.join(folders.names)} may be grades, but {rival}; --layout folders takes "
                "the folders for grades, --layout tables does not"
            )
        if folders.doubt and not complete and not insisted:
            raise SourceError(f"{self.root}: {folders.doubt}")
        if not named and not any(source in refused for source in graded):
            return False, True
        against = [
            source
            for source in named
            if matched.labels[source][1].grade not in (folders.grades[folder_of(source)], UNKNOWN)
        ]
        if not against:
            return True, not complete
        first = against[0]
        where, grade = matched.where(first), _grade(matched.labels[first][1].grade)
        example = f"{first} lies in folder {parts(first)[-2]}, {where} says {grade}"
        if complete:
            self.notes.append(
                f"{len(against)} of {len(graded)} photographs lie in a folder of another grade than their table says "
                f"({example}); the table names every photograph and is taken"
            )
            return True, False
        raise SourceError(
            f"{self.root}: a table names {len(named)} of {len(graded)} photographs in folders of grades, and "
            f"{len(against)} of them contradict it ({example}); choose with --layout tables or --layout folders"
        )

    def _rival(self) -> str:
        """Why folders called by digits may not be grades: a table may have grades. "" if there is no such table."""
        for unread in self.unread_tables:
            if unread.may_grade:
                return f"{unread.source}, which names these photographs, {unread.reason}"
        for table in self.tables_read:
            if table.may_grade:
                return f"{table.source}, which names these photographs, has a column that may be grades"
        return ""

    # --- the listing

    def layout_text(self, tables: Sequence[LabelTable], folders: FolderGrades | None) -> str:
        """The layout in words."""
        texts = []
        if self.course_folder is not None:
            return f"the course's four tables without header in {self.course_folder}"
        if tables:
            names = ", ".join(f"{table.name} ({table.description})" for table in tables)
            texts.append(f"table {names}" if len(tables) == 1 else f"tables {names}")
        if folders is not None:
            texts.append(folders.description())
        why = "no table of grades found; name one with --labels"
        if self.unread_tables:
            why = "no table here could be read as one of grades"
        return " and ".join(texts) or f"photographs without grades ({why})"

    def _collect(
        self, listing: Listing, photographs: Sequence[Found], matched: Matched, folders: FolderGrades | None
    ) -> None:
        """Fills samples, refused and ignored of the listing; each photograph goes to one of them."""
        refused = {refusal.source: refusal for refusal in matched.refused}
        ungraded = folders is None and not any(table.columns.has_grade for table in self.tables_read)
        names = self.inventory.names
        stems: dict[str, str] | None = None
        for file in photographs:
            source = file.source
            if source in matched.labels:
                id, (grade, _, patient, eye, split, kept), _, _ = matched.labels[source]
                ungradable = grade == UNGRADABLE
                grade = UNKNOWN if ungradable else grade
                id = split_suffix(parts(names[source])[-1])[0] if source in names else id
                listing.samples.append(ListedSample(id, file, grade, split, patient, eye, ungradable, kept))
            elif source in refused:
                listing.refused.append(refused[source])
            elif folders is not None and folder_of(source) in folders.grades:
                stem, grade = plain_id(source).rpartition("/")[2], folders.grades[folder_of(source)]
                ungradable = grade == UNGRADABLE
                sample = ListedSample(stem, file, UNKNOWN if ungradable else grade, ungradable=ungradable)
                listing.samples.append(_with_label(sample, matched.without_grade.get(source)))
            elif ungraded:
                listing.samples.append(
                    _with_label(ListedSample(plain_id(source), file, UNKNOWN), matched.without_grade.get(source))
                )
            else:
                why = "no row names it" if folders is None else "not in a folder named by a grade"
                if stems is None:
                    stems = {split_suffix(labelled)[0]: labelled for labelled in matched.labels}
                if (taken := stems.get(split_suffix(source)[0])) is not None:
                    why = f"another file of the name of {taken}, which is taken"
                listing.ignored.append(Refusal(source, why))

    def _warn_of_shared_patients(self, matched: Matched) -> None:
        """Warns if tables in different folders name the same patients: these may be two hospitals or two visits."""
        folders: dict[str, set[str]] = {}
        for _, label, table, _ in matched.labels.values():
            if label.patient:
                folders.setdefault(table.folder, set()).add(label.patient)
        for one, other in pairwise(sorted(folders)):
            shared = folders[one] & folders[other]
            splits = split_in_name(parts(one)[-1]) or split_in_name(parts(other)[-1])
            if shared and not splits:
                self.warnings.append(
                    f"the tables in {one or 'SRC'} and {other or 'SRC'} share {len(shared)} patients, such as "
                    f"{min(shared)}: they are taken for the same people; if they are not, give them "
                    "different names in each table"
                )

    def _named(
        self, samples: list[ListedSample], same: SameNames, pairs: Sequence[PairTable], names: Names
    ) -> list[ListedSample]:
        """The samples with final ids, patients and eyes."""
        prefixes = {sample.file.source: same.prefix(sample.file.source) for sample in samples} if same.levels else {}
        if prefixes:
            samples = [_prefixed(sample, prefixes[sample.file.source]) for sample in samples]
        tags, tag_notes = patients_of(self.tags, self.options.name_patient)
        pattern = self.options.patient_pattern
        named, method, notes = with_patients(with_ids(samples), pattern, _paired(pairs, names), tags)
        self.notes += tag_notes + notes
        by_tag = {source for source, (patient, _) in tags.items() if patient}
        by_tag &= {sample.file.source for sample in named if sample.patient == tags.get(sample.file.source, ("",))[0]}
        if tags:
            self.notes.append(
                f"{len(tags)} DICOM files, the patients of {len(by_tag)} by their tags; file names are kept: check "
                "that they name no person"
            )
        if method and method != "a column" and prefixes:
            named = [
                sample if sample.file.source in by_tag else _of_folder(sample, prefixes[sample.file.source])
                for sample in named
            ]
        return named

    def _other_counts(
        self, samples: Sequence[ListedSample], matched: Matched, tables: Sequence[LabelTable]
    ) -> list[str]:
        """Notes on known sets whose photographs by grade differ from the published numbers."""
        if self.known_by_folders is None and not any(table.known for table in tables):
            return []
        graded: list[tuple[KnownSet, int]] = []
        for sample in samples:
            known, table = self._set_of(sample, matched)
            counted = known is None or table is None or known.counts_table(table.name)
            if known is not None and known.counts and counted and sample.grade != UNKNOWN:
                graded.append((known, sample.grade))
        return other_counts(graded)

    def _set_of(self, sample: ListedSample, matched: Matched) -> tuple[KnownSet | None, LabelTable | None]:
        """(the known set, the table) that gives a photograph its grade; None for none."""
        if sample.file.source not in matched.labels:
            return self.known_by_folders, None
        table = matched.labels[sample.file.source][2]
        return table.known, table

    def _data_set(self, samples: Sequence[ListedSample], matched: Matched) -> str:
        """The titles of the known sets that give grades, sorted."""
        sets = [self._set_of(sample, matched)[0] for sample in samples]
        return ", ".join(sorted({known.title for known in sets if known is not None}))


def _of_folder(sample: ListedSample, folder: str) -> ListedSample:
    """The sample with a folder before its patient's name, unless it is there already."""
    if not folder or sample.patient == folder:
        return sample
    return sample._replace(patient=f"{folder}/{sample.patient}" if sample.patient else folder)


def _with_label(sample: ListedSample, label: Label | None) -> ListedSample:
    """The sample with what a row without a grade says of it."""
    if label is None:
        return sample
    return sample._replace(split=label.split, patient=label.patient, eye=label.eye, kept=label.kept)


def _prefixed(sample: ListedSample, folder: str) -> ListedSample:
    """The sample with a folder before its id, unless it is there already."""
    if not folder or folder in sample.id.split("/")[:-1]:
        return sample
    return sample._replace(id=f"{folder}/{sample.id.rpartition('/')[2]}")


def _grade(grade: int) -> str:
    """A grade in words."""
    return {UNKNOWN: "none", UNGRADABLE: "ungradable"}.get(grade, str(grade))


def _paired(pairs: Sequence[PairTable], names: Names) -> dict[str, tuple[str, str]]:
    """source -> (patient, eye) of the photographs in tables of pairs."""
    named: dict[str, tuple[str, str]] = {}
    for table in pairs:
        for _, left, right in table.pairs:
            patient = split_suffix(left or right)[0]
            for name, eye in ((left, "left"), (right, "right")):
                try:
                    _, sources = names.find(name)
                except ValueError:
                    continue
                named |= dict.fromkeys(sources, (patient, eye))
    return named
