"""The shards of a cache behind a URL. Each is downloaded once, as a whole, shortly before it is read.

They are kept in a folder of this machine (pipeline.storage.local_cache) up to its capacity.
"""

import hashlib
import mmap
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import count
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.index import ShardRecord
from pipeline.cache.shards import shard_name
from pipeline.errors import CacheError, StoreError
from pipeline.storage import object_store
from pipeline.storage.local_cache import Blob, LocalFolder
from pipeline.storage.url import Url

THREADS: Final = 4
"""Downloads at the same time: four shards of 30 MB, with 50 ms and 100 MB/s each, fill a link of 3 Gbit/s."""
SLACK: Final = 16
"""Number of reads by which threads may deviate from the plan: a shard is in use until so many reads after its last."""
MAPS: Final = 256
"""Shards that are mapped at the same time. Each map keeps a file open, of which a process may have 1024; a new map
takes 30 us."""
NOTHING: Final = np.empty(0, np.int64)


class RemoteShards:
    """A ShardStore (pipeline.cache.shard_store) of a cache behind a URL."""

    evicts: Final = True

    def __init__(self, url: Url, records: Sequence[ShardRecord], folder: LocalFolder) -> None:
        """url: of the folder of shards. records: the entries of cache.json, one a shard. folder: on this machine."""
        self._url, self._folder = url, folder
        self._blobs = [Blob(record.sha256, record.nbytes) for record in records]
        self._maps: dict[int, mmap.mmap] = {}
        self._lock = threading.Lock()
        self._failed: StoreError | None = None  # until the next epoch
        self._damaged: dict[int, CacheError] = {}
        self._under_way = 0
        self._follow(NOTHING)

    @property
    def shuffle_block(self) -> int | None:
        """Half as many shards as fit on this machine, because as many others are being downloaded. None if all fit."""
        sizes = [blob.nbytes for blob in self._blobs]
        return None if sum(sizes) <= self._folder.capacity else max(1, self._folder.capacity // max(sizes) // 2)

    def map(self, shard: int) -> mmap.mmap:
        self._read = read = next(self._count)  # counting is atomic, an increment would not be
        if read > self._until:
            self._go_ahead()
        found = self._maps.get(shard)
        return self._bring(shard) if found is None else found

    def read_range(self, shard: int, offset: int, nbytes: int) -> bytes | None:
        if shard in self._maps or self._folder.has(self._blobs[shard]):
            return None
        with suppress(FileNotFoundError):
            return object_store.read(self._url / shard_name(shard), part=(offset, offset + nbytes))
        return None  # `map` raises that it is missing

    def prefetch(self, batches: Iterable[NDArray[np.int64]]) -> None:
        self._failed = None
        self._damaged.clear()
        self._follow(np.concatenate([NOTHING, *batches]))
        self._go_ahead()

    def discard(self, shard: int) -> bool:
        self._maps.pop(shard, None)
        self._folder.discard(self._blobs[shard])
        return True

    def close(self) -> None:
        self._follow(NOTHING)
        self._maps.clear()

    def _follow(self, shards: NDArray[np.int64]) -> None:
        numbers, first = np.unique(shards, return_index=True)
        last = len(shards) - 1 - np.unique(shards[::-1], return_index=True)[1]
        with self._lock:
            self._count, self._read = count(1), 0
            self._last = dict(zip(numbers.tolist(), last.tolist(), strict=True))
            self._ahead = deque(numbers[np.argsort(first)].tolist())
            self._window: set[int] = set()  # in use, or downloaded for the reads that come next
            self._until = len(shards)  # the read at which the window changes

    def _go_ahead(self) -> None:
        """Starts the downloads of the next shards, as far as they fit beside those that are in use."""
        with self._lock:
            done = self._read - SLACK  # places of the plan
            self._window = {shard for shard in self._window if self._last[shard] >= done}
            while self._ahead and self._under_way < THREADS:
                shard = self._ahead[0]
                if self._last[shard] < done:  # all its reads are over: a reader downloaded it
                    self._ahead.popleft()
                    continue
                coming = self._window | {shard}
                if self._window and sum(self._blobs[each].nbytes for each in coming) > self._folder.capacity:
                    break
                self._window = coming
                self._ahead.popleft()
                if shard in self._maps:
                    self._folder.touch(self._blobs[shard])
                    continue
                self._under_way += 1
                # A daemon, because the program must not wait for it at its end.
                threading.Thread(target=self._fetch, args=(shard,), name="remote shards", daemon=True).start()
            self._until = SLACK + min((self._last[shard] for shard in self._window), default=self._read)

    def _fetch(self, shard: int) -> None:
        try:
            self._bring(shard)
        except (StoreError, CacheError):
            return  # the reader gets the error
        finally:
            with self._lock:
                self._under_way -= 1
        self._go_ahead()

    def _bring(self, shard: int) -> mmap.mmap:
        blob = self._blobs[shard]
        evict_last = {self._blobs[each].sha256 for each in self._window}
        found = self._folder.open(blob, lambda: self._download(shard), evict_last)
        with self._lock:
            self._maps[shard] = found
            if len(self._maps) > MAPS:
                self._maps.pop(next(iter(self._maps)))
        return found

    def _download(self, shard: int) -> bytes:
        if failed := self._failed or self._damaged.get(shard):
            raise failed
        for other in list(self._maps):  # an evicted file stays on the disk as long as it is mapped
            if other not in self._window and not self._folder.has(self._blobs[other]):
                self._maps.pop(other, None)
        try:
            return read_checked(self._url / shard_name(shard), self._blobs[shard].sha256)
        except StoreError as error:
            self._failed = error  # after half a minute of retries, which other reads need not repeat
            raise
        except CacheError as error:
            self._damaged[shard] = error
            raise


def read_checked(url: Url, sha256: str) -> bytes:
    """The bytes of a file, verified. sha256: 64 hex digits.

    Raises CacheError if the file is missing or has another digest, StoreError if it cannot be downloaded.
    """
    for _ in range(2):
        try:
            data = object_store.read(url)
        except FileNotFoundError as error:
            raise CacheError(f"{url}: is missing; `tools preprocess` repairs it") from error
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
    raise CacheError(f"{url}: damaged, or changed since cache.json was read; `tools preprocess` repairs it")
