"""Sends a cache that is made on this machine to a URL.

The cache is made in a folder below --local-cache and stays there for the next run, so that disk needs space for a
complete cache. If the cache at the URL is newer (another machine made it), its files are downloaded first: recorded
splits must stay, and copying is cheaper than encoding.

A shard is sent when it is finished, cache.json last. Until then unfinished.json takes its place, so that an unfinished
cache cannot be opened. The content at the URL is known from its cache.json, or from the journal of this machine as long
as the object store has the version in the journal; other files are sent again. There is one writer at a time: a lock
ensures it on one machine. Among several machines the last cache.json counts, and readers check every shard.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from pipeline.cache.index import ATTRIBUTES, MANIFEST, REJECTS, CacheIndex
from pipeline.cache.shards import is_shard_name, shard_path
from pipeline.errors import CacheError, StoreError
from pipeline.storage import object_store
from pipeline.storage.artifacts import INDEX, SHARDS, UNFINISHED
from pipeline.storage.atomic import locked_folder, write_atomically
from pipeline.storage.local_cache import home_of
from pipeline.storage.paths import sha256_of
from pipeline.storage.url import Url

THREADS: Final = 4
"""Files that are sent at the same time."""


class Upload:
    """The upload of the cache in `folder` to `url`."""

    def __init__(self, url: Url, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.sent = 0  # files
        self.nbytes = 0
        self._journal = folder.with_name("sent.jsonl")
        self._journal_lock = threading.Lock()
        self._background = Background(THREADS)
        listed = {stored.name: stored for stored in object_store.files_below(url)}
        foreign = sorted(listed.keys() - {INDEX, UNFINISHED, MANIFEST, REJECTS, ATTRIBUTES})
        foreign = [name for name in foreign if not name.startswith(f"{SHARDS}/")]
        if foreign and not listed.keys() & {INDEX, UNFINISHED}:
            raise CacheError(f"{url} holds {foreign[0]!r} and is no cache; choose another URL with --out")
        self._names = set(filter(_is_ours, listed))  # other files stay
        self._index = object_store.read(url / INDEX) if INDEX in listed else None
        self._known = self._known_digests(listed)

    def _known_digests(self, listed: dict[str, object_store.Stored]) -> dict[str, str]:
        """name -> sha256 of the files at the URL, as far as they are known."""
        known: dict[str, str] = {}
        if self._index is not None:
            try:
                index = CacheIndex.read(self.url)
            except CacheError:  # damaged: all files are sent again
                self._index = None
            else:
                known = _digests(index)
                sizes = {shard_path(number): record.nbytes for number, record in enumerate(index.shards)}
                known = {
                    name: digest
                    for name, digest in known.items()
                    if name in listed and listed[name].nbytes == sizes.get(name, listed[name].nbytes)
                }
        for name, digest, version in self._journal_entries():
            if name in listed and listed[name].version == version:
                known[name] = digest
            else:
                known.pop(name, None)
        return known

    def fetch(self) -> None:
        """Downloads the cache at the URL to the folder, unless the folder has it or an unfinished update of it."""
        here = [path.read_bytes() for name in (INDEX, UNFINISHED) if (path := self.folder / name).exists()]
        if self._index is None:
            if here or UNFINISHED not in self._names:
                return
        elif self._index in here:
            return
        (self.folder / SHARDS).mkdir(parents=True, exist_ok=True)
        (self.folder / INDEX).unlink(missing_ok=True)
        for name in sorted(self._names - {INDEX, UNFINISHED}):
            if sha256_of(self.folder / name) != self._known.get(name, ""):
                self._background.start(partial(self._fetch_one, name))
        self._background.join()
        with write_atomically(self.folder / UNFINISHED) as file:
            file.write(self._index or object_store.read(self.url / UNFINISHED))

    def _fetch_one(self, name: str) -> None:
        data = object_store.read(self.url / name)  # not checked: an entry has a checksum; a damaged one is made again
        if hashlib.sha256(data).hexdigest() != self._known.get(name):
            self._known.pop(name, None)
        # Older than any photograph, so each photograph is read: another machine's clock says nothing here.
        with write_atomically(self.folder / name, mtime_ns=0) as file:
            file.write(data)

    def send_shard(self, shard: int) -> None:
        """Sends a finished shard, unless the URL has it."""
        name = shard_path(shard)
        digest = sha256_of(self.folder / name)
        assert digest is not None, "a finished shard can be read"
        self._send(name, digest)

    def finish(self) -> None:
        """Sends the remaining files, cache.json last, and removes files that no longer belong to the cache."""
        data = (self.folder / INDEX).read_bytes()
        wanted = _digests(CacheIndex.read(self.folder))
        for name, digest in wanted.items():
            self._send(name, digest)
        self._background.join()
        if self._index != data:
            self._mark_unfinished()
            object_store.send(data, self.url / INDEX)
        for name in sorted(self._names - wanted.keys() - {INDEX}):
            object_store.remove(self.url / name)

    def _send(self, name: str, digest: str) -> None:
        if self._known.get(name) == digest:
            return
        self._mark_unfinished()
        self._known[name] = digest
        self._background.start(partial(self._send_one, name, digest))

    def _send_one(self, name: str, digest: str) -> None:
        path = self.folder / name
        object_store.send(path, self.url / name)
        stored = object_store.stat(self.url / name)
        nbytes = path.stat().st_size
        if stored.nbytes != nbytes:
            raise StoreError(
                f"{self.url / name}: has {stored.nbytes} bytes of {nbytes} sent; run the same command to continue"
            )
        with self._journal_lock, open(self._journal, "a", encoding="utf-8", newline="\n") as journal:
            self.sent, self.nbytes = self.sent + 1, self.nbytes + nbytes
            journal.write(json.dumps([name, digest, stored.version]) + "\n")

    def _mark_unfinished(self) -> None:
        """Marks the cache at the URL as unfinished: nobody can open it."""
        if self._index or UNFINISHED not in self._names:
            here = next(path for name in (UNFINISHED, INDEX) if (path := self.folder / name).exists())
            object_store.send(self._index or here.read_bytes(), self.url / UNFINISHED)
            self._names.add(UNFINISHED)
        if self._index is not None:
            object_store.remove(self.url / INDEX)
            self._index = None

    def _journal_entries(self) -> Iterator[tuple[str, str, str]]:
        """(name, sha256, version) of the files that were sent, in their order."""
        if self._journal.exists():
            for line in self._journal.read_text("utf-8").splitlines():
                with suppress(ValueError):  # the last line of a process that was killed
                    name, digest, version = json.loads(line)
                    yield name, digest, version


@contextmanager
def upload_to(url: Url) -> Iterator[Upload]:
    """An upload whose folder is ready for `preprocess`. Raises CacheError if another process is writing this cache."""
    if url.on_web:
        raise StoreError(f"{url}: can only be read; write to s3:// or gs://")
    folder = home_of(url)
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked_folder(folder.parent))
        except BlockingIOError as error:
            raise CacheError(f"{url} is being written by another `tools preprocess`; wait until it ends") from error
        except OSError as error:
            why = f"no folder to make a cache in ({error.strerror}); --local-cache names one"
            raise CacheError(f"{folder}: {why}") from error
        upload = Upload(url, folder)
        upload.fetch()
        yield upload
        upload.finish()


def _digests(index: CacheIndex) -> dict[str, str]:
    """name -> sha256 of the files of a cache, shards first, without cache.json."""
    return {**index.shard_digests, **index.tables}


def _is_ours(name: str) -> bool:
    folder, _, shard = name.rpartition("/")
    return name in (INDEX, UNFINISHED, MANIFEST, REJECTS, ATTRIBUTES) or (folder == SHARDS and is_shard_name(shard))


class Background:
    """Calls functions in a fixed number of threads. The end of the program does not wait for them."""

    def __init__(self, threads: int) -> None:
        self._threads, self._free = threads, threading.Semaphore(threads)
        self._errors: list[Exception] = []

    def start(self, call: Callable[[], object]) -> None:
        """Waits for a free thread, then starts a call. Raises the first error of earlier calls."""
        self._free.acquire()

        def run() -> None:
            try:
                call()
            except Exception as error:
                self._errors.append(error)
            finally:
                self._free.release()

        threading.Thread(target=run, name="upload", daemon=True).start()
        if self._errors:
            raise self._errors[0]

    def join(self) -> None:
        """Waits for all calls. Raises the first error of them."""
        for _ in range(self._threads):
            self._free.acquire()
        for _ in range(self._threads):
            self._free.release()
        if self._errors:
            raise self._errors[0]
