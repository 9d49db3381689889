"""A cache folder: opening it and reading from it.

    cache.json     what it is: format, recipe, split, a record per shard; written last, so where it is, all is there
    manifest.csv   the table of samples (pipeline.cache.manifest)
    rejects.csv    source, reason: every photograph and row that was refused
    shards/        NNNN.tar (pipeline.cache.shards)

The folder may lie behind a URL: pipeline.cache.remote_shards brings its shards.
"""

import hashlib
import mmap
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cache.index import MANIFEST, CacheIndex
from pipeline.cache.manifest import read_manifest
from pipeline.cache.shards import scan_sources, shard_name
from pipeline.cache.splits import SPLITS, Leak, leak_of
from pipeline.errors import CacheError
from pipeline.photos.preparation import Recipe
from pipeline.storage.artifacts import SHARDS
from pipeline.storage.paths import sha256_of
from pipeline.storage.url import Url, place

if TYPE_CHECKING:
    from pipeline.cache.remote_shards import Mirror

ALONE: Final = 6
"""Photographs of a shard that come one by one as soon as it does: 50 ms each, or 30 MB at 100 MB/s."""


@dataclass(eq=False)
class Cache:
    """An open, complete cache. Rows are positions in `manifest`. Safe to read from several threads."""

    path: Path | Url
    index: CacheIndex
    manifest: pd.DataFrame
    mirror: "Mirror | None" = None  # of a cache behind a URL
    _maps: dict[int, mmap.mmap] = field(default_factory=dict, repr=False)
    _sources: dict[int, dict[str, int]] = field(default_factory=dict, repr=False)
    _noting: bool = False

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
        return self.index.recipe

    @property
    def digest(self) -> str:
        """Identifies pixels, grades and splits: sha256 of cache.json, 64 hex digits."""
        return hashlib.sha256(self.index.to_json()).hexdigest()

    @property
    def grades(self) -> NDArray[np.int64]:
        """(rows,) 0-4, -1 where unknown."""
        return self.manifest["grade"].to_numpy(np.int64)

    def rows(self, split: str) -> NDArray[np.int64]:
        """The rows of "train", "val" or "test", ascending; of "all": every row, those in no split too."""
        if split == "all":
            return np.arange(len(self.manifest))
        if split not in SPLITS:
            raise CacheError(f"split {split!r}: choose one of {', '.join(SPLITS)} or all")
        return np.flatnonzero(self.manifest["split"] == split)

    def leak(self, split: str = "test") -> Leak:
        """What is known of the split's photographs whose patients are in train."""
        return leak_of(self.manifest, split, self.index.copies)

    def rows_of(self, ids: "pd.Series[str]") -> NDArray[np.int64]:
        """(n,) rows of n photographs; -1 for one that the cache does not hold."""
        rows: NDArray[np.int64] = pd.Index(self.manifest["id"]).get_indexer(pd.Index(ids)).astype(np.int64)
        return rows

    def read(self, row: int) -> memoryview:
        """The JPEG of a row, as a view of the shard's mmap.

        Raises CacheError with the photograph's id where its bytes are not those that were cached.
        """
        jpeg = self._whole(row)
        if jpeg is None and self.mirror:
            self.mirror.forget(int(self._where[row, 0]))  # this disk's fault, for what came was checked
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
    def together(self) -> int | None:
        """How many shards a shuffle should mix at a time; None where it need not keep to few, for all have room.

        A matter of this machine, so it is to be asked once a run: an epoch's order depends on it.
        """
        return None if self.mirror is None or self.mirror.holds_all else self.mirror.block

    @property
    def shards(self) -> NDArray[np.int64]:
        """(rows,) the shard that each row lies in."""
        return self._where[:, 0]

    def by_shard(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) the rows, one shard's after another's."""
        return rows[np.argsort(self._where[rows, 0], kind="stable")]

    def expect(self, batches: Iterable[NDArray[np.int64]]) -> None:
        """Says what will be read, in this order, so that shards behind a URL come in time."""
        if self.mirror:
            rows = list(batches)
            self.mirror.expect(self._where[np.concatenate(rows), 0] if rows else np.empty(0, np.int64))

    def reader(self, rows: NDArray[np.int64]) -> Callable[[int], bytes | memoryview]:
        """`read` for these rows alone: where they are few of many shards behind a URL, those are not brought here."""
        if self.mirror is None or len(rows) >= ALONE * len(np.unique(self._where[rows, 0])):
            return self.read
        mirror = self.mirror

        def read(row: int) -> bytes | memoryview:
            shard, offset, nbytes, crc32 = self._where[row].tolist()
            jpeg = mirror.part(shard, offset, nbytes)
            return jpeg if jpeg is not None and zlib.crc32(jpeg) == crc32 else self.read(row)

        return read

    def map_shard(self, shard: int) -> mmap.mmap:
        """Raises CacheError where it cannot be read, StoreError where it cannot be brought here."""
        try:
            mapped = self.mirror.map(shard) if self.mirror else self._map(shard)
        except (OSError, ValueError) as error:
            raise CacheError(f"{self.path / SHARDS / shard_name(shard)}: cannot be read ({error})") from error
        if self._noting and self.mirror and shard not in self._sources:
            self._sources[shard] = scan_sources(mapped)
        return mapped

    def _map(self, shard: int) -> mmap.mmap:
        assert isinstance(self.path, Path), "a cache behind a URL has a mirror"
        if shard not in self._maps:
            with open(self.path / SHARDS / shard_name(shard), "rb") as file:
                # Two threads may map a shard at once; setdefault keeps one, the other is collected.
                self._maps.setdefault(shard, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return self._maps[shard]

    def note_sources(self) -> None:
        """From now on each shard that comes from behind a URL is looked through for `source_digests` while it is here,
        so that it need not come twice."""
        self._noting = True

    def source_digests(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) the first 8 bytes of the SHA-256 of the files that n photographs were made from; 0 where the cache does
        not tell. Reads the shards' JSONs: 35,000 photographs take 2 s.

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

    def __reduce__(self) -> tuple[Any, ...]:
        # Maps and threads stay in their process. The manifest goes along: rows are positions in this very table.
        return _reopen, (self.path, self.index, self.manifest)

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forgets the maps; a view still held keeps its own alive."""
        self._maps.clear()
        if self.mirror:
            self.mirror.close()


def _reopen(path: Path | Url, index: CacheIndex, manifest: pd.DataFrame) -> Cache:
    if isinstance(path, Path):
        return Cache(path, index, manifest)
    from pipeline.cache.remote_shards import open_mirror

    return Cache(path, index, manifest, open_mirror(path, index))


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
