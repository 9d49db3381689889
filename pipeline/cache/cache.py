"""A cache folder: opening it and reading from it.

    cache.json     what it is: format, recipe, split, a record per shard; written last, so where it is, all is there
    manifest.csv   the table of samples (pipeline.cache.manifest)
    rejects.csv    source, reason: every photograph and row that was refused
    shards/        NNNN.tar (pipeline.cache.shards)

The folder may be behind a URL: pipeline.cache.shard_store tells where its shards are read from.
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
from pipeline.cache.shards import scan_sources, shard_path
from pipeline.cache.splits import SPLITS, Leak, leak_of
from pipeline.errors import CacheError
from pipeline.grades import UNKNOWN
from pipeline.photos.preparation import Recipe
from pipeline.storage.paths import sha256_of
from pipeline.storage.url import Url, path_or_url

ALONE: Final = 6
"""So many photographs of a shard take as long one by one (50 ms each) as the whole shard (30 MB at 100 MB/s)."""


@dataclass(eq=False)
class Cache:
    """An open, complete cache, as `open_cache` gives it. Safe to read from several threads.

    `manifest` is its table, one photograph a row (pipeline.cache.manifest). Row numbers are positions in it, from 0 on.
    """

    path: Path | Url
    index: CacheIndex
    manifest: pd.DataFrame
    store: ShardStore = field(repr=False)
    _sources: dict[int, dict[str, int]] = field(default_factory=dict, init=False, repr=False)
    _noting: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        # Columns as plain arrays: a lookup in a DataFrame takes 20 us, more than the rest of a read.
        self._where = self.manifest[["shard", "offset", "nbytes", "crc32"]].to_numpy()

    @property
    def home(self) -> Path:
        """Its folder on this machine; for a cache behind a URL, a folder of its own that need not exist. Files that are
        derived from the cache may be kept beside it."""
        if isinstance(self.path, Path):
            return self.path.resolve()
        from pipeline.storage.local_cache import home_of

        return home_of(self.path)

    @property
    def recipe(self) -> Recipe:
        """How its photographs were prepared. `recipe.size` is their side in pixels."""
        return self.index.recipe

    @property
    def digest(self) -> str:
        """Identifies pixels, grades and splits: the SHA-256 of cache.json, 64 hex digits."""
        return hashlib.sha256(self.index.to_json()).hexdigest()

    @property
    def grades(self) -> NDArray[np.int64]:
        """int64 (rows,), 0-4, -1 if unknown."""
        return self.manifest["grade"].to_numpy(np.int64)

    def rows(self, split: str) -> NDArray[np.int64]:
        """The rows of a split, int64 (n,), ascending. split: "train", "val", "test", or "all" for every row, also those
        in no split.

        Raises CacheError for another name.
        """
        if split == "all":
            return np.arange(len(self.manifest))
        if split not in SPLITS:
            raise CacheError(f"split {split!r}: choose one of {', '.join(SPLITS)} or all")
        return np.flatnonzero(self.manifest["split"] == split)

    def graded_rows(self, split: str) -> NDArray[np.int64]:
        """Those of the rows of a split, as `rows` has them, whose photographs have a grade."""
        rows = self.rows(split)
        graded: NDArray[np.int64] = rows[self.grades[rows] != UNKNOWN]
        return graded

    def leak(self, split: str = "test") -> Leak:
        """What is known of the photographs of a split whose patients are in train too."""
        return leak_of(self.manifest, split, self.index.copies)

    def rows_of(self, ids: "pd.Series[str]") -> NDArray[np.int64]:
        """The rows of n photographs, int64 (n,); -1 for an id that is not in the cache."""
        rows: NDArray[np.int64] = pd.Index(self.manifest["id"]).get_indexer(pd.Index(ids)).astype(np.int64)
        return rows

    def read(self, row: int) -> memoryview:
        """The JPEG of a row: a read-only view of its bytes in the mapped shard.

        Raises CacheError, with the photograph's id, if the bytes do not have the CRC-32 of the manifest; StoreError if
        they cannot be downloaded.
        """
        jpeg = self._read_verified(row)
        if jpeg is None and self.store.discard(int(self._where[row, 0])):  # the disk's fault: a download is verified
            jpeg = self._read_verified(row)
        if jpeg is None:
            id, where = self.manifest["id"].iloc[row], shard_path(self._where[row, 0])
            raise CacheError(f"{self.path}: {id} in {where} is damaged; `tools preprocess` repairs it")
        return jpeg

    def _read_verified(self, row: int) -> memoryview | None:
        shard, offset, nbytes, crc32 = self._where[row].tolist()
        jpeg = memoryview(self.map_shard(shard))[offset : offset + nbytes]
        return jpeg if len(jpeg) == nbytes and zlib.crc32(jpeg) == crc32 else None

    @property
    def shuffle_block(self) -> int | None:
        """How many shards a shuffle should mix at a time, at least 1. None if it can mix all of them.

        It depends on the capacity of this machine's folder, and the order of an epoch depends on it: ask once a run.
        """
        return self.store.shuffle_block

    @property
    def shards(self) -> NDArray[np.int64]:
        """The shard of each row, int64 (rows,)."""
        return self._where[:, 0]

    def by_shard(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows, int64 (n,), sorted by shard; within a shard the order stays."""
        return rows[np.argsort(self._where[rows, 0], kind="stable")]

    def prefetch(self, batches: Iterable[NDArray[np.int64]]) -> None:
        """Tells which rows will be read, in this order, so that shards behind a URL are downloaded in time.

        batches: int64 (n,), the rows of each. They replace those of an earlier call.
        """
        self.store.prefetch(self._where[rows, 0] for rows in batches)

    def reader(self, rows: NDArray[np.int64]) -> Callable[[int], bytes | memoryview]:
        """A function like `read` for these rows, int64 (n,). If they are few rows of many shards behind a URL, it
        downloads the photographs and not the shards."""
        if len(rows) >= ALONE * len(np.unique(self._where[rows, 0])):
            return self.read

        def read(row: int) -> bytes | memoryview:
            shard, offset, nbytes, crc32 = self._where[row].tolist()
            jpeg = self.store.read_range(shard, offset, nbytes)
            return jpeg if jpeg is not None and zlib.crc32(jpeg) == crc32 else self.read(row)

        return read

    def map_shard(self, shard: int) -> mmap.mmap:
        """The bytes of a shard. Raises CacheError if it cannot be read, StoreError if it cannot be downloaded."""
        try:
            mapped = self.store.map(shard)
        except (OSError, ValueError) as error:
            raise CacheError(f"{self.path / shard_path(shard)}: cannot be read ({error})") from error
        if self._noting and shard not in self._sources:
            self._sources[shard] = scan_sources(mapped)
        return mapped

    def note_sources(self) -> None:
        """From now on, collects what `source_digests` needs whenever a shard is mapped that may be deleted later. So no
        shard is downloaded twice."""
        self._noting = self.store.evicts

    def source_digests(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first 8 bytes of the SHA-256 of the original files of n photographs, int64 (n,); 0 if the cache does not
        have it. Reads the shards' JSONs: 35,000 photographs take 2 s.

        rows: int64 (n,). Raises CacheError or StoreError if a shard cannot be read.
        """
        for shard in np.unique(self._where[rows, 0]).tolist():
            if shard not in self._sources:
                self._sources[shard] = scan_sources(self.map_shard(shard))
        ids, shards = self.manifest["id"].iloc[rows], self._where[rows, 0].tolist()
        return np.array([self._sources[shard].get(id, 0) for id, shard in zip(ids, shards, strict=True)], np.int64)

    def reopened(self) -> "Cache":
        """The same cache with its own maps and downloads, for another process."""
        return _reopen(self.path, self.index, self.manifest)

    def take(self, rows: NDArray[np.int64]) -> "Cache":
        """A cache of these rows, int64 (n,), in this order, with its own maps and downloads. A row may be listed more
        than once."""
        return _reopen(self.path, self.index, self.manifest.iloc[rows].reset_index(drop=True))

    def __reduce__(self) -> tuple[Any, ...]:
        # Maps and threads stay in their process. The manifest goes along: rows are positions in this very table.
        return _reopen, (self.path, self.index, self.manifest)

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the maps and starts no more downloads. A view that `read` returned stays valid."""
        self.store.close()


def _reopen(path: Path | Url, index: CacheIndex, manifest: pd.DataFrame) -> Cache:
    return Cache(path, index, manifest, open_shards(path, index))


def open_cache(path: Path | Url | str) -> Cache:
    """Opens a complete cache, in a folder or behind a URL.

    Raises CacheError if the folder is no cache, is incomplete, or has another manifest than cache.json says; StoreError
    if a URL cannot be read.
    """
    path = path_or_url(path)
    index = CacheIndex.read(path)
    if isinstance(path, Url):
        return _reopen(path, index, read_manifest(path / MANIFEST, checked_bytes(path / MANIFEST, index.manifest)))
    if sha256_of(path / MANIFEST) != index.manifest:
        raise CacheError(f"{path / MANIFEST}: damaged or edited; `tools preprocess` repairs it")
    return _reopen(path, index, read_manifest(path / MANIFEST))


def checked_bytes(path: Path | Url, sha256: str) -> bytes:
    """The bytes of a file of a cache, verified. sha256: 64 hex digits.

    Raises CacheError if the file cannot be read or has another digest, StoreError if a URL cannot be read.
    """
    if isinstance(path, Url):
        from pipeline.cache.remote_shards import read_checked

        return read_checked(path, sha256)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CacheError(f"{path}: cannot be read ({error.strerror}); `tools preprocess` repairs it") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CacheError(f"{path}: damaged or edited; `tools preprocess` repairs it")
    return data
