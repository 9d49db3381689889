"""Where the shards of an open cache lie: in its folder, or behind a URL (pipeline.cache.remote_shards).

A cache is given a `ShardStore` and never asks of which kind it is.
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
    """The shards by number, 0 to their number - 1. Safe to use from several threads."""

    @property
    def shuffle_block(self) -> int | None:
        """How many shards a shuffle should mix at a time, at least 1; None where all of them are at hand for good."""
        ...

    @property
    def evicts(self) -> bool:
        """Whether a shard that was here may be gone when it is asked for again, and has to be fetched once more."""
        ...

    def map(self, shard: int) -> mmap.mmap:
        """The bytes of a shard, read-only; waits for them where they are not here yet.

        Raises CacheError where the shard is missing or damaged, StoreError where it cannot be fetched, OSError or
        ValueError where its file cannot be mapped.
        """
        ...

    def read_range(self, shard: int, offset: int, nbytes: int) -> bytes | None:
        """So many bytes of a shard, unchecked, without the rest of it; None where `map` costs no more.

        Raises StoreError where they cannot be fetched.
        """
        ...

    def prefetch(self, batches: Iterable[NDArray[np.int64]]) -> None:
        """Says of all reads to come, in their order, which shard each is from: int64 (n,) for each batch of n reads.
        Replaces what was said before."""
        ...

    def discard(self, shard: int) -> bool:
        """Throws away this machine's copy of a shard, for it is damaged. Returns whether the next `map` fetches
        another."""
        ...

    def close(self) -> None:
        """Gives back maps and threads; a view of a map that is still held keeps its own alive."""
        ...


class LocalShards:
    """The shards of a cache on this machine's disk. See ShardStore."""

    shuffle_block: Final = None
    evicts: Final = False

    def __init__(self, folder: Path) -> None:
        """folder: of the shards."""
        self._folder = folder
        self._maps: dict[int, mmap.mmap] = {}

    def map(self, shard: int) -> mmap.mmap:
        found = self._maps.get(shard)
        if found is None:
            with open(self._folder / shard_name(shard), "rb") as file:
                # Two threads may map a shard at once; setdefault keeps one, the other is collected.
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
    """The shards of the cache at a path or a URL. Raises StoreError where this machine cannot keep those of a URL."""
    if isinstance(path, Path):
        return LocalShards(path / SHARDS)
    from pipeline.cache.remote_shards import RemoteShards
    from pipeline.storage.local_cache import local_folder

    return RemoteShards(path / SHARDS, index.shards, local_folder())
