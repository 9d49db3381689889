"""The folder where a machine keeps what it downloaded from a store: bounded, checked, shared by processes.

A file is named by its SHA-256. So a file with its final name is complete and never out of date, whichever cache it
belongs to. Beyond the capacity, the file that was not used for longest is evicted; a map of it stays readable.
"""

import mmap
import os
import re
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, NamedTuple

from pipeline.errors import StoreError
from pipeline.storage.artifacts import INDEX
from pipeline.storage.atomic import TMP_SUFFIX
from pipeline.storage.locks import POSIX_FILES, lock, unlock
from pipeline.storage.url import Url

LOCAL_CACHE: Final = "FUNDUS_LOCAL_CACHE"
LOCAL_CACHE_GB: Final = "FUNDUS_LOCAL_CACHE_GB"
"""Environment variables, because the folder belongs to the machine and not to a run. They are read here and never
written: a command sets them by --local-cache and --local-cache-gb, for as long as it runs."""
DEFAULT_GB: Final = 100.0
_LOCK: Final = "lock"
_BLOB: Final = re.compile(rf"[0-9a-f]{{64}}(\{TMP_SUFFIX})?")
"""The names of files that may be evicted. The user's folder may have others, which are not counted either."""


class Blob(NamedTuple):
    """A file that is wanted: its digest is its name."""

    sha256: str  # 64 hex digits
    nbytes: int


class LocalFolder:
    """At most `capacity` bytes of files in `folder`, with those that are being downloaded. Safe to use from several
    threads and processes."""

    def __init__(self, folder: Path, capacity: int) -> None:
        """folder: made if it is missing. capacity: in bytes.

        Raises StoreError if the folder cannot be made or is in a cache, and on Windows.
        """
        self.folder, self.capacity = folder, capacity
        if not POSIX_FILES:  # a shard could not go while it is mapped, nor come while another process waits for it
            raise StoreError("caches behind URLs can be read on Linux and macOS only; copy the cache to this machine")
        if (folder.parent / INDEX).exists():
            raise StoreError(f"{folder.parent} is a cache; name another folder with --local-cache")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = f"no folder to keep files in ({error.strerror}); --local-cache names one"
            raise StoreError(f"{folder}: {why}") from error

    def has(self, blob: Blob) -> bool:
        """Whether the file is here under its final name."""
        return (self.folder / blob.sha256).exists()

    def touch(self, blob: Blob) -> None:
        """Marks the file as used now."""
        with suppress(OSError):  # gone, or another user's
            os.utime(self.folder / blob.sha256)

    def discard(self, blob: Blob) -> None:
        """Deletes the file, if it is here. A map of it stays readable."""
        (self.folder / blob.sha256).unlink(missing_ok=True)

    def open(self, blob: Blob, download: Callable[[], bytes], evict_last: Container[str] = ()) -> mmap.mmap:
        """A read-only map of the file. If it is not here, one thread of one process downloads it and the others wait.

        download: returns its verified bytes. evict_last: digests of the files to evict last.
        Raises StoreError if the file is larger than the capacity or cannot be written, OSError if it cannot be mapped,
        and what `download` raises.
        """
        while True:
            with suppress(FileNotFoundError):
                return self._map(blob)
            with self._alone(blob) as unfinished:
                if unfinished is None:  # another one has downloaded it, or failed
                    continue
                self._reserve(unfinished, blob, evict_last)
                data = download()
                try:
                    unfinished.write(data)
                    unfinished.flush()
                    with self._settled():
                        os.replace(unfinished.name, self.folder / blob.sha256)
                    return mmap.mmap(unfinished.fileno(), 0, access=mmap.ACCESS_READ)  # its name may be deleted already
                except OSError as error:
                    raise StoreError(
                        f"{self.folder}: cannot be written ({error.strerror}); --local-cache and --local-cache-gb say "
                        "where and how much"
                    ) from error

    def _map(self, blob: Blob) -> mmap.mmap:
        path = self.folder / blob.sha256
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size != blob.nbytes:  # a power cut may have left less
                path.unlink(missing_ok=True)
                raise FileNotFoundError(path)
            self.touch(blob)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @contextmanager
    def _alone(self, blob: Blob) -> Iterator[IO[bytes] | None]:
        """The locked file to download into, deleted at the end unless it was renamed. None if another one had it."""
        path = self.folder / (blob.sha256 + TMP_SUFFIX)
        with open(path, "w+b", opener=lambda name, _: os.open(name, os.O_RDWR | os.O_CREAT, 0o666)) as file:
            lock(file.fileno(), wait=True)
            if not _is_at(file, path):
                yield None
                return
            try:
                yield None if self.has(blob) else file
            finally:
                if _is_at(file, path):
                    path.unlink()
                unlock(file.fileno())

    def _reserve(self, unfinished: IO[bytes], blob: Blob, evict_last: Container[str]) -> None:
        """Gives the file its size. Evicts those that were not used for longest, until it fits."""
        if blob.nbytes > self.capacity:
            raise StoreError(
                f"{self.folder}: a file of {blob.nbytes / 1e9:.3g} GB does not fit into the "
                f"{self.capacity / 1e9:.3g} GB that it may hold; give --local-cache-gb more"
            )
        unfinished.truncate(0)  # a process that was killed may have left a part
        while True:
            with self._settled():
                if self._evict(blob.nbytes, evict_last):
                    unfinished.truncate(blob.nbytes)
                    return
            time.sleep(0.05)  # the others are being downloaded, and can be evicted afterwards

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """No one else evicts or renames a file meanwhile; one that is renamed could be missed by the count."""
        with open(self.folder / _LOCK, "ab") as file:
            lock(file.fileno(), wait=True)
            yield

    def _evict(self, nbytes: int, evict_last: Container[str]) -> bool:
        """Whether so many bytes fit, after the evictions that are possible now."""
        # To list 40,000 shards, 1 TB, takes 0.1 s. To download one shard takes 0.1 s at 2 Gbit/s.
        files = [(entry, entry.stat()) for entry in _entries(self.folder) if _BLOB.fullmatch(entry.name)]
        used = sum(status.st_size for _, status in files)
        for entry, _ in sorted(files, key=lambda file: (file[0].name in evict_last, file[1].st_mtime_ns)):
            if used + nbytes <= self.capacity:
                break
            if _removed(entry):
                used -= entry.stat().st_size
        return used + nbytes <= self.capacity


def local_root() -> Path:
    """The folder in FUNDUS_LOCAL_CACHE, or else fundus-grading in XDG_CACHE_HOME or ~/.cache. An absolute path."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(LOCAL_CACHE) or Path(home) / "fundus-grading").expanduser().absolute()


def home_of(url: Url) -> Path:
    """The folder of a cache behind a URL on this machine, which need not exist."""
    return local_root() / url.slug / "cache"


def local_folder() -> LocalFolder:
    """The folder of shards, with FUNDUS_LOCAL_CACHE_GB gigabytes (1e9 bytes) as its capacity, or else DEFAULT_GB.

    Raises StoreError if that is no positive number, and as LocalFolder does.
    """
    text = os.environ.get(LOCAL_CACHE_GB) or str(DEFAULT_GB)
    try:
        capacity = int(float(text) * 1e9)
        if capacity <= 0:
            raise ValueError
    except (ValueError, OverflowError) as error:
        raise StoreError(f"{LOCAL_CACHE_GB} must be a positive number, got {text!r}") from error
    return LocalFolder(local_root() / "shards", capacity)


def _entries(folder: Path) -> Iterator["os.DirEntry[str]"]:
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):
            entry.stat()
            yield entry


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _removed(entry: "os.DirEntry[str]") -> bool:
    """Deletes a file, but not one that is being downloaded: it is locked until its process ends."""
    with suppress(FileNotFoundError, BlockingIOError), open(entry.path, "rb") as file:
        if entry.name.endswith(TMP_SUFFIX):
            lock(file.fileno())
        os.unlink(entry.path)
        return True
    return False
