"""Matches rows of tables with photographs. No row and no photograph is lost: each is used, refused or ignored."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final
from unicodedata import normalize

from pipeline.photos.discovery import Found, Refusal, split_suffix, unique_ids
from pipeline.photos.eye_names import last_part
from pipeline.photos.formats import SUFFIXES
from tools.sources.columns import split_in_name
from tools.sources.label_tables import NO_COLUMN, Label, LabelTable
from tools.sources.listing import ListedSample
from tools.sources.scales import BLANK, UNGRADABLE

CONTRADICTION: Final = -4
"""In place of a grade: the rows of the photograph contradict each other."""
Claim = tuple[LabelTable, int, list[str], str]  # table, line, cells, the id that the name gives
_ARCHIVE: Final = re.compile(r"\.(zip|parquet|npz)#", re.IGNORECASE)


def slashed(source: str) -> str:
    """A source as a path in which an archive is a folder; a # in the name of a file stays."""
    return _ARCHIVE.sub(r".\1/", source) if "#" in source else source


def parts(source: str) -> list[str]:
    """The folders of a source, then its name; an archive counts as a folder."""
    return slashed(source).split("/")


def name_of(source: str) -> str:
    """The last part of a source: the name of a file, or of an archive's member."""
    return slashed(source).rpartition("/")[2] if "#" in source else source[source.rfind("/") + 1 :]


def nfc(text: str) -> str:
    """A text in Unicode's form NFC: macOS writes `ü` as two characters, tables as one."""
    return text if text.isascii() else normalize("NFC", text)


class Names:
    """Finds the photograph that a cell of a table names."""

    def __init__(self, photographs: Iterable[Found]) -> None:
        self._by_stem: dict[str, list[str]] = {}
        suffixes: dict[str, int] = defaultdict(int)
        for file in photographs:
            source = file.source
            name = nfc(name_of(source))
            stem, suffix = split_suffix(name)
            suffixes[suffix] += 1
            if (there := self._by_stem.get(stem)) is None:
                self._by_stem[stem] = [source]
            else:
                there.append(source)
        self._folded: dict[str, list[str]] | None = None
        self._usual = sorted(suffixes, key=lambda suffix: -suffixes[suffix])

    def of_one_stem(self) -> list[list[str]]:
        """Groups of photographs with the same name, apart from the suffix."""
        return [sources for sources in self._by_stem.values() if len(sources) > 1]

    def has(self, name: str) -> bool:
        """Whether the last part of a name is the name of a photograph."""
        last = nfc(name.replace("\\", "/").rpartition("/")[2])
        return any(self._candidates(last)) or any(self._candidates(name_of(last)))

    def _candidates(self, last: str) -> Iterator[list[str]]:
        """The photographs that a name without folders may mean, the likeliest first: by the whole name; by the name
        without a suffix; by the name with another suffix."""
        stem, suffix = split_suffix(last)
        if suffix and (there := self._by_stem.get(stem)):
            yield [source for source in there if nfc(name_of(source)) == last]
        yield self._by_stem.get(last, [])
        if suffix.lower() in SUFFIXES:
            yield self._by_stem.get(stem, [])

    def find(self, name: str, table: LabelTable | None = None) -> tuple[str, list[str]]:
        """(id, the sources of the photographs that a name means).

        Folders and suffix of the name are optional; folders may be missing at its start or in its middle. A name counts
        from the folder of its table first. If photographs in several folders fit, those below the table's folder are
        taken, then those in a folder of the table's split. Among files that differ only in their suffix, the suffix
        that most photographs have is taken.

        There are several sources only if they lie in folders of different splits: one row may grade them all. Raises
        ValueError if no photograph fits, if several folders still have one, and for a name that leads out of SRC.
        """
        there = self._by_stem.get(name)
        if there is not None and len(there) == 1:  # so most names end here
            return name, there
        if "#" in name:
            for source in self._by_stem.get(split_suffix(name_of(name))[0], ()):
                if source == name:
                    return split_suffix(name_of(name))[0], [name]
        path = name.replace("\\", "/")
        *folders, last = [part for part in path.split("/") if part not in ("", ".")] or [""]
        if not last:
            raise ValueError("names no photograph")
        base = table.folder.split("/") if table and table.folder else []
        if ".." in folders:
            below = _resolved(base, folders)
            if below is None:
                raise ValueError("leads out of the folder of photographs: refused")
            folders = below
        last = nfc(last)
        stem = last_part(last)
        folded = [nfc(folder) for folder in folders]
        for candidates in self._candidates(last):
            fitting = _in_folders(candidates, folded, base) if folded else candidates
            if fitting:
                fitting = self._one_folder(fitting, base, table)
                return "/".join([*folders, stem]), self._one_suffix(fitting)
        absolute = path.startswith("/") or re.match(r"[A-Za-z]:", path)
        if absolute or not folders:
            alone = self._alone(last, stem)
            if alone is not None:  # a path of another computer, or upper case for lower case
                return stem, [alone]
        if absolute:
            raise ValueError("is a path on another computer, and no photograph here has that name")
        raise ValueError("has no photograph")

    def _alone(self, last: str, stem: str) -> str | None:
        """The only photograph with this name in any folder, upper and lower case alike; None for none or several."""
        for candidates in self._candidates(last):
            if candidates:
                return candidates[0] if len(candidates) == 1 else None
        if self._folded is None:
            self._folded = defaultdict(list)
            for known, sources in self._by_stem.items():
                self._folded[known.casefold()] += sources
        sources = self._folded.get(stem.casefold(), [])
        return sources[0] if len(sources) == 1 else None

    def _one_folder(self, fitting: list[str], base: list[str], table: LabelTable | None) -> list[str]:
        """Those of one folder, or of one folder a split. Raises ValueError if the folder is not clear."""

        def folders(sources: list[str]) -> set[str]:
            return {source.rpartition("/")[0] for source in sources}

        if len(fitting) == 1 or len(folders(fitting)) == 1:
            return fitting
        if base:
            own = [source for source in fitting if parts(source)[: len(base)] == base]
            fitting = own or fitting
        if table is not None and table.split and len(folders(fitting)) > 1:
            fitting = [each for each in fitting if split_of_folders(each) == table.split] or fitting
        if len(folders(fitting)) > 1:
            splits = {split_of_folders(source) for source in fitting}
            if "" in splits or len(splits) < len(folders(fitting)):
                raise ValueError(f"fits photographs in several folders, write the folder too: {', '.join(fitting)}")
        return fitting

    def _one_suffix(self, fitting: list[str]) -> list[str]:
        """Those with the most frequent suffix, if they differ only in their suffixes."""
        if len(fitting) == 1 or len({split_suffix(source)[0] for source in fitting}) == len(fitting):
            return fitting
        for suffix in self._usual:
            chosen = [source for source in fitting if split_suffix(source)[1] == suffix]
            if chosen:
                return chosen
        return fitting


def _resolved(base: list[str], folders: list[str]) -> list[str] | None:
    """The folders below SRC of a path with `..` from the table's folder; None if it leads out of SRC."""
    path = list(base)
    for folder in folders:
        if folder != "..":
            path.append(folder)
        elif not path:
            return None
        else:
            path.pop()
    return path


def _in_folders(candidates: Sequence[str], folders: list[str], base: list[str]) -> list[str]:
    """The candidates whose folders fit those of a name. The first of these rules that fits any is used: equal from the
    table's folder; equal from SRC; one ends with the other; the name's folders are among the candidate's in order."""
    above = [(source, [nfc(part) for part in parts(source)[:-1]]) for source in candidates]
    from_table = [*base, *folders]
    for fits in (
        lambda its: its == from_table,
        lambda its: its == folders,
        lambda its: its[-len(folders) :] == folders or folders[len(folders) - len(its) :] == its,
        lambda its: _in_order(folders, its),
    ):
        if fitting := [source for source, its in above if fits(its)]:
            return fitting
    return []


def _in_order(few: list[str], many: list[str]) -> bool:
    rest = iter(many)
    return all(part in rest for part in few)


def split_of_folders(source: str) -> str:
    """The split in the names of a photograph's folders, the innermost first; "" for none."""
    for folder in reversed(parts(source)[:-1]):
        if split := split_in_name(folder):
            return split
    return ""


@dataclass
class Matched:
    """The rows of all tables, matched with photographs."""

    labels: dict[str, tuple[str, Label, LabelTable, int]] = field(default_factory=dict)
    """source -> (id by its name in the table, what its rows say, table and line of the first row)."""
    refused: list[Refusal] = field(default_factory=list)  # photographs whose rows cannot be used
    rows: list[Refusal] = field(default_factory=list)  # rows without a photograph
    without_grade: dict[str, Label] = field(default_factory=dict)  # source -> what rows without a grade say
    notes: list[str] = field(default_factory=list)
    has_splits: bool = False

    def where(self, source: str) -> str:
        """The first row of a photograph as messages name it: "trainLabels.csv:5"."""
        _, _, table, number = self.labels[source]
        return table.where(number)

    def split(self, source: str) -> str:
        """The split of a photograph by its rows, or by its table's name; "" for none."""
        if source not in self.labels:
            return self.without_grade[source].split if source in self.without_grade else ""
        _, label, table, _ = self.labels[source]
        return label.split or table.split


def match_tables(names: Names, tables: Sequence[LabelTable], of_folder: Callable[[str], int | None]) -> Matched:
    """Matches the rows of tables with photographs, and lists every row without a photograph.

    of_folder: the grade of a photograph by its folder, None if the folder has none. A row that fits photographs of
    several splits counts only if their folders have the same grade.
    """
    matched = Matched(has_splits=any(table.split or table.columns.split is not None for table in tables))
    first: dict[str, Claim] = {}
    more: dict[str, list[Claim]] = {}
    find = names.find
    for table in tables:
        at = table.columns.photograph
        for number, cells in table.rows:
            try:
                id, sources = find(cells[at], table)
            except ValueError as error:
                matched.rows.append(Refusal(table.where(number), f"{cells[at]!r} {error}"))
                continue
            if len(sources) > 1 and {of_folder(source) for source in sources} != {table.label(cells).grade}:
                why = f"fits photographs in several folders, write the folder too: {', '.join(sources)}"
                matched.rows.append(Refusal(table.where(number), f"{cells[at]!r} {why}"))
                continue
            for source in sources:
                if source in first:
                    more.setdefault(source, [first[source]]).append((table, number, cells, id))
                else:
                    first[source] = (table, number, cells, id)
    labels = matched.labels
    for source, (table, number, cells, id) in first.items():
        label = _agreed(more[source], matched) if source in more else table.label(cells)
        if label.grade == NO_COLUMN:
            matched.without_grade[source] = label
        elif label.error:
            why = label.error
            if label.grade != CONTRADICTION:
                claims = more.get(source, [first[source]])
                why = f"{' and '.join(each.where(line) for each, line, _, _ in claims)}: {why}"
            matched.refused.append(Refusal(source, why))
        else:
            labels[source] = (id, label, table, number)
    return matched


def _agreed(claimed: list[Claim], matched: Matched) -> Label:
    """The label of a photograph with several rows, which must agree. An empty cell agrees with every other."""
    labels = [table.label(cells) for table, _, cells, _ in claimed]
    wheres = " and ".join(table.where(number) for table, number, _, _ in claimed)
    if any(label.error and label.grade != BLANK for label in labels):
        return next(label for label in labels if label.error and label.grade != BLANK)
    graded = [label for label in labels if label.grade not in (BLANK, NO_COLUMN)]
    graded = graded or [label for label in labels if label.grade == BLANK] or labels
    splits = {label.split or table.split for label, (table, *_) in zip(labels, claimed, strict=True)} - {""}
    for name, values in (
        ("", {label.grade for label in graded}),
        ("split ", splits),
        ("patient ", {label.patient for label in labels} - {""}),
        ("eye ", {label.eye for label in labels} - {""}),
    ):
        if len(values) > 1:
            shown = [_cell_text(name, label, claim) for label, claim in zip(labels, claimed, strict=True)]
            return Label(CONTRADICTION, f"{wheres} contradict each other: {name}{', '.join(shown)}")
    if len({tuple(label[:5]) for label in labels}) == 1 and len({table.source for table, *_ in claimed}) == 1:
        matched.notes.append(f"{wheres}: the same row {len(claimed)} times, used once")
    kept = next((label.kept for label in labels if any(label.kept)), labels[0].kept)
    patient = next((label.patient for label in labels if label.patient), "")
    eye = next((label.eye for label in labels if label.eye), "")
    return graded[0]._replace(patient=patient, eye=eye, split=next(iter(splits), ""), kept=kept)


def _cell_text(name: str, label: Label, claim: Claim) -> str:
    """What a row says, for a message on a contradiction."""
    table, _, cells, _ = claim
    if name == "split ":
        return label.split or table.split or "none"
    if name:
        return (label.patient if name == "patient " else label.eye) or "none"
    if label.grade == UNGRADABLE:
        return "ungradable"
    return cells[table.columns.grade] if table.columns.grade is not None else str(label.grade)


def with_ids(candidates: Iterable[ListedSample]) -> list[ListedSample]:
    """The samples with unique ids."""
    samples = list(candidates)
    ids = unique_ids([(sample.id, sample.file.source) for sample in samples])
    return [sample if sample.id == id else sample._replace(id=id) for sample, id in zip(samples, ids, strict=True)]
