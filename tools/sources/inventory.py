"""Lists everything below SRC: photographs, tables, the content of archives, and files that are not read, with
reasons."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pipeline.errors import SourceError
from pipeline.photos.discovery import Found, Refusal, Walked, read_regular, split_suffix
from tools.sources import archives, tables
from tools.sources.tables import NoTable, RawTable, read_raw, suffix_of

LARGEST_TABLE: Final = 2_000_000_000
"""Bytes. A larger text file is no table of photographs: 88,000 rows have 2 MB, a hundred million have 2 GB."""
_PART: Final = re.compile(r"(.+\.(?:zip|7z|rar|tar|gz))\.(\d{3})|(.+)\.z\d\d", re.IGNORECASE)
_ARCHIVES: Final = (".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst")


@dataclass
class Inventory:
    """What is below SRC."""

    photographs: list[Found] = field(default_factory=list)
    tables: list[RawTable] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)  # photographs
    unread: list[Refusal] = field(default_factory=list)  # other files, each with advice
    own_folders: list[Refusal] = field(default_factory=list)  # caches and runs of this program
    left_out: int = 0  # files that are hidden, half downloaded or of another program
    names: dict[str, str] = field(default_factory=dict)  # source -> the photograph's name inside a Parquet file
    medmnist: list[str] = field(default_factory=list)  # MedMNIST files


def take_inventory(
    folder: Path, walked: Walked, labels: Path | None = None, remote_tables: Iterable[str] | None = None
) -> Inventory:
    """Lists what is below a folder, reads tables and opens archives.

    labels: the table that the user names; then no other is read.
    remote_tables: for a URL, the names of its tables, which were downloaded to `folder`; its archives are not opened.
    Raises SourceError if a table is broken.
    """
    inventory = Inventory(
        list(walked.photographs),
        refused=list(walked.refused),
        own_folders=list(walked.own_folders),
        left_out=walked.left_out,
    )
    on_disk: Counter[tuple[str, int]] = Counter()
    if any(_suffix(file) == ".zip" for file in walked.other_files):  # a pass over all photographs, only for archives
        on_disk.update((file.source.rpartition("/")[2], file.nbytes) for file in walked.photographs)
    parts: dict[str, list[str]] = {}
    for file in walked.other_files:
        if match := _PART.fullmatch(file.source):
            parts.setdefault(match[1] or match[3], []).append(file.source)
        elif remote_tables is None:
            _add_file(inventory, folder, file, labels, on_disk)
        elif _suffix(file) not in tables.SUFFIXES:
            inventory.unread.append(Refusal(file.source, _not_read(_suffix(file), remote=True)))
    if walked.photographs and inventory.medmnist:
        inventory.unread += [
            Refusal(name, "a MedMNIST file beside photographs: name it as SRC") for name in inventory.medmnist
        ]
        inventory.medmnist = []
    for joined, names in sorted(parts.items()):
        inventory.unread.append(Refusal(names[0], _how_to_join(joined, names)))
    for name in remote_tables or ():
        if labels is None:
            stat = (folder / name).stat()
            _read_table(inventory, folder / name, Found(name, stat.st_size, 0, 0))
    inventory.unread += walked.links
    for link in walked.links:
        if labels is None and suffix_of(link.source) in tables.SUFFIXES:
            why = f"a link that leads out of {folder}; name it with --labels, or read all links with --follow-links"
            raise SourceError(f"{folder / link.source}: {why}")
    if labels is not None:
        inventory.tables = named_tables(labels)
    inventory.photographs.sort(key=lambda file: file.source.split("/"))
    return inventory


def _suffix(file: Found) -> str:
    return split_suffix(file.source)[1].lower()


def _add_file(
    inventory: Inventory, folder: Path, file: Found, labels: Path | None, on_disk: Counter[tuple[str, int]]
) -> None:
    """Adds a file that is no photograph. on_disk: (name, bytes) of the photographs outside archives."""
    path, suffix = folder / file.source, _suffix(file)
    if suffix == ".zip":
        contents = archives.read_zip(path, file.source)
        members = Counter((re.split("[/#]", each.source)[-1], each.nbytes) for each in contents.photographs)
        if members and not members - on_disk:
            inventory.unread.append(Refusal(file.source, "an archive whose photographs are also here, unpacked"))
            contents.photographs.clear()
        _add(inventory, contents, labels)
    elif suffix == ".parquet":
        _add(inventory, archives.read_parquet(path, file.source), labels)
    elif suffix == ".npz":
        inventory.medmnist.append(file.source)
    elif suffix not in tables.SUFFIXES:
        inventory.unread.append(Refusal(file.source, _not_read(suffix)))
    elif labels is None:
        _read_table(inventory, path, file)
    elif path.absolute() != labels.absolute():
        inventory.unread.append(Refusal(file.source, "a table, not read: --labels names another"))


def _add(inventory: Inventory, contents: archives.ArchiveContents, labels: Path | None) -> None:
    inventory.photographs += contents.photographs
    inventory.unread += contents.unread
    inventory.names |= contents.names
    if labels is None:
        inventory.tables += contents.tables


def _read_table(inventory: Inventory, path: Path, file: Found) -> None:
    if file.nbytes > LARGEST_TABLE:
        inventory.unread.append(Refusal(file.source, f"{file.nbytes:,} bytes, too many for a table of photographs"))
        return
    try:
        inventory.tables += read_raw(file.source, read_file_bytes(path))
    except NoTable as error:
        inventory.unread.append(Refusal(file.source, str(error)))


def named_tables(labels: Path) -> list[RawTable]:
    """The tables in a file that the user names. Raises SourceError if it cannot be read."""
    try:
        if labels.suffix.lower() == ".parquet":
            contents = archives.read_parquet(labels, labels.name)
            if not contents.tables:
                raise SourceError(f"{labels}: {contents.unread[0].reason}")
            return contents.tables
        return read_raw(labels.name, read_file_bytes(labels))
    except NoTable as error:
        raise SourceError(f"{labels}: {error}") from error


def read_file_bytes(path: Path) -> bytes:
    """The bytes of a regular file. Raises SourceError if it cannot be read."""
    try:
        return read_regular(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error


def _not_read(suffix: str, remote: bool = False) -> str:
    """Why a file with this suffix is not read, and what to do."""
    if suffix in _ARCHIVES:
        return "an archive: unpack it first"
    if remote and suffix in (".zip", ".parquet", ".npz"):
        return "an archive behind a URL: copy it to a disk, or unpack it there"
    if suffix in (".json", ".feather", ".dta", ".sav", ".rds", ".numbers", ".mdb", ".accdb"):
        return "data of a kind that is not read: save the table as CSV or Excel"
    return "neither a photograph nor a table"


def _how_to_join(joined: str, names: Sequence[str]) -> str:
    """How to join the parts of an archive."""
    name = os.path.basename(joined)
    if re.search(r"\.z\d\d$", names[0], re.IGNORECASE):
        return f"a part of {name}.zip: join the parts with `zip -s 0 {name}.zip --out whole.zip`"
    windows = f"Windows: `copy /b {name}.* {name}`"
    return f"one of {len(names)} parts of {name}: join them with `cat {name}.* > {name}` ({windows})"
