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
"""Stands in for cache.json, with what it said before, while the cache is being written."""
SHARDS: Final = "shards"
RUN_CONFIG: Final = "config.json"
EXTERNAL: Final = "external"
"""Folder of a run for what it was measured on besides its own cache."""
EXPLAINED: Final = "explained.csv"
"""The record of a folder that `trainer explain` has made: a row for each file, after this header."""
SHEET: Final = "contact_sheet.png"
"""Its contact sheet."""
EXPLAINED_COLUMNS: Final = ("file", "id", "source", "predicted", "explained", "probability")
MAKER: Final = "fundus-grading"
"""Stands in the head of each picture that is drawn here, so that nobody grades it as a photograph."""
SYNTHETIC: Final = f"{MAKER} phantom, no photograph of an eye"
"""Stands in the head of each eye that `tools phantom` draws or paints lesions on. Such pictures are read like
photographs, so whoever prepares them is told. It must not begin like `picture_mark`, which keeps pictures from being
read at all."""
_HEAD: Final = 4096  # bytes
_CONFIG: Final = 1 << 20
"""Bytes of a config.json that are read: ours have 2,000, and an endless one must not hang a command."""
_OF_A_RUN: Final = re.compile(
    r"config\.json|summary\.json|dates\.json|model\.safetensors|last\.pt|previous\.pt|tensorboard"
    r"|accuracy\.(csv|png|svg)"
    r"|(predictions|metrics|confusion|roc|precision_recall|risk_coverage|reliability)_(train|val|test)(_counts)?\.(csv|json|png|svg)"
    r"|(decision_curve|referable_calibration)_(train|val|test)\.(png|svg)"
)


@dataclass(frozen=True)
class Kind:
    """Files that one command writes, and how one of them is known."""

    what: str
    """With its article, as in "a table of predictions"."""
    begins: bytes = b""
    """Its first bytes."""
    holds: bytes = b""
    """And bytes anywhere in it."""
    suffix: str = ""
    """That its name must have; "" where any will do."""

    def made(self, path: Path) -> bool:
        """Whether a file is one of them; an empty file may become one. Raises OSError where it cannot be read."""
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
    """Of PNG, JPEG and SVG files that carry `picture_mark(what)`."""
    return Kind(what, holds=picture_mark(what).encode(), suffix=suffix)


def picture_mark(what: str) -> str:
    """What a picture's metadata says of its making, such as "fundus-grading: a contact sheet"."""
    return f"{MAKER}: {what}"


def is_drawn_here(data: bytes | memoryview) -> bool:
    """Whether a picture's first bytes say that it was drawn here."""
    return f"{MAKER}: ".encode() in bytes(data[:_HEAD])


def is_synthetic(data: bytes | memoryview) -> bool:
    """Whether a picture's first bytes say that `tools phantom` drew or painted it. The mark is looked for as bytes, so
    a JPEG comment, a PNG text chunk and an EXIF field all carry it."""
    return SYNTHETIC.encode() in bytes(data[:_HEAD])


def is_cache(names: set[str]) -> bool:
    """Whether a folder that holds these is a cache of ours, finished or not."""
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
    """Whether a folder holds what `trainer explain` drew: its record alone may have been copied to photographs."""
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
    """Whether a file is a picture that was drawn here."""
    try:
        with open_regular(path) as file:
            return is_drawn_here(file.read(_HEAD))
    except OSError:
        return False


def open_regular(path: Path) -> IO[bytes]:
    """A regular file opened to be read. Raises OSError for anything else, and never waits for a writer."""
    # O_NONBLOCK: a FIFO that took the file's place since it was listed must not hang the run.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = open(descriptor, "rb")  # noqa: SIM115  # the caller's
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def what_is(folder: Path, names: Iterable[str]) -> str:
    """What a folder that holds these names is to this program: "a cache", "a run", "pictures of `trainer explain`"; ""
    for any other folder."""
    there = set(names)
    if is_cache(there):
        return "a cache"
    if RUN_CONFIG in there and is_run(folder):
        return "a run"
    if EXPLAINED in there and is_explained(folder):
        return "pictures of `trainer explain`"
    return ""


def cache_around(path: Path) -> Path | None:
    """The cache that a path lies in, if any. `path` must be absolute and without links."""
    for folder in path.parents:
        marks = (folder / INDEX, folder / UNFINISHED)
        if any(map(os.path.exists, marks)) and os.path.isdir(folder / SHARDS):
            return folder
    return None


def belongs_to_run(path: Path) -> bool:
    """Whether a path is, or would be, a file that a run writes itself; reports and what users put there are none."""
    external = any(folder.name == EXTERNAL and is_run(folder.parent) for folder in list(path.parents)[:2])
    own = _OF_A_RUN.fullmatch(path.name.lower()) is not None  # a disk may not tell case
    return external or (own and is_run(path.parent))


def is_report_of_run(path: Path) -> bool:
    """Whether a path is where a run's own report lies."""
    return re.fullmatch(r"report(_\w+)?\.html", path.name.lower()) is not None and is_run(path.parent)
