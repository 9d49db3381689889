"""Rows of tables and photographs, brought together: every row and photograph is accounted for."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from unicodedata import normalize

from pipeline.photos.discovery import Found, Refusal, split_suffix, unique_ids
from pipeline.photos.photo import SUFFIXES
from tools.sources.columns import split_in_name
from tools.sources.label_tables import BLANK, Label, LabelTable
from tools.sources.listing import Sample
from tools.sources.scales import UNGRADABLE

Claim = tuple[LabelTable, int, list[str], str]  # table, line, cells, the id that the name gives


def parts(source: str) -> list[str]:
    """The folders of a source, and its name last; an archive counts as a folder."""
    return source.replace("#", "/").split("/")


def nfc(text: str) -> str:
    """One form of Unicode: macOS writes `ü` as two characters, tables as one."""
    return text if text.isascii() else normalize("NFC", text)


class Names:
    """Photographs by their names, to find the one that a cell of a table names."""

    def __init__(self, photographs: Iterable[Found]) -> None:
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._sources: set[str] = set()
        suffixes: Counter[str] = Counter()
        for found in photographs:
            source = found.source
            self._sources.add(source)
            name = source[source.rfind("/") + 1 :]
            name = nfc(name[name.rfind("#") + 1 :])
            stem, suffix = split_suffix(name)
            self._by_name[name].append(source)
            self._by_name[f"{stem}."].append(source)  # no file name ends in a dot and is also a stem
            suffixes[suffix.lower()] += 1
        self._usual = [suffix for suffix, _ in suffixes.most_common()]

    def has(self, name: str) -> bool:
        """Whether the last part of a name is that of a photograph."""
        if name in self._sources:
            return True
        last = nfc(name.replace("\\", "/").rpartition("/")[2])
        return last in self._by_name or f"{last}." in self._by_name or f"{_stem(last)}." in self._by_name

    def find(self, name: str, table: LabelTable | None = None) -> tuple[str, list[str]]:
        """(id, the photographs that a name names).

        The name may have folders and a suffix or not; folders may be missing at its start, in its middle and before
        those that it has; it is read from the table's own folder first. Where photographs of several folders fit, those
        below the table's folder are taken, then those in a folder of the table's split. Of files that differ only in
        their suffix, the one with the suffix that most photographs have is taken.

        Raises ValueError where no photograph fits, where several folders still have one, and for a name that leads out
        of SRC. Several sources come back only where one row may grade them all: in folders of different splits.
        """
        if name in self._sources:
            return split_suffix(parts(name)[-1])[0], [name]
        slashed = name.replace("\\", "/")
        if "/" not in slashed:  # most names
            folders, last = [], slashed
        else:
            *folders, last = [part for part in slashed.split("/") if part not in ("", ".")] or [""]
        if not last:
            raise ValueError("names no photograph")
        base = table.folder.split("/") if table and table.folder else []
        if ".." in folders:
            below = _resolved(base, folders)
            if below is None:
                raise ValueError("leads out of the folder of photographs: refused")
            folders = below
        last = nfc(last)
        stem = _stem(last)
        folded = [nfc(folder) for folder in folders]
        for candidates in (self._by_name.get(last), self._by_name.get(f"{last}."), self._by_name.get(f"{stem}.")):
            if not candidates:
                continue
            fitting = _in_folders(candidates, folded, base) if folded else candidates
            if fitting:
                fitting = self._one_folder(fitting, base, table)
                return "/".join([*folders, stem]), self._one_suffix(fitting)
        if slashed.startswith("/") or re.match(r"[A-Za-z]:", slashed):
            raise ValueError("leads out of the folder of photographs: refused")
        raise ValueError("has no photograph")

    def _one_folder(self, fitting: list[str], base: list[str], table: LabelTable | None) -> list[str]:
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
        if len(fitting) == 1 or len({split_suffix(source)[0] for source in fitting}) == len(fitting):
            return fitting
        for suffix in self._usual:
            chosen = [source for source in fitting if split_suffix(source)[1].lower() == suffix]
            if chosen:
                return chosen
        return fitting


def _stem(name: str) -> str:
    without, suffix = split_suffix(name)
    return without if suffix.lower() in SUFFIXES else name


def _resolved(base: list[str], folders: list[str]) -> list[str] | None:
    """The folders below SRC that a path with `..` leads to from the table's folder; None where it leads out."""
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
    """The candidates whose folders a name's folders are, the closest fit first: exactly, from the table's folder; one
    the end of the other; or the name's in the same order among the candidate's."""
    above = [(source, [nfc(part) for part in parts(source)[:-1]]) for source in candidates]
    wholly = [*base, *folders]
    for fits in (
        lambda its: its == wholly,
        lambda its: its == folders,
        lambda its: its[-len(folders) :] == folders or folders[-len(its) :] == its,
        lambda its: _in_order(folders, its),
    ):
        if found := [source for source, its in above if fits(its)]:
            return found
    return []


def _in_order(few: list[str], many: list[str]) -> bool:
    rest = iter(many)
    return all(part in rest for part in few)


def split_of_folders(source: str) -> str:
    """The split that the folders of a photograph tell, the innermost one; "" for none."""
    for folder in reversed(parts(source)[:-1]):
        if split := split_in_name(folder):
            return split
    return ""


@dataclass
class Matched:
    """What came of the rows of all tables."""

    labels: dict[str, tuple[str, Label]] = field(default_factory=dict)  # source -> (id, what the rows say)
    wheres: dict[str, str] = field(default_factory=dict)  # source -> "trainLabels.csv:5"
    splits: dict[str, str] = field(default_factory=dict)  # source -> the split of its row or of its table's name
    refused: list[Refusal] = field(default_factory=list)  # photographs whose rows cannot be used
    rows: list[Refusal] = field(default_factory=list)  # rows without a photograph
    ignored: list[Refusal] = field(default_factory=list)  # other files of a photograph's name
    notes: list[str] = field(default_factory=list)


def match_tables(names: Names, tables: Iterable[LabelTable]) -> Matched:
    """Gives each photograph what its rows say, and accounts for every row that has no photograph."""
    matched = Matched()
    claims: dict[str, list[Claim]] = defaultdict(list)
    find = names.find
    for table in tables:
        at = table.columns.photograph
        for number, cells in table.rows:
            name = cells[at]
            try:
                id, sources = find(name, table)
            except ValueError as error:
                matched.rows.append(Refusal(table.where(number), f"{name!r} {error}"))
                continue
            for source in sources:
                claims[source].append((table, number, cells, id))
    for source, claimed in claims.items():
        table, number, cells, id = claimed[0]
        label = table.label(cells)
        if len(claimed) > 1:
            label = _agreed(source, claimed, matched)
        if label.error:
            wheres = " and ".join(table.where(number) for table, number, _, _ in claimed)
            matched.refused.append(
                Refusal(source, label.error if label.grade == CONTRADICTION else f"{wheres}: {label.error}")
            )
            continue
        matched.wheres[source] = table.where(number)
        matched.splits[source] = label.split or table.split
        matched.labels[source] = (id, label)
    return matched


CONTRADICTION = -4


def _agreed(source: str, claimed: list[Claim], matched: Matched) -> Label:
    """What several rows say of one photograph: what all say; a row that leaves a cell empty does not contradict."""
    labels = [table.label(cells) for table, _, cells, _ in claimed]
    wheres = " and ".join(table.where(number) for table, number, _, _ in claimed)
    if any(label.error and label.grade != BLANK for label in labels):
        return next(label for label in labels if label.error and label.grade != BLANK)
    said = [label for label in labels if label.grade != BLANK] or labels
    splits = {label.split or table.split for label, (table, *_) in zip(labels, claimed, strict=True)} - {""}
    for name, values in (
        ("", {label.grade for label in said}),
        ("split ", splits),
        ("patient ", {label.patient for label in labels} - {""}),
        ("eye ", {label.eye for label in labels} - {""}),
    ):
        if len(values) > 1:
            shown = [_said(name, label, claim) for label, claim in zip(labels, claimed, strict=True)]
            return Label(CONTRADICTION, f"{wheres} contradict each other: {name}{', '.join(shown)}")
    if len({tuple(label[:5]) for label in labels}) == 1 and len({table.source for table, *_ in claimed}) == 1:
        matched.notes.append(f"{wheres}: the same row {len(claimed)} times, used once")
    kept = next((label.kept for label in labels if any(label.kept)), labels[0].kept)
    patient, eye = (next((value for label in labels if (value := each(label))), "") for each in (_patient, _eye))
    return said[0]._replace(patient=patient, eye=eye, split=next(iter(splits), ""), kept=kept)


def _patient(label: Label) -> str:
    return label.patient


def _eye(label: Label) -> str:
    return label.eye


def _said(name: str, label: Label, claim: Claim) -> str:
    table, _, cells, _ = claim
    if name == "split ":
        return label.split or table.split or "none"
    if name:
        return (label.patient if name == "patient " else label.eye) or "none"
    if label.grade == UNGRADABLE:
        return "ungradable"
    return cells[table.columns.grade] if table.columns.grade is not None else str(label.grade)


def with_ids(candidates: Iterable[Sample]) -> list[Sample]:
    """The samples with ids that no two share."""
    samples = list(candidates)
    ids = unique_ids([(sample.id, sample.found.source) for sample in samples])
    return [sample._replace(id=id) for sample, id in zip(samples, ids, strict=True)]
