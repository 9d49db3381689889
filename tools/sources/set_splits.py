"""The splits that a set brings, or that a table of the user's gives."""

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
    """The samples with the splits that the set brings, and what is to be said.

    Splits come from a column, a table's name or folders. They count only where graded photographs lie in train and in
    val or test.
    Raises SourceError where tables and folders contradict each other.
    """
    notes: list[str] = []
    graded = [sample for sample in samples if sample.grade != UNKNOWN]
    by_folder = folder_splits(dict.fromkeys(folder_of(sample.file.source) for sample in graded))
    if not matched.has_splits and not _bring(by_folder.values()):
        return samples, notes
    by_row = {sample.file.source: matched.split(sample.file.source) for sample in graded}
    folder = {sample.file.source: by_folder[folder_of(sample.file.source)] for sample in graded}
    rows, folders = (_bring(splits.values()) for splits in (by_row, folder))
    told: Mapping[str, str] = {}
    for by, splits in (("table", by_row), ("folder", folder)):
        lone = set(splits.values()) - {""}
        if len(lone) == 1 and all(splits.values()) and not (rows or folders):
            (split,) = lone
            notes.append(
                f"every photograph is {split} by its {by}, which is no split: patients are drawn. --split "
                f"{split} keeps them together"
            )
    if rows or folders:
        notes.append(f"splits by {' and '.join(['tables'] * rows + ['folders'] * folders)}")
    if rows and folders:
        against = [
            source for source in by_row if by_row[source] and folder[source] and by_row[source] != folder[source]
        ]
        if against:
            first = against[0]
            raise SourceError(
                f"{root}: {len(against)} photographs lie in a folder of another split than their table says "
                f"({first}: {by_row[first]}); --split FILE names the splits, --split patient draws them by patient"
            )
        told = {source: by_row[source] or folder[source] for source in by_row}
    elif rows or folders:
        told = by_row if rows else folder
    without = sum(told.get(sample.file.source) == "" for sample in graded) if told else 0
    if without:
        notes.append(f"{without} photographs are in no split: the set brings splits, and none for them")
    return [sample._replace(split=told.get(sample.file.source, "")) for sample in samples], notes


def with_split_table(samples: list[ListedSample], names: Names, path: Path) -> tuple[list[ListedSample], list[str]]:
    """The samples with the splits of a table that the user names, and what is to be said.

    Raises SourceError where it has none, or contradicts itself.
    """
    raw = next(iter(named_tables(path)), RawTable(str(path), []))
    columns = find_columns(raw.rows[0][1], ColumnOptions()) if raw.rows else None
    if columns is None or columns.split is None:
        raise SourceError(f"{path}: no columns for photograph and split, such as image and split ({raw.start()})")
    told: dict[str, str] = {}
    strangers = 0
    notes: list[str] = []
    for number, cells in raw.rows[1:]:
        split = split_word(cells[columns.split]) if len(cells) > columns.last else None
        if not split:
            raise SourceError(f"{path}:{number}: no split, which is train, val or test")
        try:
            _, sources = names.find(cells[columns.photograph])
        except ValueError:
            strangers += 1
            continue
        for source in sources:
            if told.setdefault(source, split) != split:
                raise SourceError(f"{path}:{number}: {source} is {told[source]} by an earlier row, {split} by this one")
    if not told:
        raise SourceError(f"{path}: names none of the photographs")
    if strangers:
        notes.append(f"{path.name}: {strangers} rows name no photograph that is here, or several")
    if unnamed := sum(sample.grade != UNKNOWN and sample.file.source not in told for sample in samples):
        notes.append(f"{path.name} does not name {unnamed} graded photographs: they are in no split")
    return [sample._replace(split=told.get(sample.file.source, "")) for sample in samples], notes


def _bring(splits: Iterable[str]) -> bool:
    """Whether splits are those of a set: train, and val or test beside it."""
    told = set(splits) - {""}
    return "train" in told and len(told) > 1
