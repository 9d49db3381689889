"""Builds the shards of one group, from cached entries and from photographs. This is the part that workers do.

A group has the shards that share their predecessors when the number of shards changes, usually a single shard. A worker
writes files with unique names; only the process that holds the lock of the cache renames them. So a worker that was
taken for dead may still be running: it does no harm.
"""

import filecmp
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from uuid import uuid4

from pipeline.cache.index import ShardRecord
from pipeline.cache.shards import Entry, WrittenEntry, scan_shard, shard_name, write_shard
from pipeline.cache.writing import make_entry, make_record, with_patient_and_split
from pipeline.errors import CacheError, PhotoError, SourceError
from pipeline.photos.discovery import Refusal
from pipeline.photos.preparation import Recipe, prepare
from pipeline.storage.atomic import TMP_SUFFIX, sync_folder
from pipeline.storage.locks import replace
from pipeline.storage.url import Url
from tools.preprocessing.splits import split_of
from tools.sources.archives import read_source
from tools.sources.listing import ListedSample

CLOCK_SLACK_NS: Final = 2_000_000_000
"""The modification time of a shard is this long before the start of its run, by the clock of the main process. A
photograph that changed later is read, even if its size and modification time are the same. Two seconds cover the coarse
clocks of file systems and the different clocks of file servers."""

URL_THREADS: Final = 4
"""Additional threads if photographs come from a URL: 50 ms of waiting for 100 ms of work, less work on a fast core."""


class Group(NamedTuple):
    """The work for one worker. Paths are absolute: a worker may have another working directory."""

    root: Path | Url  # SRC
    folder: Path  # of the shards
    recipe: Recipe
    shards: dict[int, list[ListedSample]]
    """Shard, the highest first -> its samples, with their splits, in the order of the file."""
    predecessors: list[Path]  # shards with entries that may still be right
    refused: dict[str, str]  # source -> reason, of photographs that were refused before and have not changed
    mtimes: dict[str, int]  # source -> modification time when it was cached, ns, if it is known
    max_consecutive_refused: int  # this many in a row stop the run; 0: no limit
    mtime_ns: int  # modification time of the new shards
    threads: int
    keep_blank: bool = False
    copy: bool = False  # copy every entry: only patients and splits have changed


class Built(NamedTuple):
    """The result of a group."""

    entries: dict[int, list[WrittenEntry]]  # by shard
    records: dict[int, ShardRecord]
    files: dict[int, str]  # shard, the highest first -> temporary file name; a shard that has not changed is left out
    refused: list[Refusal]
    encoded: int


class BuildStopped(Exception):
    """The run ends: build nothing more."""


class Signals(Protocol):
    """How a worker and the process that gave it a group speak to each other. Called from several threads."""

    def begin(self, source: str) -> None:
        """Called before a photograph is worked on. Raises BuildStopped if the run ends."""

    def end(self, source: str) -> None:
        """Called after it."""


class _CachedEntry(NamedTuple):
    jpeg: bytes
    meta: dict[str, Any]
    shard_mtime_ns: int


class _Result(NamedTuple):
    """The result of a photograph."""

    entry: Entry | Refusal
    read: bool = False  # whether the photograph was opened
    encoded: bool = False


def build_group(group: Group, signals: Signals) -> Built:
    """Builds the shards of a group. Raises BuildStopped if the run ends, SourceError for too many refusals in a row."""
    attempt = uuid4().hex[:12]
    old = {
        entry.id: _CachedEntry(entry.jpeg, entry.meta, path.stat().st_mtime_ns)
        for path in group.predecessors
        for entry in scan_shard(path)
        if entry.meta.get("recipe") == group.recipe.digest
    }
    built = Built({}, {}, {}, [], 0)
    encoded = in_a_row = read = 0
    with ThreadPoolExecutor(group.threads + (URL_THREADS if isinstance(group.root, Url) else 0)) as pool:
        for shard, samples in group.shards.items():

            def entries(samples: list[ListedSample] = samples) -> Iterator[Entry]:
                nonlocal encoded, in_a_row, read
                for result in pool.map(lambda sample: _make(group, sample, old.get(sample.id), signals), samples):
                    encoded += result.encoded
                    read += result.read
                    if isinstance(result.entry, Entry):
                        in_a_row = 0
                        yield result.entry
                        continue
                    built.refused.append(result.entry)
                    in_a_row += 1
                    if in_a_row == group.max_consecutive_refused:
                        raise SourceError(
                            f"{in_a_row} photographs in a row are refused; the disk may be failing; the last one: "
                            f"{result.entry.source}: {result.entry.reason}"
                        )

            path = group.folder / shard_name(shard)
            unnamed = path.with_name(f"{path.name}.{attempt}{TMP_SUFFIX}")
            index, digest, nbytes = write_shard(unnamed, entries(), group.mtime_ns)
            if not read and path.is_file() and filecmp.cmp(unnamed, path, shallow=False):
                unnamed.unlink()  # an unchanged shard keeps its modification time
            else:
                built.files[shard] = unnamed.name
            built.entries[shard] = index
            built.records[shard] = make_record(index, digest, nbytes)
    return built._replace(encoded=encoded)


def publish_shards(built: Built, folder: Path) -> None:
    """Gives the shards of a group their final names. Only the process that holds the lock of the cache may call this.

    The highest shard is first: if the process is killed half-way, the predecessors, which have low numbers, are still
    there for the rest of the group.
    """
    for shard, name in built.files.items():
        replace(folder / name, folder / shard_name(shard))
    sync_folder(folder)


def _make(group: Group, sample: ListedSample, old: _CachedEntry | None, signals: Signals) -> _Result:
    """The cached entry if it is still right, else the photograph, prepared; a Refusal if that fails."""
    file = sample.file
    signals.begin(file.source)
    try:
        if file.source in group.refused:
            return _Result(Refusal(file.source, group.refused[file.source]))
        if old is not None and (group.copy or _unchanged(group, sample, old)):
            return _Result(_entry(group, sample, old.jpeg, old.meta))
        if group.copy:
            raise CacheError(
                f"{sample.id} was damaged in {group.folder} during this run; run the same command to continue"
            )
        try:
            data = read_source(group.root, file.source)
        except OSError as error:
            return _Result(Refusal(file.source, f"cannot be read ({error.strerror or error})"))
        digest = hashlib.sha256(data).hexdigest()
        if old is not None and old.meta["source_sha256"] == digest:
            meta = {**old.meta, "source": file.source}
            return _Result(_entry(group, sample, old.jpeg, meta), read=True)
        try:
            prepared = prepare(data, group.recipe)
        except PhotoError as error:
            return _Result(Refusal(file.source, error.message))
        entry = make_entry(sample.id, sample.grade, file, digest, prepared, group.recipe)
        return _Result(_entry(group, sample, entry.jpeg, entry.meta), read=True, encoded=True)
    finally:
        signals.end(file.source)


def _entry(group: Group, sample: ListedSample, jpeg: bytes, meta: dict[str, Any]) -> Entry:
    """An entry with the grade, the patient and the split of its sample."""
    split = split_of(sample.split, meta["flags"], keep_blank=group.keep_blank)
    return with_patient_and_split(Entry(sample.id, jpeg, meta, sample.grade), sample.patient, split)


def _unchanged(group: Group, sample: ListedSample, old: _CachedEntry) -> bool:
    """Whether the photograph is the one that was cached, by its path, size and times."""
    file = sample.file
    return (
        old.meta["source"] == file.source
        and group.mtimes.get(file.source, file.mtime_ns) == file.mtime_ns
        and file.ctime_ns < old.shard_mtime_ns
        and old.meta["source_bytes"] == file.nbytes
    )
