"""Lists photographs and tables behind a URL, by the rules of pipeline.photos.discovery.

Sizes and times come from the listing of the object store, so a second run opens only new files. Tables are downloaded:
they are small, and the code that reads them needs files.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.errors import SourceError
from pipeline.photos.discovery import Found, Refusal, Walked, is_left_out, path_left_out, split_suffix
from pipeline.photos.formats import HEAD_BYTES, SUFFIXES, sniff
from pipeline.storage import object_store
from pipeline.storage.artifacts import is_cache
from pipeline.storage.object_store import Stored
from pipeline.storage.url import Url
from pipeline.threads import ThreadPool
from tools.sources.tables import SUFFIXES as TABLES


class Tables:
    """The tables behind a URL, downloaded to a folder."""

    def __init__(self, url: Url, folder: Path) -> None:
        self.url, self.folder = url, folder

    def named(self, text: str) -> str:
        """A message in which the folder is replaced by the URL."""
        return text.replace(str(self.folder), str(self.url)).replace(str(self.folder.parent), str(self.url.parent))


def walk_url(url: Url) -> tuple[Walked, list[str]]:
    """(the photographs and other files below a URL, the names of the tables)."""
    photographs: list[Found] = []
    refused: list[Refusal] = []
    tables: list[str] = []
    unknown: list[Stored] = []
    listed, caches, left_out = _listed(url)
    for stored in listed:
        suffix = split_suffix(stored.name)[1].lower()
        if not {"", ".", ".."}.isdisjoint(stored.name.split("/")):
            refused.append(Refusal(stored.name, "its name is no path"))
        elif suffix in TABLES:
            tables.append(stored.name)
        elif suffix in SUFFIXES:
            photographs.append(_file(stored))
        else:
            unknown.append(stored)
    with ThreadPool(object_store.THREADS) as pool:
        heads = pool.map(
            lambda stored: object_store.read(url / stored.name, part=(0, HEAD_BYTES)) if stored.nbytes else b"", unknown
        )
        others: list[Found] = []
        for stored, head in zip(unknown, heads, strict=True):
            (photographs if sniff(head) else others).append(_file(stored))
    return Walked(
        sorted(photographs, key=lambda file: file.source.split("/")), refused, caches, others, [], left_out
    ), tables


def _listed(url: Url) -> tuple[list[Stored], list[Refusal], int]:
    """(the files below a URL without those that pipeline.photos.discovery leaves out, our caches below it, the number
    of files and folders left out)."""
    listed = object_store.files_below(url)
    inside: dict[str, set[str]] = defaultdict(set)  # folder -> what is in it
    for stored in listed:
        parts = stored.name.split("/")
        for depth in range(len(parts)):
            inside["/".join(parts[:depth])].add(parts[depth])
    caches = tuple(f"{folder}/" if folder else "" for folder, names in inside.items() if is_cache(names))
    kept = [stored for stored in listed if not stored.name.startswith(caches) and not path_left_out(stored.name)]
    left_out = {
        top for stored in listed if not stored.name.startswith(caches) and (top := _left_out_at(stored.name.split("/")))
    }
    return kept, [Refusal(cache or ".", "a cache") for cache in sorted(caches)], len(left_out)


def _left_out_at(parts: list[str]) -> str:
    """The path up to the first part that is left out; "" for none."""
    for depth, name in enumerate(parts, 1):
        if is_left_out(name, folder=depth < len(parts)):
            return "/".join(parts[:depth])
    return ""


def _file(stored: Stored) -> Found:
    # No user can set a server's modification time, so it serves as the change time, too.
    return Found(stored.name, stored.nbytes, stored.mtime_ns, stored.mtime_ns)


@contextmanager
def tables_of(url: Url, names: list[str], beside: tuple[str, ...] = ()) -> Iterator[Tables]:
    """Downloads the tables with these names below a URL, and those called `beside` next to it. The folder is deleted at
    the end of the block."""
    with TemporaryDirectory(prefix="tables-") as name:
        tables = Tables(url, Path(name) / (url.name or "tables"))
        tables.folder.mkdir()
        for each in names:
            path = tables.folder / each
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(object_store.read(url / each))
            except OSError as error:
                raise SourceError(f"{url / each}: cannot be read ({error.strerror})") from error
        for each in beside:
            try:
                (tables.folder.parent / each).write_bytes(object_store.read(url.parent / each))
            except FileNotFoundError:
                break
        try:
            yield tables
        except SourceError as error:
            raise SourceError(tables.named(error.message)) from error
