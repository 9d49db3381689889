"""Pseudonyms for the patients of DICOM files. The key that makes them is stored outside every cache."""

import hmac
import os
import re
import secrets
from functools import cache, cached_property
from pathlib import Path
from typing import Final
from uuid import uuid4

from pipeline.errors import SourceError
from pipeline.storage.artifacts import cache_around, open_regular

DIGITS: Final = 16
"""Hexadecimal digits of a pseudonym: among a million patients, the probability that two share one is 3 in 100
million."""


class Pseudonyms:
    """Pseudonyms under the key in a file. The file is made when the first patient needs it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, patient: str) -> str:
        return _pseudonym(self._key, patient)

    @property
    def used(self) -> bool:
        """Whether any pseudonym was made."""
        return "_key" in self.__dict__

    @cached_property
    def _key(self) -> bytes:
        return _read(self.path) or _make(self.path)


def temporary_pseudonym(patient: str) -> str:
    """A pseudonym under a key that is not stored: the next process has others."""
    return _pseudonym(_temporary_key(), patient)


def unchanged_id(patient: str) -> str:
    """The id itself, on one line."""
    return " ".join(patient.split())


def key_file(named: Path | None, out: Path | None) -> Path:
    """The file of the key: the one that the user named, else the user's own, which all caches share.

    Raises SourceError if the file has no key and cannot be made, or lies in a cache (such as `out`): caches are passed
    on to others.
    """
    if named is None:
        folder = os.environ.get("APPDATA" if os.name == "nt" else "XDG_CONFIG_HOME") or "~/.config"
        path = Path(os.path.expanduser(folder), "fundus-grading", "id.key")
    else:
        path = named
    real = Path(os.path.realpath(path))
    around = out if out is not None and real.is_relative_to(os.path.realpath(out)) else cache_around(real)
    if around is not None:
        raise SourceError(
            f"{path}: lies in the cache {around}; a cache is passed on to others, so no key may lie in one"
        )
    if named is not None and _read(path) is None and not os.access(real.parent, os.W_OK):
        raise SourceError(f"{path}: no such file, and none can be made there")
    return path


def _pseudonym(key: bytes, patient: str) -> str:
    return hmac.new(key, patient.encode("utf-8", "surrogateescape"), "sha256").hexdigest()[:DIGITS]


@cache
def _temporary_key() -> bytes:
    return secrets.token_bytes(32)


def _read(path: Path) -> bytes | None:
    """The key in a file, None if there is no file. Raises SourceError if the file is no key."""
    try:
        with open_regular(path) as file:
            text = file.read(100)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    if not re.fullmatch(rb"[0-9a-f]{64}\s*", text):
        raise SourceError(f"{path}: no key, which is 64 hexadecimal digits; name a new file and it gets a key")
    return bytes.fromhex(text.decode().strip())


def _make(path: Path) -> bytes:
    """Makes a file with a new key, which only its owner can read. Processes that do so at once all get the same key."""
    unfinished = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(secrets.token_hex(32).encode() + b"\n")
                file.flush()
                os.fsync(descriptor)
            try:
                os.link(unfinished, path)  # unlike a rename, it never replaces another key
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                if not path.exists():
                    os.rename(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise SourceError(f"{path}: the key of the pseudonyms cannot be written ({error.strerror})") from error
    key = _read(path)
    assert key is not None
    return key
