"""What this program leaves on a disk, and how to tell it from what others have there. Imports nothing heavy."""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

INDEX: Final = "cache.json"
UNFINISHED: Final = "unfinished.json"
"""Stands in for cache.json, with what it said before, while the cache is being written."""
SHARDS: Final = "shards"
RUN_CONFIG: Final = "config.json"
EXPLAINED: Final = "explained.csv"
"""The record of a folder that `trainer explain` has made: a row for each file, after this header."""
EXPLAINED_COLUMNS: Final = ("file", "id", "source", "predicted", "explained", "probability")
MAKER: Final = "fundus-grading"
"""Stands in the head of each picture that is drawn here, so that nobody grades it as a photograph."""
_HEAD: Final = 4096  # bytes
_OF_A_RUN: Final = re.compile(
    r"config\.json|summary\.json|model\.safetensors|last\.pt|previous\.pt|tensorboard"
    r"|accuracy\.(csv|png|svg)"
    r"|(predictions|metrics|confusion|roc|precision_recall|reliability)_(train|val|test)(_counts)?\.(csv|json|png|svg)"
)


@dataclass(frozen=True)
class Kind:
    """Files that one command writes, and how one of them is known."""

    what: str
    """With its article, as in "a table of predictions"."""
    begins: bytes = b""
    """Its first bytes."""
    holds: bytes = b""
    """Or bytes anywhere in it."""
    suffix: str = ""
    """That its name must have; "" where any will do."""

    def made(self, path: Path) -> bool:
        """Whether a file is one of them; an empty file may become one. Raises OSError where it cannot be read."""
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return True
            if self.begins:
                return file.read(len(self.begins)) == self.begins
            rest = b""
            while block := file.read(1 << 20):
                if self.holds in rest + block:
                    return True
                rest = block[-len(self.holds) :]
        return False


def picture_kind(what: str, suffix: str = "") -> Kind:
    """Of PNG, JPEG and SVG files that carry `picture_mark(what)`."""
    return Kind(what, holds=picture_mark(what).encode(), suffix=suffix)


def picture_mark(what: str) -> str:
    """What a picture's metadata says of its making, such as "fundus-grading: a contact sheet"."""
    return f"{MAKER}: {what}"


def is_drawn_here(data: bytes | memoryview) -> bool:
    """Whether a picture's first bytes say that it was drawn here."""
    return f"{MAKER}: ".encode() in bytes(data[:_HEAD])


def is_cache(names: set[str]) -> bool:
    """Whether a folder that holds these is a cache of ours, finished or not."""
    return SHARDS in names and not names.isdisjoint({INDEX, UNFINISHED})


def is_run(folder: Path) -> bool:
    """Whether a folder is a run of `trainer fit`, finished or not."""
    try:
        fields = json.loads((folder / RUN_CONFIG).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(fields, dict) and {"asked", "resolved", "cache_digest"} <= fields.keys()


def is_explained(folder: Path) -> bool:
    """Whether a folder holds what `trainer explain` drew."""
    header = ",".join(EXPLAINED_COLUMNS).encode()
    try:
        with open(folder / EXPLAINED, "rb") as file:
            return file.read(len(header)) == header
    except OSError:
        return False


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
    return _OF_A_RUN.fullmatch(path.name) is not None and is_run(path.parent)
