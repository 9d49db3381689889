"""Places behind URLs: s3://, gs:// and https://, read and written by fsspec, which nothing on disk imports.

Clients retry different things (fsspec's for https nothing, s3fs bodies and some codes, botocore connections and 5xx),
so s3fs and botocore are told to leave it, and everything is tried again here, by one rule: trouble of half a minute is
sat out. gcsfs cannot be told and keeps its own six attempts besides.
"""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from errno import ENOENT
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import unquote

from pipeline.errors import StoreError
from pipeline.storage.url import EXTRAS, Url, scrubbed
from pipeline.threads import thread_pool

T = TypeVar("T")

WAITS: Final = (0.25, 0.5, 1, 2, 4, 8, 15)
"""Seconds between attempts, each times a random 0.5 to 1.5, so that a thousand machines do not come back at once."""
WHOLE: Final = (0, 0)
THREADS: Final = 16
"""Of requests whose cost is waiting: a HEAD, a few bytes."""


class Stored(NamedTuple):
    """A file behind a URL, as a listing tells of it."""

    name: str  # below the URL that was listed, with slashes
    nbytes: int
    mtime_ns: int  # the server's; now, where it does not say
    version: str  # changes when the content does


def read(url: Url, part: tuple[int, int] = WHOLE) -> bytes:
    """The bytes of a file, or its part from one offset to another.

    Raises FileNotFoundError where there is none, StoreError for anything else that lasts.
    """

    def attempt() -> bytes:
        start, end = (None, None) if part == WHOLE else part
        data: bytes = _client(url.scheme).cat_file(url.text, start=start, end=end)
        if start is not None and end is not None and len(data) > end - start:  # a web server may give all the same
            data = data[start:end]
        return data

    return _persistently(url, "read", attempt)


def send(source: Path | bytes, url: Url) -> None:
    """Puts a file there, whole or not at all: S3 and GCS show an object when its last byte has come."""
    if url.on_web:
        raise StoreError(f"{url}: https:// can only be read; write to s3:// or gs://")
    client = _client(url.scheme)
    failed = False

    def attempt() -> None:
        nonlocal failed
        try:
            if isinstance(source, bytes):
                client.pipe_file(url.text, source)
            else:
                client.put_file(str(source), url.text)
        except Exception:
            failed = True
            raise

    try:
        _persistently(url, "written", attempt)
    except FileNotFoundError as error:
        raise StoreError(f"{url}: cannot be written (there is no such bucket)") from error
    finally:
        if failed and url.scheme == "s3":
            _abort_uploads(client, url)


def _abort_uploads(client: Any, url: Url) -> None:
    """s3fs aborts an upload in parts that failed, but asks once: where that request is lost, S3 keeps the parts."""
    bucket, key, _ = client.split_path(url.text)
    for _ in range(3):
        with suppress(Exception):  # the caller has worse to tell
            found = client.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key)
            for upload in found.get("Uploads", []):
                if upload["Key"] == key:
                    client.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload["UploadId"])
            return


def remove(url: Url) -> None:
    """Nothing where nothing is."""
    with suppress(FileNotFoundError):
        _persistently(url, "removed", lambda: _client(url.scheme).rm_file(url.text))


def exists(url: Url) -> bool:
    try:
        read(url, part=(0, 1))
    except FileNotFoundError:
        return False
    return True


def files_below(url: Url) -> list[Stored]:
    """Every file below a URL, by name; none where there is no such folder."""
    client = _client(url.scheme)
    try:
        found: dict[str, dict[str, Any]] = _persistently(
            url, "listed", lambda: client.find(url.text.partition("?")[0] if url.on_web else url.text, detail=True)
        )
    except FileNotFoundError:
        return []
    names = [name for name, info in found.items() if info["type"] == "file" and not name.endswith("/")]
    root = client._strip_protocol(url.text).partition("?")[0].rstrip("/") + "/"
    below = [name.removeprefix(root) for name in names if name.startswith(root)]
    if url.on_web:  # a page of links says nothing of sizes and times: a HEAD each
        below = sorted({unquote(name.partition("?")[0].partition("#")[0]) for name in below} - {""})
        with thread_pool(THREADS) as pool:
            infos = pool.map(lambda name: _persistently(url, "read", lambda: client.info((url / name).text)), below)
            return [_stored(name, info) for name, info in zip(below, infos, strict=True)]
    return sorted(_stored(name, found[root + name]) for name in below)


def about(url: Url) -> Stored:
    """What a listing would tell of a file."""
    return _stored(url.name, _persistently(url, "read", lambda: _client(url.scheme).info(url.text)))


def _stored(name: str, info: dict[str, Any]) -> Stored:
    when = info.get("LastModified") or info.get("Last-Modified") or info.get("mtime") or info.get("updated")
    if isinstance(when, str):
        when = parsedate_to_datetime(when) if when[:1].isalpha() else datetime.fromisoformat(when)
    mtime_ns = time.time_ns() if when is None else round(when.timestamp() * 1000) * 1_000_000
    tag = info.get("ETag") or info.get("etag") or mtime_ns
    return Stored(name, int(info.get("size") or 0), mtime_ns, f"{tag} {info.get('size')}")


def _persistently(url: Url, done: str, attempt: Callable[[], T]) -> T:
    """What the attempt returns, made again after each of WAITS where it fails of what may pass.

    Raises FileNotFoundError at once; at once or in the end StoreError.
    """
    began = time.monotonic()
    for number, wait in enumerate((*WAITS, None), 1):
        try:
            return attempt()
        except (TypeError, AttributeError, MemoryError):  # ours, or the client's, to mend
            raise
        except Exception as error:  # clients raise what they, botocore, aiohttp and asyncio please
            if isinstance(error, FileNotFoundError) and _status(error) in (None, 404):
                raise FileNotFoundError(ENOENT, "no such file", str(url)) from error
            if isinstance(error, StoreError):
                raise
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            reason = scrubbed(" ".join(str(text).split()))[:200]
            if _is_final(error):
                raise StoreError(f"{url}: cannot be {done} ({reason})") from error
            if wait is None:
                tried = f"tried {number} times in {time.monotonic() - began:.0f} s"
                raise StoreError(f"{url}: cannot be {done} ({reason}); {tried}, the same command goes on") from error
            time.sleep(wait * random.uniform(0.5, 1.5))
    raise AssertionError("the last attempt returns or raises")


def _is_final(error: Exception) -> bool:
    """Whether trying again is no use: no right, no credentials, no such thing as was asked for."""
    known = isinstance(error, PermissionError) or type(error).__name__ in ("NoCredentialsError", "InvalidURL")
    return known or _status(error) in (401, 403, 404, 405, 410)


def _status(error: BaseException) -> int | None:
    """HTTP's, where the error or its cause tells: fsspec makes "not found" of whatever a HEAD fails of."""
    status = getattr(error, "status", None)
    if isinstance(status, int) or error.__cause__ is None:
        return status if isinstance(status, int) else None
    return _status(error.__cause__)


@cache
def _client(scheme: str) -> Any:
    """fsspec's file system for a scheme. Credentials and endpoint are its own business: environment, files, roles."""
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "s3":
        options["config_kwargs"] = {"retries": {"total_max_attempts": 1}}
    try:
        if scheme in ("http", "https"):
            import aiohttp

            options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(sock_connect=5, sock_read=15)}
        client = fsspec.filesystem(scheme, **options)
    except ImportError as error:
        raise StoreError(
            f"{scheme}:// needs a package that is not here: pip install 'fundus-grading[{EXTRAS[scheme]}]'"
        ) from error
    client.retries = 1
    return client
