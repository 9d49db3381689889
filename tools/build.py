"""The part of preprocessing that workers do: build the shards of one group, from old entries and from photographs.

A group is the shards that share their predecessors when the number of shards changes, usually a single one; a worker
has read all that it may copy before it replaces anything.
"""

import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_bool, c_int64
from multiprocessing import get_context, parent_process
from multiprocessing.sharedctypes import RawValue, Synchronized
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2

from pipeline.cache import ShardRecord
from pipeline.errors import PhotoError, SourceError
from pipeline.recipe import Recipe, prepare
from pipeline.shards import Entry, Indexed, scan_shard, shard_name, write_shard
from pipeline.url import Url
from pipeline.walk import Refusal
from tools.sources import Sample, read_source

CLOCK_SLACK_NS: Final = 2_000_000_000
"""A shard is dated this much before its work began. A photograph changed since then is looked into, whatever its size
and modification time say; two seconds cover the coarse clocks of file systems and the other clocks of file servers."""

WAITING: Final = 4
"""More threads where photographs come from a URL: 50 ms of waiting beside 100 ms of work, less on a fast core."""


class Group(NamedTuple):
    """What a worker needs to build some shards."""

    root: Path | Url
    folder: Path  # of the shards
    recipe: Recipe
    shards: dict[int, list[Sample]]  # shard -> its samples, in the order they are written
    predecessors: list[Path]  # shards to copy unchanged entries from
    refused: dict[str, str]  # source -> reason, of photographs refused before and not touched since
    mtimes: dict[str, int]  # source -> modification time when it was cached, ns, where that is known
    in_a_row: int  # so many photographs refused on end stop the run; 0: any number is fine
    threads: int


class Built(NamedTuple):
    """What came of a group."""

    entries: dict[int, list[Indexed]]  # by shard
    records: dict[int, ShardRecord]
    refused: list[Refusal]
    encoded: int


class Stopped(Exception):
    """The run is over; finish nothing."""


class Signals(NamedTuple):
    """Shared by the main process and the workers.

    The main process reads and writes without a lock: a worker may have been killed while it held one.
    """

    done: "Synchronized[int]"  # photographs looked at so far
    stop: c_bool  # end at the next photograph

    @classmethod
    def make(cls) -> "Signals":
        return cls(get_context("spawn").Value(c_int64, 0), RawValue(c_bool, False))

    @property
    def photographs(self) -> int:
        return self.done.get_obj().value


_signals: Signals


def start_worker(signals: Signals) -> None:
    """To be called in a worker, process or thread, before its first group."""
    global _signals
    _signals = signals
    cv2.setNumThreads(1)  # the workers are the threads
    parent = parent_process()
    if parent is not None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # Ctrl-C stays blocked: the main process hears it

        def die_with_parent() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=die_with_parent, daemon=True).start()


class _Old(NamedTuple):
    jpeg: bytes
    meta: dict[str, Any]
    dated: int  # the shard's modification time, ns


class _Made(NamedTuple):
    entry: Entry | Refusal
    read: bool = False  # an entry's photograph was opened, not only its date looked at
    encoded: bool = False


def build_group(group: Group) -> Built:
    """Builds a group's shards. Raises Stopped when told to end, SourceError for too many refusals in a row."""
    began = time.time_ns() - CLOCK_SLACK_NS
    old = {
        entry.id: _Old(entry.jpeg, entry.meta, path.stat().st_mtime_ns)
        for path in group.predecessors
        for entry in scan_shard(path)
        if entry.meta.get("recipe") == group.recipe.digest
    }
    built = Built({}, {}, [], 0)
    encoded = in_a_row = read = 0
    with ThreadPoolExecutor(group.threads + (WAITING if isinstance(group.root, Url) else 0)) as pool:
        for shard, samples in group.shards.items():

            def entries(samples: list[Sample] = samples) -> Iterator[Entry]:
                nonlocal encoded, in_a_row, read
                for made in pool.map(lambda sample: _make(group, sample, old.get(sample.id)), samples):
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
                            f"{in_a_row} photographs in a row are refused; is the disk ill? the last one: "
                            f"{made.entry.source}: {made.entry.reason}"
                        )

            index, digest, nbytes = write_shard(group.folder / shard_name(shard), entries(), began)
            if read:  # a shard that came out as it was keeps its old date otherwise
                os.utime(group.folder / shard_name(shard), ns=(began, began))
            built.entries[shard] = index
            sources = "".join(f"{row.id}\0{row.meta['source_sha256']}\n" for row in index)
            built.records[shard] = ShardRecord(nbytes, digest, _sha256(sources.encode("utf-8", "surrogateescape")))
    return built._replace(encoded=encoded)


def _make(group: Group, sample: Sample, old: _Old | None) -> _Made:
    """An old entry where it still holds, else the photograph prepared anew, else why not."""
    if _signals.stop.value:
        raise Stopped
    found = sample.found
    try:
        if found.source in group.refused:
            return _Made(Refusal(found.source, group.refused[found.source]))
        if old is not None and _untouched(group, sample, old):
            return _Made(Entry(sample.id, old.jpeg, old.meta, sample.grade))
        try:
            data = read_source(group.root, found.source)
        except OSError as error:
            return _Made(Refusal(found.source, f"cannot be read ({error.strerror or error})"))
        digest = _sha256(data)
        if old is not None and old.meta["source_sha256"] == digest:
            meta = {**old.meta, "source": found.source}
            return _Made(Entry(sample.id, old.jpeg, meta, sample.grade), read=True)
        try:
            prepared = prepare(data, group.recipe)
        except PhotoError as error:
            return _Made(Refusal(found.source, error.message))
        disc = None if prepared.disc is None else [round(value, 1) for value in prepared.disc]
        meta = {
            "source": found.source,
            "source_bytes": found.nbytes,
            "source_sha256": digest,
            "width": prepared.width,
            "height": prepared.height,
            "disc": disc,
            "flags": list(prepared.flags),
            "recipe": group.recipe.digest,
        }
        return _Made(Entry(sample.id, prepared.jpeg, meta, sample.grade), read=True, encoded=True)
    finally:
        with _signals.done.get_lock():
            _signals.done.value += 1


def _untouched(group: Group, sample: Sample, old: _Old) -> bool:
    """Whether the photograph is the one that was cached, by what the file system says of it."""
    found = sample.found
    return (
        old.meta["source"] == found.source
        and group.mtimes.get(found.source, found.mtime_ns) == found.mtime_ns
        and found.ctime_ns < old.dated
        and old.meta["source_bytes"] == found.nbytes
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
