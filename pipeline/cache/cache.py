"""A cache folder: opening it and reading from it.

    cache.json     what it is: format, recipe, split, a record per shard; written last, so where it is, all is there
    manifest.csv   the table of samples (pipeline.cache.manifest)
    rejects.csv    source, reason: every photograph and row that was refused
    shards/        NNNN.tar (pipeline.cache.shards)

The folder may lie behind a URL: pipeline.cache.shard_store has where its shards are read from.
"""

import hashlib
import mmap
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cache.index import MANIFEST, CacheIndex
from pipeline.cache.manifest import read_manifest
from pipeline.cache.shard_store import ShardStore, open_shards
from pipeline.cache.shards import scan_sources, shard_name
from pipeline.cache.splits import SPLITS, Leak, leak_of
from pipeline.errors import CacheError
from pipeline.photos.preparation import Recipe
from pipeline.storage.artifacts import SHARDS
from pipeline.storage.paths import sha256_of
from pipeline.storage.url import Url, place

ALONE: Final = 6
"""Photographs of a shard that come one by one as soon as it does: 50 ms each, or 30 MB at 100 MB/s."""


@dataclass(eq=False)
class Cache:
    """An open, complete cache; `open_cache` opens it. Safe to read from several threads.

    `manifest` is its table, a photograph a row (pipeline.cache.manifest). Rows are positions in it, from 0 on.
    """

    path: Path | Url
    index: CacheIndex
    manifest: pd.DataFrame
    store: ShardStore = field(repr=False)
    _sources: dict[int, dict[str, int]] = field(default_factory=dict, init=False, repr=False)
    _noting: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        # Columns as plain arrays: a lookup in a DataFrame costs 20 us, more than the rest of a read.
        self._where = self.manifest[["shard", "offset", "nbytes", "crc32"]].to_numpy()

    @property
    def home(self) -> Path:
        """Where it lies on this machine, or would; what is derived from it may be kept beside."""
        if isinstance(self.path, Path):
            return self.path.resolve()
        from pipeline.storage.local_cache import home_of

        return home_of(self.path)

    @property
    def recipe(self) -> Recipe:
        """How its photographs were prepared; `recipe.size` is their side in pixels."""
        return self.index.recipe

    @property
    def digest(self) -> str:
        """Identifies pixels, grades and splits: sha256 of cache.json, 64 hex digits."""
        return hashlib.sha256(self.index.to_json()).hexdigest()

    @property
    def grades(self) -> NDArray[np.int64]:
        """int64 (rows,) 0-4, -1 where unknown."""
        return self.manifest["grade"].to_numpy(np.int64)

    def rows(self, split: str) -> NDArray[np.int64]:
        """int64 (n,) rows of "train", "val" or "test", ascending; of "all": every row, those in no split too.

        Raises CacheError for another name.
        """
        if split == "all":
            return np.arange(len(self.manifest))
        if split not in SPLITS:
            raise CacheError(f"split {split!r}: choose one of {', '.join(SPLITS)} or all")
        return np.flatnonzero(self.manifest["split"] == split)

    def leak(self, split: str = "test") -> Leak:
        """What is known of the split's photographs whose patients are in train."""
        return leak_of(self.manifest, split, self.index.copies)

    def rows_of(self, ids: "pd.Series[str]") -> NDArray[np.int64]:
        """int64 (n,) rows of n photographs; -1 for one that the cache does not hold."""
        rows: NDArray[np.int64] = pd.Index(self.manifest["id"]).get_indexer(pd.Index(ids)).astype(np.int64)
        return rows

    def read(self, row: int) -> memoryview:
        """The JPEG of a row, its bytes as a view of the shard's mmap.

        Raises CacheError with the photograph's id where its bytes are not those that were cached, StoreError where they
        cannot be fetched from a URL.
        """
        jpeg = self._whole(row)
        if jpeg is None and self.store.discard(int(self._where[row, 0])):  # this disk's fault: what came was checked
            jpeg = self._whole(row)
        if jpeg is None:
            id, where = self.manifest["id"].iloc[row], f"{SHARDS}/{shard_name(self._where[row, 0])}"
            raise CacheError(f"{self.path}: {id} in {where} is damaged; `tools preprocess` mends it")
        return jpeg

    def _whole(self, row: int) -> memoryview | None:
        shard, offset, nbytes, crc32 = self._where[row].tolist()
        jpeg = memoryview(self.map_shard(shard))[offset : offset + nbytes]
        return jpeg if len(jpeg) == nbytes and zlib.crc32(jpeg) == crc32 else None

    @property
    def shuffle_block(self) -> int | None:
        """How many shards a shuffle should mix at a time, at least 1; None where it need not keep to few.

        It depends on how much this machine may hold, so it is to be asked once a run: an epoch's order depends on it.
        """
        return self.store.shuffle_block

    @property
    def shards(self) -> NDArray[np.int64]:
        """int64 (rows,) the shard that each row lies in."""
        return self._where[:, 0]

    def by_shard(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows, int64 (n,), one shard's after another's."""
        return rows[np.argsort(self._where[rows, 0], kind="stable")]

    def prefetch(self, batches: Iterable[NDArray[np.int64]]) -> None:
        """Says which rows will be read, in this order, so that shards behind a URL come in time. Replaces what was said
        before.

        batches: int64 (n,) rows for each.
        """
        self.store.prefetch(self._where[rows, 0] for rows in batches)

    def reader(self, rows: NDArray[np.int64]) -> Callable[[int], bytes | memoryview]:
        """`read` for these rows, (n,), alone: where they are few of many shards behind a URL, those are not brought
        here."""
        if len(rows) >= ALONE * len(np.unique(self._where[rows, 0])):
            return self.read

        def read(row: int) -> bytes | memoryview:
            shard, offset, nbytes, crc32 = self._where[row].tolist()
            jpeg = self.store.read_range(shard, offset, nbytes)
            return jpeg if jpeg is not None and zlib.crc32(jpeg) == crc32 else self.read(row)

        return read

    def map_shard(self, shard: int) -> mmap.mmap:
        """The bytes of a shard. Raises CacheError where it cannot be read, StoreError where it cannot be fetched."""
        try:
            mapped = self.store.map(shard)
        except (OSError, ValueError) as error:
            raise CacheError(f"{self.path / SHARDS / shard_name(shard)}: cannot be read ({error})") from error
        if self._noting and shard not in self._sources:
            self._sources[shard] = scan_sources(mapped)
        return mapped

    def note_sources(self) -> None:
        """From now on each shard that may be gone later is looked through for `source_digests` while it is here, so
        that it need not come twice."""
        self._noting = self.store.evicts

    def source_digests(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 (n,) the first 8 bytes of the SHA-256 of the files that n photographs were made from; 0 where the cache
        does not tell. Reads the shards' JSONs: 35,000 photographs take 2 s.

        Raises CacheError or StoreError where a shard cannot be read.
        """
        for shard in np.unique(self._where[rows, 0]).tolist():
            if shard not in self._sources:
                self._sources[shard] = scan_sources(self.map_shard(shard))
        ids, shards = self.manifest["id"].iloc[rows], self._where[rows, 0].tolist()
        return np.array([self._sources[shard].get(id, 0) for id, shard in zip(ids, shards, strict=True)], np.int64)

    def reopened(self) -> "Cache":
        """The same cache with maps and threads of its own, for another process."""
        return _reopen(self.path, self.index, self.manifest)

    def take(self, rows: NDArray[np.int64]) -> "Cache":
        """A cache of these rows, (n,), in this order and as often as they are listed, with maps and threads of its
        own."""
        return _reopen(self.path, self.index, self.manifest.iloc[rows].reset_index(drop=True))

    def __reduce__(self) -> tuple[Any, ...]:
        # Maps and threads stay in their process. The manifest goes along: rows are positions in this very table.
        return _reopen, (self.path, self.index, self.manifest)

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives back maps and threads; a view that `read` gave and that is still held keeps its own map alive."""
        self.store.close()


def _reopen(path: Path | Url, index: CacheIndex, manifest: pd.DataFrame) -> Cache:
    return Cache(path, index, manifest, open_shards(path, index))


def open_cache(path: Path | Url | str) -> Cache:
    """Opens a complete cache, in a folder or behind a URL.

    Raises CacheError for a folder that is no cache, was left incomplete, or whose manifest is not the one that
    cache.json was written with; StoreError where a URL cannot be read.
    """
    path = place(path)
    index = CacheIndex.read(path)
    if isinstance(path, Url):
        return _reopen(path, index, read_manifest(path / MANIFEST, checked_bytes(path / MANIFEST, index.manifest)))
    if sha256_of(path / MANIFEST) != index.manifest:
        raise CacheError(f"{path / MANIFEST}: damaged or edited; `tools preprocess` mends it")
    return _reopen(path, index, read_manifest(path / MANIFEST))


def checked_bytes(path: Path | Url, sha256: str) -> bytes:
    """The bytes of a file of a cache, which must have this digest. Raises CacheError where they have not, StoreError
    where a URL cannot be read."""
    if isinstance(path, Url):
        from pipeline.cache.remote_shards import read_checked

        return read_checked(path, sha256)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CacheError(f"{path}: cannot be read ({error.strerror}); `tools preprocess` mends it") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CacheError(f"{path}: damaged or edited; `tools preprocess` mends it")
    return data
