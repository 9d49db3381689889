"""The files that this project writes, and how to recognise them. Imports nothing heavy."""

import errno
import json
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

INDEX: Final = "cache.json"
UNFINISHED: Final = "unfinished.json"
"""Takes the place of cache.json while the cache is written, with the same content."""
SHARDS: Final = "shards"
RUN_CONFIG: Final = "config.json"
EXTERNAL: Final = "external"
"""The folder of a run for external sets."""
EXPLAINED: Final = "explained.csv"
"""The record of a folder of `trainer explain`: EXPLAINED_COLUMNS, then a row for each file."""
SHEET: Final = "contact_sheet.png"
"""The contact sheet in that folder."""
EXPLAINED_COLUMNS: Final = ("file", "id", "source", "predicted", "explained", "probability")
MAKER: Final = "fundus-grading"
"""In the metadata of each picture that this program draws, so that no command grades it as a photograph."""
SYNTHETIC: Final = f"{MAKER} phantom, no photograph of an eye"
"""In the metadata of each eye that `tools phantom` draws or paints lesions on. Such pictures are prepared like
photographs, with a warning. It must not begin like `picture_mark`: pictures with that mark are refused."""
_HEAD: Final = 4096  # bytes
_CONFIG: Final = 1 << 20
"""Bytes of a config.json that are read. Those of runs have 2,000; a file without end must not hang a command."""
_OF_A_RUN: Final = re.compile(
    r"config\.json|summary\.json|dates\.json|model\.safetensors|last\.pt|previous\.pt|tensorboard"
    r"|accuracy\.(csv|png|svg)"
    r"|(predictions|metrics|confusion|roc|precision_recall|risk_coverage|reliability)_(train|val|test)(_counts)?\.(csv|json|png|svg)"
    r"|(decision_curve|referable_calibration)_(train|val|test)\.(png|svg)"
)


@dataclass(frozen=True)
class Kind:
    """A kind of file that a command writes, and how such a file is recognised."""

    what: str
    """Its name with an article, such as "a table of predictions"."""
    begins: bytes = b""
    """The first bytes of the file."""
    holds: bytes = b""
    """Bytes that it has anywhere."""
    suffix: str = ""
    """The suffix that its name must have; "": any."""

    def made(self, path: Path) -> bool:
        """Whether a file is of this kind. An empty file counts as one. Raises OSError if it cannot be read."""
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size == 0:
                return True
            rest = file.read(len(self.begins))
            if rest != self.begins:
                return False
            while block := file.read(1 << 20):
                if self.holds in rest + block:
                    return True
                rest = block[-len(self.holds) :] if self.holds else b""
        return self.holds in rest


def picture_kind(what: str, suffix: str = "") -> Kind:
    """The kind of PNG, JPEG and SVG files with `picture_mark(what)` in their metadata."""
    return Kind(what, holds=picture_mark(what).encode(), suffix=suffix)


def picture_mark(what: str) -> str:
    """The text that a picture's metadata has, such as "fundus-grading: a contact sheet"."""
    return f"{MAKER}: {what}"


def is_drawn_here(data: bytes | memoryview) -> bool:
    """Whether the first bytes of a picture have the mark of this program."""
    return f"{MAKER}: ".encode() in bytes(data[:_HEAD])


def is_synthetic(data: bytes | memoryview) -> bool:
    """Whether the first bytes of a picture say that `tools phantom` drew or painted it. The mark is searched as bytes,
    so it may be in a JPEG comment, a PNG text chunk or an EXIF field."""
    return SYNTHETIC.encode() in bytes(data[:_HEAD])


def is_cache(names: set[str]) -> bool:
    """Whether a folder with these names in it is a cache of this program, finished or not."""
    return SHARDS in names and not names.isdisjoint({INDEX, UNFINISHED})


def is_run(folder: Path) -> bool:
    """Whether a folder is a run of `trainer fit`, finished or not."""
    try:
        with open_regular(folder / RUN_CONFIG) as file:
            fields = json.loads(file.read(_CONFIG))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and {"asked", "resolved", "cache_digest"} <= fields.keys()


def is_explained(folder: Path) -> bool:
    """Whether `trainer explain` made a folder. The record alone is no proof: it may have been copied."""
    return is_record(folder / EXPLAINED) and is_drawn(folder / SHEET)


def is_record(path: Path) -> bool:
    """Whether a file is a record of `trainer explain`."""
    header = ",".join(EXPLAINED_COLUMNS).encode()
    try:
        with open_regular(path) as file:
            return file.read(len(header)) == header
    except OSError:
        return False


def is_drawn(path: Path) -> bool:
    """Whether a file is a picture that this program drew."""
    try:
        with open_regular(path) as file:
            return is_drawn_here(file.read(_HEAD))
    except OSError:
        return False


def open_regular(path: Path) -> IO[bytes]:
    """Opens a regular file for reading. Raises OSError for anything else. Never waits, for example for a FIFO."""
    # O_NONBLOCK: a FIFO that has replaced the file since it was listed must not hang the run.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = open(descriptor, "rb")  # noqa: SIM115  # the caller closes it
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def what_is(folder: Path, names: Iterable[str]) -> str:
    """What a folder with these names in it is: "a cache", "a run" or "pictures of `trainer explain`"; "" for any other
    folder."""
    there = set(names)
    if is_cache(there):
        return "a cache"
    if RUN_CONFIG in there and is_run(folder):
        return "a run"
    if EXPLAINED in there and is_explained(folder):
        return "pictures of `trainer explain`"
    return ""


def cache_around(path: Path) -> Path | None:
    """The cache that a path is in; None if it is in none. `path` must be absolute, with links resolved."""
    for folder in path.parents:
        marks = (folder / INDEX, folder / UNFINISHED)
        if any(map(os.path.exists, marks)) and os.path.isdir(folder / SHARDS):
            return folder
    return None


def belongs_to_run(path: Path) -> bool:
    """Whether a path is one of a file that a run writes itself. Reports and files of users do not count."""
    external = any(folder.name == EXTERNAL and is_run(folder.parent) for folder in list(path.parents)[:2])
    own = _OF_A_RUN.fullmatch(path.name.lower()) is not None  # some file systems ignore case
    return external or (own and is_run(path.parent))


def is_report_of_run(path: Path) -> bool:
    """Whether a path is that of a run's own report."""
    return re.fullmatch(r"report(_\w+)?\.html", path.name.lower()) is not None and is_run(path.parent)
