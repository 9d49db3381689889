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
"""Of a pseudonym, hexadecimal: of a million patients two share one with a probability of 3 in 100 million."""


class Pseudonyms:
    """Pseudonyms under the key in a file, which is made when a first patient needs it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, patient: str) -> str:
        return _pseudonym(self._key, patient)

    @property
    def used(self) -> bool:
        """Whether any patient has been named."""
        return "_key" in self.__dict__

    @cached_property
    def _key(self) -> bytes:
        return _read(self.path) or _make(self.path)


def of_this_run(patient: str) -> str:
    """A pseudonym under a key that nobody keeps."""
    return _pseudonym(_passing_key(), patient)


def as_it_is(patient: str) -> str:
    """The id itself, in one line."""
    return " ".join(patient.split())


def key_file(asked: Path | None, out: Path | None) -> Path:
    """Where the key lies: in the file asked for, else in one of the user's, which all caches share.

    Raises SourceError where that is no key or cannot be made one, and in a cache, `out` among them: others get caches.
    """
    if asked is None:
        folder = os.environ.get("APPDATA" if os.name == "nt" else "XDG_CONFIG_HOME") or "~/.config"
        path = Path(os.path.expanduser(folder), "fundus-grading", "id.key")
    else:
        path = asked
    real = Path(os.path.realpath(path))
    around = out if out is not None and real.is_relative_to(os.path.realpath(out)) else cache_around(real)
    if around is not None:
        raise SourceError(f"{path}: lies in the cache {around}, where no key may lie: others get caches")
    if asked is not None and _read(path) is None and not os.access(real.parent, os.W_OK):
        raise SourceError(f"{path}: no such file, and none can be made there")
    return path


def _pseudonym(key: bytes, patient: str) -> str:
    return hmac.new(key, patient.encode("utf-8", "surrogateescape"), "sha256").hexdigest()[:DIGITS]


@cache
def _passing_key() -> bytes:
    return secrets.token_bytes(32)


def _read(path: Path) -> bytes | None:
    """The key in a file, None where there is no file. Raises SourceError where there is no key in it."""
    try:
        with open_regular(path) as file:
            text = file.read(100)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    if not re.fullmatch(rb"[0-9a-f]{64}\s*", text):
        raise SourceError(f"{path}: no key, which is 64 hexadecimal digits; a file that is not there yet is made one")
    return bytes.fromhex(text.decode().strip())


def _make(path: Path) -> bytes:
    """A new key in its file, for its owner alone; of several processes that make it at once all get the same."""
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
                os.link(unfinished, path)  # unlike a renaming, never in the place of another key
            except FileExistsError:
                pass
            except OSError:  # a disk without links
                if not path.exists():
                    os.rename(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise SourceError(f"{path}: the key of the pseudonyms cannot be written ({error.strerror})") from error
    key = _read(path)
    assert key is not None
    return key
