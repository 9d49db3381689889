"""What people have on disk -> which photograph has which grade.

A layout is recognised and said aloud; whatever does not fit is refused by name or counted, never dropped.
"""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.cache.splits import SPLITS
from pipeline.errors import SourceError
from pipeline.grades import N_GRADES, UNKNOWN
from pipeline.photos.discovery import (
    Found,
    Refusal,
    Walked,
    leads_out,
    plain_id,
    read_regular,
    walk,
)
from pipeline.photos.photo import SUFFIXES
from pipeline.storage.artifacts import what_is
from pipeline.storage.paths import read_file
from pipeline.storage.url import Url
from tools.sources.label_tables import LabelRow, Table, read_column, read_table
from tools.sources.listing import Listing, Rows, Sample
from tools.sources.matching import match_rows, with_ids
from tools.sources.remote import tables_of, walk_url

COURSE_TABLES: Final = ("train_img.csv", "train_label.csv", "test_img.csv", "test_label.csv")
SPLIT_NAMES: Final = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip


def list_source(
    src: Path | Url, labels: Path | Url | None = None, id_column: str | None = None, grade_column: str | None = None
) -> Listing:
    """Looks through SRC, recognises its layout and matches photographs and grades.

    Raises SourceError where there is nothing to do: no such folder, no photographs, no row that fits one; StoreError
    where a URL cannot be listed or read.
    """
    columns = (id_column, grade_column)
    with ExitStack() as stack:
        if isinstance(labels, Url):
            labels = stack.enter_context(tables_of(labels.parent, [labels.name])).folder / labels.name
        if isinstance(src, Path):
            if os.path.isfile(src) and src.suffix.lower() == ".npz":
                return _medmnist(src)
            if not os.path.isdir(src):  # pathlib's is_dir raises where a name is too long
                raise SourceError(f"{src}: no such folder")
            listing = _recognise(src, src, walk(src), labels, columns)
        elif src.name.lower().endswith(".npz"):
            raise SourceError(f"{src}: a MedMNIST file is read from a disk; copy it there first")
        else:
            walked, names = walk_url(src)
            tables = stack.enter_context(tables_of(src, names, COURSE_TABLES))
            listing = _recognise(src, tables.folder, walked, labels, columns)
            listing.layout = tables.named(listing.layout)
    if not listing.found:
        wanted = " ".join(sorted(SUFFIXES))
        why = "; ".join([f"looked for {wanted}, and for images by content", *listing.notes])
        raise SourceError(f"{src}: no photographs below it ({why})")
    if not listing.samples:
        first = (listing.refused + listing.rows + listing.ignored)[0]
        raise SourceError(f"{src}: nothing to prepare ({listing.layout}); e.g. {first.source}: {first.reason}")
    return listing


def _recognise(
    root: Path | Url,
    folder: Path,
    walked: Walked,
    labels: Path | None,
    columns: tuple[str | None, str | None],
) -> Listing:
    """The photographs below `root` with what the tables below `folder`, or `labels`, say of them."""
    photographs = walked.photographs
    if labels is not None:
        table = read_table(labels, *columns)
        if table is None:
            raise SourceError(f"{labels}: which columns name photograph and grade? give --id-column and --grade-column")
        listing = match_rows(root, photographs, _rows_of([table]))
    elif any(_grade_folder(found.source) for found in photographs) and not has_course_tables(folder):
        listing = _grade_folders(root, photographs)
    elif (rows := find_rows(folder)) is not None:
        listing = match_rows(root, photographs, rows)
    elif not photographs and len(archives := sorted(folder.glob("*.npz"))) == 1:
        listing = _medmnist(archives[0])
    else:
        listing = Listing(root, "photographs without grades (no table of grades found; name one with --labels)")
        listing.samples = with_ids((plain_id(found.source), found, UNKNOWN, "") for found in photographs)
    listing.refused = walked.refused + listing.refused
    listing.notes = [f"left out: {each.source}, {each.reason} of this program" for each in walked.ours] + listing.notes
    return listing


def read_source(root: Path | Url, source: str) -> bytes:
    """The bytes of a photograph that `list_source` found; of a picture in a MedMNIST file, as a PNG.

    Raises OSError where it cannot be read, StoreError where the store behind a URL gives nothing any more.
    """
    if isinstance(root, Url):
        return read_file(root / source)
    archive, inside, member = source.partition("#")
    if inside and archive.endswith(".npz"):
        import cv2

        split, _, number = member.partition("/")
        picture = _archive(str(root / archive))[f"{split}_images"][int(number)]
        return cv2.imencode(".png", picture[..., ::-1] if picture.ndim == 3 else picture)[1].tobytes()
    return read_regular(root / source)


def _check_inside(table: Path, folder: Path) -> None:
    """Raises SourceError for a table found in a folder that is a link out of it: only names given by hand lead out."""
    if leads_out(table, folder):
        raise SourceError(f"{table}: a link that leads out of {folder}; name it with --labels")


# --- layouts


def find_rows(src: Path) -> Rows | None:
    """The rows of the tables of grades: the course's four, in SRC or beside it, else those with a known header."""
    if (folder := has_course_tables(src)) is not None:
        return Rows(f"the course's four tables without header in {folder}", _course_rows(folder))
    tables = _find_tables(src)
    return _rows_of(tables) if tables else None


def _rows_of(tables: list[Table]) -> Rows:
    names = ", ".join(f"{table.path.name} ({table.about})" for table in tables)
    splits = [_split_in_name(table.path.stem) for table in tables]
    if len(tables) == 1 or not all(splits):
        splits = [""] * len(tables)
    rows = [(row, split) for table, split in zip(tables, splits, strict=True) for row in table.rows]
    if not rows:
        raise SourceError(f"{tables[0].path}: a header and no rows")
    return Rows(f"table {names}" if len(tables) == 1 else f"tables {names}", rows)


def _find_tables(src: Path) -> list[Table]:
    """The tables of grades at the shallowest depth that has any; those of Kaggle's sample submissions are none."""
    folders = [src]
    while folders:
        inside = [(folder, sorted(os.scandir(folder), key=lambda entry: entry.name)) for folder in folders]
        below = [
            entry
            for folder, entries in inside
            if not what_is(folder, (entry.name for entry in entries))
            for entry in entries
            if not entry.name.startswith(".")
        ]
        paths = [Path(entry.path) for entry in below if entry.name.lower().endswith(".csv") and entry.is_file()]
        for path in paths:
            _check_inside(path, src)
        tables = [read_table(path) for path in paths if "submission" not in path.name.casefold()]
        found = [table for table in tables if table is not None]
        if found:
            return found
        folders = [Path(entry.path) for entry in below if entry.is_dir(follow_symlinks=False)]
    return []


def has_course_tables(src: Path) -> Path | None:
    """The folder, SRC or the one it lies in, that has the course's four tables."""
    for folder in (src, src.resolve().parent):
        tables = [folder / name for name in COURSE_TABLES]
        if all(table.is_file() for table in tables):
            for table in tables:
                _check_inside(table, folder)
            return folder
    return None


def _course_rows(folder: Path) -> list[tuple[LabelRow, str]]:
    """(row, split) of the course's four tables, which have no header: their first row is a sample."""
    rows = []
    for split in ("train", "test"):
        names, grades = (folder / f"{split}_{kind}.csv" for kind in ("img", "label"))
        images, labels = read_column(names), read_column(grades)
        if len(images) != len(labels):
            raise SourceError(f"{names} has {len(images)} rows, {grades} has {len(labels)}: they must pair up")
        pairs = zip(images, labels, strict=True)
        rows += [(LabelRow(name, grade, f"{where}, {at}"), split) for (name, where), (grade, at) in pairs]
    return rows


def _grade_folder(source: str) -> tuple[str, str] | None:
    """(split or "", grade) of a photograph in a folder named after its grade."""
    *above, folder = source.split("/")[:-1] or [""]
    if folder not in map(str, range(N_GRADES)):
        return None
    return (SPLIT_NAMES.get(above[-1].casefold(), "?") if above else ""), folder


def _grade_folders(src: Path | Url, photographs: list[Found]) -> Listing:
    places = [(found, _grade_folder(found.source)) for found in photographs]
    bring_splits = any(place and place[0] not in ("", "?") for _, place in places)
    splits = set(SPLIT_NAMES.values()) if bring_splits else {"", "?"}
    grades = sorted({place[1] for _, place in places if place})
    where = (
        " under " + ", ".join(sorted({place[0] for _, place in places if place and place[0] in splits}))
        if bring_splits
        else ""
    )
    listing = Listing(src, f"a folder per grade ({', '.join(grades)}){where}")
    samples = []
    for found, place in places:
        if place is None or place[0] not in splits:
            reason = (
                "not in a folder named 0..4" if place is None else "its folder of grades is not in train, val or test"
            )
            listing.ignored.append(Refusal(found.source, reason))
        else:
            stem = plain_id(found.source).rpartition("/")[2]
            samples.append((stem, found, int(place[1]), place[0] if bring_splits else ""))
    listing.samples = with_ids(samples)
    return listing


def _medmnist(path: Path) -> Listing:
    arrays = _archive(str(path))
    listing = Listing(path.parent, f"a MedMNIST file, {path.name}")
    about = path.stat()
    for split in SPLITS:
        images, labels = arrays.get(f"{split}_images"), arrays.get(f"{split}_labels")
        if images is None or labels is None or len(images) != len(labels) or images.dtype != np.uint8:
            raise SourceError(
                f"{path}: expected {split}_images (uint8) and as many {split}_labels, as MedMNIST has them"
            )
        for number, label in enumerate(labels.reshape(len(labels), -1)[:, 0]):
            source = f"{path.name}#{split}/{number}"
            if not 0 <= int(label) < N_GRADES:
                listing.refused.append(Refusal(source, f"grade {label} is not in 0..{N_GRADES - 1}"))
                continue
            found = Found(source, int(images[number].nbytes), about.st_mtime_ns, about.st_ctime_ns)
            listing.samples.append(Sample(f"{split}_{number}", found, int(label), split))
    return listing


_open_archives: dict[str, dict[str, np.ndarray]] = {}


def _archive(path: str) -> dict[str, np.ndarray]:
    """A MedMNIST file's arrays, read once a process: they are compressed as a whole, not picture by picture."""
    if path not in _open_archives:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                _open_archives[path] = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError) as error:
            raise SourceError(f"{path}: not a MedMNIST file ({error})") from error
    return _open_archives[path]


# --- matching rows and photographs


def _split_in_name(stem: str) -> str:
    """The split that a table's name tells, "" for none or several."""
    words: Iterator[str] = (word for word in re.split(r"[^a-z]+", stem.casefold()) if word)
    splits = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else ""
