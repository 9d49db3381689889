"""Where the shards of an open cache lie: in its folder, or behind a URL (pipeline.cache.remote_shards).

A cache reads through a `ShardStore` and does not know which kind it is.
"""

import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.index import CacheIndex
from pipeline.cache.shards import shard_name
from pipeline.storage.artifacts import SHARDS
from pipeline.storage.url import Url


class ShardStore(Protocol):
    """Gives the shards of one cache, by number from 0 on. Safe to use from several threads."""

    @property
    def shuffle_block(self) -> int | None:
        """How many shards a shuffle should mix at a time, at least 1. None if all shards stay on this machine."""
        ...

    @property
    def evicts(self) -> bool:
        """Whether a shard that was read may be deleted from this machine, and downloaded again when it is next read."""
        ...

    def map(self, shard: int) -> mmap.mmap:
        """The bytes of a shard, read-only. Waits for the download if the shard is not on this machine.

        Raises CacheError if the shard is missing or damaged behind its URL, StoreError if it cannot be downloaded,
        OSError or ValueError if its file cannot be mapped.
        """
        ...

    def read_range(self, shard: int, offset: int, nbytes: int) -> bytes | None:
        """Part of a shard, not verified, without a download of the whole. None if `map` is no slower.

        offset, nbytes: in bytes. Raises StoreError if they cannot be downloaded.
        """
        ...

    def prefetch(self, batches: Iterable[NDArray[np.int64]]) -> None:
        """Tells which shards will be read, in the order of the reads, so that they are downloaded in time.

        batches: int64 (n,), for each batch the shard of each of its n reads. They replace those of an earlier call.
        """
        ...

    def discard(self, shard: int) -> bool:
        """Deletes this machine's copy of a damaged shard. Returns whether the next `map` downloads a new one; False
        leaves the shard as it is."""
        ...

    def close(self) -> None:
        """Releases the maps and starts no more downloads. A view of a map stays valid."""
        ...


class LocalShards:
    """A ShardStore of a cache on this machine's disk."""

    shuffle_block: Final = None
    evicts: Final = False

    def __init__(self, folder: Path) -> None:
        """folder: the cache's folder of shards."""
        self._folder = folder
        self._maps: dict[int, mmap.mmap] = {}

    def map(self, shard: int) -> mmap.mmap:
        found = self._maps.get(shard)
        if found is None:
            with open(self._folder / shard_name(shard), "rb") as file:
                # Two threads may map a shard at the same time: setdefault keeps one map, the other is collected.
                found = self._maps.setdefault(shard, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return found

    def read_range(self, shard: int, offset: int, nbytes: int) -> None:
        return None

    def prefetch(self, batches: Iterable[NDArray[np.int64]]) -> None:
        pass  # the kernel reads ahead

    def discard(self, shard: int) -> bool:
        return False  # it is the only copy

    def close(self) -> None:
        self._maps.clear()


def open_shards(path: Path | Url, index: CacheIndex) -> ShardStore:
    """The shards of the cache at a path or URL. Raises StoreError if this machine cannot keep the shards of a URL."""
    if isinstance(path, Path):
        return LocalShards(path / SHARDS)
    from pipeline.cache.remote_shards import RemoteShards
    from pipeline.storage.local_cache import local_folder

    return RemoteShards(path / SHARDS, index.shards, local_folder())
