"""The splits of a data set, or those of a table that the user names."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.grades import UNKNOWN
from pipeline.storage.url import Url
from tools.sources.columns import ColumnOptions, find_columns, split_word
from tools.sources.folders import folder_of, folder_splits
from tools.sources.inventory import named_tables
from tools.sources.listing import ListedSample
from tools.sources.matching import Matched, Names
from tools.sources.tables import RawTable


def with_set_splits(
    root: Path | Url, samples: list[ListedSample], matched: Matched
) -> tuple[list[ListedSample], list[str]]:
    """(the samples with the splits of the data set, notes for the user).

    Splits come from a column, the name of a table, or folders. They count only if there are graded photographs in train
    and in val or test. Raises SourceError if tables and folders contradict each other.
    """
    notes: list[str] = []
    graded = [sample for sample in samples if sample.grade != UNKNOWN]
    by_folder = folder_splits(dict.fromkeys(folder_of(sample.file.source) for sample in graded))
    if not matched.has_splits and not _are_splits(by_folder.values()):
        return samples, notes
    by_row = {sample.file.source: matched.split(sample.file.source) for sample in graded}
    in_folder = {sample.file.source: by_folder[folder_of(sample.file.source)] for sample in graded}
    by_tables, by_folders = (_are_splits(splits.values()) for splits in (by_row, in_folder))
    chosen: Mapping[str, str] = {}  # source -> split
    for by, splits in (("table", by_row), ("folder", in_folder)):
        names = set(splits.values()) - {""}
        if len(names) == 1 and all(splits.values()) and not (by_tables or by_folders):
            (split,) = names
            notes.append(
                f"every photograph is in {split} by its {by}, so there are no other splits: patients are drawn. "
                f"--split {split} keeps all photographs in {split}"
            )
    if by_tables or by_folders:
        notes.append(f"splits by {' and '.join(['tables'] * by_tables + ['folders'] * by_folders)}")
    if by_tables and by_folders:
        against = [
            source for source in by_row if by_row[source] and in_folder[source] and by_row[source] != in_folder[source]
        ]
        if against:
            first = against[0]
            raise SourceError(
                f"{root}: {len(against)} photographs lie in a folder of another split than their table says "
                f"({first}: {by_row[first]}); --split FILE names the splits, --split patient draws them by patient"
            )
        chosen = {source: by_row[source] or in_folder[source] for source in by_row}
    elif by_tables or by_folders:
        chosen = by_row if by_tables else in_folder
    missing = sum(chosen.get(sample.file.source) == "" for sample in graded) if chosen else 0
    if missing:
        notes.append(f"{missing} photographs are in no split: the data set has splits, but not for them")
    return [sample._replace(split=chosen.get(sample.file.source, "")) for sample in samples], notes


def with_split_table(samples: list[ListedSample], names: Names, path: Path) -> tuple[list[ListedSample], list[str]]:
    """(the samples with the splits of a table that the user names, notes for the user).

    Raises SourceError if the table has no splits, or contradicts itself.
    """
    raw = next(iter(named_tables(path)), RawTable(str(path), []))
    columns = find_columns(raw.rows[0][1], ColumnOptions()) if raw.rows else None
    if columns is None or columns.split is None:
        raise SourceError(f"{path}: no columns for photograph and split, such as image and split ({raw.start()})")
    chosen: dict[str, str] = {}  # source -> split
    unmatched = 0
    notes: list[str] = []
    for number, cells in raw.rows[1:]:
        split = split_word(cells[columns.split]) if len(cells) > columns.last else None
        if not split:
            raise SourceError(f"{path}:{number}: no split, which is train, val or test")
        try:
            _, sources = names.find(cells[columns.photograph])
        except ValueError:
            unmatched += 1
            continue
        for source in sources:
            if chosen.setdefault(source, split) != split:
                raise SourceError(
                    f"{path}:{number}: {source} is {chosen[source]} by an earlier row, {split} by this one"
                )
    if not chosen:
        raise SourceError(f"{path}: names none of the photographs")
    if unmatched:
        notes.append(f"{path.name}: {unmatched} rows name no photograph here, or several")
    if unnamed := sum(sample.grade != UNKNOWN and sample.file.source not in chosen for sample in samples):
        notes.append(f"{path.name} does not name {unnamed} graded photographs: they are in no split")
    return [sample._replace(split=chosen.get(sample.file.source, "")) for sample in samples], notes


def _are_splits(splits: Iterable[str]) -> bool:
    """Whether there is train, and val or test besides."""
    names = set(splits) - {""}
    return "train" in names and len(names) > 1
