"""Files behind URLs: s3://, gs:// and https://, read and written with fsspec. Only this module imports it.

The clients retry different things: fsspec's client for https nothing, s3fs bodies and some codes, botocore connections
and 5xx. So retries of s3fs and botocore are switched off, and this module retries everything by one rule, for half a
minute. The six attempts of gcsfs cannot be switched off.
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
from pipeline.threads import ThreadPool

T = TypeVar("T")

WAITS: Final = (0.25, 0.5, 1, 2, 4, 8, 15)
"""Seconds between attempts. Each is multiplied by a random 0.5 to 1.5, so that many machines do not retry at once."""
THREADS: Final = 16
"""For requests that mostly wait: a HEAD, or a few bytes."""


class Stored(NamedTuple):
    """A file behind a URL, as it is listed."""

    name: str  # below the URL that was listed, with slashes
    nbytes: int
    mtime_ns: int  # as the server says; the present if it does not
    version: str  # changes when the content does


def read(url: Url, part: tuple[int, int] | None = None) -> bytes:
    """The bytes of a file. part: the offsets between which it is read; None: all of it.

    Raises FileNotFoundError if there is no such file, StoreError for any other error that lasts.
    """

    def attempt() -> bytes:
        start, end = part or (None, None)
        data: bytes = _client(url.scheme).cat_file(url.text, start=start, end=end)
        if part and len(data) > part[1] - part[0]:  # some web servers send everything
            data = data[slice(*part)]
        return data

    return _with_retries(url, "read", attempt)


def send(source: Path | bytes, url: Url) -> None:
    """Writes a file, completely or not at all: S3 and GCS show an object after its last byte has arrived."""
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
        _with_retries(url, "written", attempt)
    except FileNotFoundError as error:
        raise StoreError(f"{url}: cannot be written (there is no such bucket)") from error
    finally:
        if failed and url.scheme == "s3":
            _abort_uploads(client, url)


def _abort_uploads(client: Any, url: Url) -> None:
    """Aborts failed uploads in parts. s3fs does so, but only once; if that request is lost, S3 keeps the parts."""
    bucket, key, _ = client.split_path(url.text)
    for _ in range(3):
        with suppress(Exception):  # the caller raises the error that matters
            found = client.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key)
            for upload in found.get("Uploads", []):
                if upload["Key"] == key:
                    client.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload["UploadId"])
            return


def remove(url: Url) -> None:
    """Removes a file, if it is there."""
    with suppress(FileNotFoundError):
        _with_retries(url, "removed", lambda: _client(url.scheme).rm_file(url.text))


def exists(url: Url) -> bool:
    try:
        read(url, part=(0, 1))
    except FileNotFoundError:
        return False
    return True


def files_below(url: Url) -> list[Stored]:
    """Every file below a URL, sorted by name; none if there is no such folder."""
    client = _client(url.scheme)
    try:
        found: dict[str, dict[str, Any]] = _with_retries(
            url, "listed", lambda: client.find(url.text.partition("?")[0] if url.on_web else url.text, detail=True)
        )
    except FileNotFoundError:
        return []
    names = [name for name, info in found.items() if info["type"] == "file" and not name.endswith("/")]
    root = client._strip_protocol(url.text).partition("?")[0].rstrip("/") + "/"
    below = [name.removeprefix(root) for name in names if name.startswith(root)]
    if url.on_web:  # a page of links has no sizes and times: one HEAD a file
        below = sorted({unquote(name.partition("?")[0].partition("#")[0]) for name in below} - {""})
        with ThreadPool(THREADS) as pool:
            infos = pool.map(lambda name: _with_retries(url, "read", lambda: client.info((url / name).text)), below)
            return [_stored(name, info) for name, info in zip(below, infos, strict=True)]
    return sorted(_stored(name, found[root + name]) for name in below)


def stat(url: Url) -> Stored:
    """The size, time and version of one file."""
    return _stored(url.name, _with_retries(url, "read", lambda: _client(url.scheme).info(url.text)))


def _stored(name: str, info: dict[str, Any]) -> Stored:
    when = info.get("LastModified") or info.get("Last-Modified") or info.get("mtime") or info.get("updated")
    if isinstance(when, str):
        when = parsedate_to_datetime(when) if when[:1].isalpha() else datetime.fromisoformat(when)
    mtime_ns = time.time_ns() if when is None else round(when.timestamp() * 1000) * 1_000_000
    tag = info.get("ETag") or info.get("etag") or mtime_ns
    return Stored(name, int(info.get("size") or 0), mtime_ns, f"{tag} {info.get('size')}")


def _with_retries(url: Url, done: str, attempt: Callable[[], T]) -> T:
    """The result of `attempt`. After an error that may pass it is called again, after each of WAITS.

    done: what is attempted, as in "read". Raises FileNotFoundError at once, and StoreError at once for an error that is
    final, else after the last attempt.
    """
    began = time.monotonic()
    for number, wait in enumerate((*WAITS, None), 1):
        try:
            return attempt()
        except (TypeError, AttributeError, MemoryError):  # a bug, ours or the client's
            raise
        except Exception as error:  # clients raise errors of their own and of botocore, aiohttp and asyncio
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
                raise StoreError(
                    f"{url}: cannot be {done} ({reason}); {tried}; run the same command to continue"
                ) from error
            time.sleep(wait * random.uniform(0.5, 1.5))
    raise AssertionError("the last attempt returns or raises")


def _is_final(error: Exception) -> bool:
    """Whether another attempt would fail too: no permission, no credentials, no such file."""
    known = isinstance(error, PermissionError) or type(error).__name__ in ("NoCredentialsError", "InvalidURL")
    return known or _status(error) in (401, 403, 404, 405, 410)


def _status(error: BaseException) -> int | None:
    """The HTTP status of an error or its cause; None if unknown. fsspec reports any failed HEAD as "not found"."""
    status = getattr(error, "status", None)
    if isinstance(status, int) or error.__cause__ is None:
        return status if isinstance(status, int) else None
    return _status(error.__cause__)


@cache
def _client(scheme: str) -> Any:
    """fsspec's file system for a scheme. It finds credentials and endpoint itself: environment, files, roles."""
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
