"""The folder of a cache on this machine: its lock, leftover files, and whether its files are intact."""

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
"""Names of shards that are being built, of marker files for workers, and of unfinished files of earlier versions."""


def verify_files(path: Path | Url, index: CacheIndex) -> list[str]:
    """Compares a cache's files with its index, reading every byte. One line per problem, none if all is well."""
    wanted = {**index.tables, **index.shard_digests}
    problems = []
    for name, digest in wanted.items():
        found = sha256_of(path / name)
        if found != digest:
            problems.append(f"{name}: {'missing' if found is None else 'damaged'}")
    foreign = names_below(path) - {INDEX, *wanted}
    problems += [f"{name}: does not belong to the cache" for name in sorted(foreign)]
    return problems


def sweep(path: Path, index: CacheIndex) -> None:
    """Removes leftovers of a killed run, and shards and attributes that the finished cache no longer has.

    Files of other programs stay; `verify_files` names them.
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
    """Removes unfinished files. Only the owner of the lock may call it."""
    for folder in (path, path / SHARDS):
        for name in os.listdir(folder) if folder.is_dir() else ():
            if _is_unfinished(name):
                remove_unused(folder / name)


def _is_unfinished(name: str) -> bool:
    """Whether a name is one that only unfinished files of a cache have. Other .tmp files belong to other programs."""
    return is_unfinished(name) or _WORKER_FILE.fullmatch(name) is not None


def _holds_cache(path: Path) -> bool:
    """Whether a folder holds a cache of this program, damaged or not. Other programs write a cache.json too."""
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
    """Creates a folder for a cache if needed, and locks it for one writer.

    If the block fails, a folder that was created for it and is still empty is removed.

    Raises CacheError if the folder is not empty and is neither a cache nor an unfinished one, if another process is
    writing it, or if it cannot be created or locked.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(made_folder(path))
            foreign = [name for name in os.listdir(path) if not _is_unfinished(name)]
        except OSError as error:
            raise CacheError(f"{path}: a cache cannot be written there ({error.strerror})") from error
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
