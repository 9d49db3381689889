"""A cache's folder on this machine: its lock, leftover files, and whether it is unchanged."""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from pipeline.cache.index import ATTRIBUTES, MANIFEST, CacheIndex
from pipeline.cache.manifest import COLUMNS
from pipeline.cache.shards import is_shard_name, shard_name
from pipeline.errors import CacheError
from pipeline.storage.artifacts import INDEX, SHARDS, UNFINISHED, open_regular
from pipeline.storage.atomic import TMP_SUFFIX, is_unfinished, locked_folder, made_folder
from pipeline.storage.locks import remove_unused
from pipeline.storage.paths import names_below, sha256_of
from pipeline.storage.url import Url

_INDEX_MARKS: Final = (b'"source_digest"', b'"split_seed"', b'"recipe"')
_WORKER_FILE: Final = re.compile(
    rf"(\d{{4,}}\.tar\..+|[0-9a-f]{{32}}|cache\.json|unfinished\.json|manifest\.csv|rejects\.csv|attributes\.csv)\{TMP_SUFFIX}"
)
"""Shards that are being built, marks that workers look for, and what earlier versions called half-written files."""


def verify_files(path: Path | Url, index: CacheIndex) -> list[str]:
    """What of a cache's files is not as it was written: one line each, none when all is well. Reads every byte."""
    wanted = index.tables
    wanted |= {f"{SHARDS}/{shard_name(number)}": record.sha256 for number, record in enumerate(index.shards)}
    problems = []
    for name, digest in wanted.items():
        found = sha256_of(path / name)
        if found != digest:
            problems.append(f"{name}: {'missing' if found is None else 'damaged'}")
    foreign = names_below(path) - {INDEX, *wanted}
    problems += [f"{name}: does not belong to the cache" for name in sorted(foreign)]
    return problems


def sweep(path: Path, index: CacheIndex) -> None:
    """Removes what a killed run left behind, and what a finished cache has no longer: shards, attributes.

    What others have put there stays; `verify_files` names it.
    """
    keep = {shard_name(number) for number in range(len(index.shards))}
    sweep_unfinished(path)
    (path / UNFINISHED).unlink(missing_ok=True)
    if not index.attributes:
        (path / ATTRIBUTES).unlink(missing_ok=True)
    for file in (path / SHARDS).iterdir():
        if is_shard_name(file.name) and file.name not in keep:
            file.unlink()


def sweep_unfinished(path: Path) -> None:
    """Removes half-written files, which only the owner of the lock may do."""
    for folder in (path, path / SHARDS):
        for name in os.listdir(folder) if folder.is_dir() else ():
            if _is_unfinished(name):
                remove_unused(folder / name)


def _is_unfinished(name: str) -> bool:
    """Whether a file's name is one that only half-written files of a cache have; other .tmp files are somebody's."""
    return is_unfinished(name) or _WORKER_FILE.fullmatch(name) is not None


def _holds_cache(path: Path) -> bool:
    """Whether a folder holds a cache of ours, damaged ones included: others have a cache.json too."""
    marks = {INDEX: _INDEX_MARKS, UNFINISHED: _INDEX_MARKS, MANIFEST: (",".join(COLUMNS[:5]).encode(),)}
    for name, texts in marks.items():
        try:
            with open_regular(path / name) as file:
                head = file.read(1 << 20)
        except OSError:
            continue
        if any(mark in head for mark in texts):
            return True
    return False


@contextmanager
def claim(path: Path) -> Iterator[None]:
    """A folder to write a cache into, made if need be and locked for one writer. One that was made for nothing goes
    again.

    Raises CacheError for a folder that is somebody else's: not empty, and neither a cache nor the beginning of one; and
    while another process writes it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(made_folder(path))
            foreign = [name for name in os.listdir(path) if not _is_unfinished(name)]
        except OSError as error:
            raise CacheError(f"{path}: no folder to write a cache into ({error.strerror})") from error
        if foreign and not _holds_cache(path):
            raise CacheError(f"{path} holds {foreign[0]!r} and is no cache; choose another folder with --out")
        try:
            stack.enter_context(locked_folder(path))
        except BlockingIOError as error:
            raise CacheError(f"{path} is being written by another `tools preprocess`; wait until it ends") from error
        except OSError as error:
            raise CacheError(f"{path}: cannot be locked ({error.strerror}); choose another file system") from error
        try:
            yield
        finally:
            with suppress(OSError):
                sweep_unfinished(path)
