"""The part of preprocessing that workers do: build the shards of one group, from old entries and from photographs.

A group is the shards that share their predecessors when the number of shards changes, usually a single one. Workers
write files of names that nobody else has; only the process that holds the lock of the cache renames them. So
one that was given up for dead, and its group to another, may go on: it harms nothing.
"""

import filecmp
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from uuid import uuid4

from pipeline.cache.index import ShardRecord
from pipeline.cache.shards import Entry, Indexed, scan_shard, shard_name, write_shard
from pipeline.cache.writing import make_entry, make_record, with_place
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
"""A shard is dated this much before its run began, by the clock of the process that gave out the work. A photograph
changed since then is looked into, whatever its size and modification time say; two seconds cover the coarse clocks of
file systems and the other clocks of file servers."""

WAITING: Final = 4
"""More threads where photographs come from a URL: 50 ms of waiting beside 100 ms of work, less on a fast core."""


class Group(NamedTuple):
    """What a worker needs to build some shards. Paths are absolute: a worker may run elsewhere."""

    root: Path | Url
    folder: Path  # of the shards
    recipe: Recipe
    shards: dict[
        int, list[ListedSample]
    ]  # shard, the highest first -> its samples, with their splits, in the order they are written
    predecessors: list[Path]  # shards to copy unchanged entries from
    refused: dict[str, str]  # source -> reason, of photographs refused before and not touched since
    mtimes: dict[str, int]  # source -> modification time when it was cached, ns, where that is known
    in_a_row: int  # so many photographs refused on end stop the run; 0: any number is fine
    dated: int  # modification time of the shards, ns
    threads: int
    keep_blank: bool = False
    copy: bool = False  # every entry is there already, and only its patient and split are others


class Built(NamedTuple):
    """What came of a group."""

    entries: dict[int, list[Indexed]]  # by shard
    records: dict[int, ShardRecord]
    files: dict[int, str]  # shard, the highest first -> its file's name for now; none for one that stays as it is
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


class _Old(NamedTuple):
    jpeg: bytes
    meta: dict[str, Any]
    dated: int  # the shard's modification time, ns


class _Made(NamedTuple):
    entry: Entry | Refusal
    read: bool = False  # an entry's photograph was opened, not only its date looked at
    encoded: bool = False


def build_group(group: Group, signals: Signals) -> Built:
    """Builds a group's shards. Raises BuildStopped when told to end, SourceError for too many refusals in a row."""
    attempt = uuid4().hex[:12]
    old = {
        entry.id: _Old(entry.jpeg, entry.meta, path.stat().st_mtime_ns)
        for path in group.predecessors
        for entry in scan_shard(path)
        if entry.meta.get("recipe") == group.recipe.digest
    }
    built = Built({}, {}, {}, [], 0)
    encoded = in_a_row = read = 0
    with ThreadPoolExecutor(group.threads + (WAITING if isinstance(group.root, Url) else 0)) as pool:
        for shard, samples in group.shards.items():

            def entries(samples: list[ListedSample] = samples) -> Iterator[Entry]:
                nonlocal encoded, in_a_row, read
                for made in pool.map(lambda sample: _make(group, sample, old.get(sample.id), signals), samples):
                    encoded += made.encoded
                    read += made.read
                    if isinstance(made.entry, Entry):
                        in_a_row = 0
                        yield made.entry
                        continue
                    built.refused.append(made.entry)
                    in_a_row += 1
                    if in_a_row == group.in_a_row:
                        raise SourceError(
                            f"{in_a_row} photographs in a row are refused; the disk may be failing; the last one: "
                            f"{made.entry.source}: {made.entry.reason}"
                        )

            path = group.folder / shard_name(shard)
            unnamed = path.with_name(f"{path.name}.{attempt}{TMP_SUFFIX}")
            index, digest, nbytes = write_shard(unnamed, entries(), group.dated)
            if not read and path.is_file() and filecmp.cmp(unnamed, path, shallow=False):
                unnamed.unlink()  # one that came out as it was keeps its date
            else:
                built.files[shard] = unnamed.name
            built.entries[shard] = index
            built.records[shard] = make_record(index, digest, nbytes)
    return built._replace(encoded=encoded)


def publish_shards(built: Built, folder: Path) -> None:
    """Gives a group's shards their names; only the process that holds the lock of the cache may do so.

    Killed half-way, the rest of a group finds its predecessors still under the low numbers.
    """
    for shard, name in built.files.items():
        replace(folder / name, folder / shard_name(shard))
    sync_folder(folder)


def _make(group: Group, sample: ListedSample, old: _Old | None, signals: Signals) -> _Made:
    """An old entry where it still holds, else the photograph prepared anew, else why not."""
    file = sample.file
    signals.begin(file.source)
    try:
        if file.source in group.refused:
            return _Made(Refusal(file.source, group.refused[file.source]))
        if old is not None and (group.copy or _untouched(group, sample, old)):
            return _Made(_entry(group, sample, old.jpeg, old.meta))
        if group.copy:
            raise CacheError(f"{sample.id} was damaged in {group.folder} meanwhile; run the same command to continue")
        try:
            data = read_source(group.root, file.source)
        except OSError as error:
            return _Made(Refusal(file.source, f"cannot be read ({error.strerror or error})"))
        digest = _sha256(data)
        if old is not None and old.meta["source_sha256"] == digest:
            meta = {**old.meta, "source": file.source}
            return _Made(_entry(group, sample, old.jpeg, meta), read=True)
        try:
            prepared = prepare(data, group.recipe)
        except PhotoError as error:
            return _Made(Refusal(file.source, error.message))
        made = make_entry(sample.id, sample.grade, file, digest, prepared, group.recipe)
        return _Made(_entry(group, sample, made.jpeg, made.meta), read=True, encoded=True)
    finally:
        signals.end(file.source)


def _entry(group: Group, sample: ListedSample, jpeg: bytes, meta: dict[str, Any]) -> Entry:
    split = split_of(sample.split, meta["flags"], keep_blank=group.keep_blank)
    return with_place(Entry(sample.id, jpeg, meta, sample.grade), sample.patient, split)


def _untouched(group: Group, sample: ListedSample, old: _Old) -> bool:
    """Whether the photograph is the one that was cached, by what the file system says of it."""
    file = sample.file
    return (
        old.meta["source"] == file.source
        and group.mtimes.get(file.source, file.mtime_ns) == file.mtime_ns
        and file.ctime_ns < old.dated
        and old.meta["source_bytes"] == file.nbytes
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
