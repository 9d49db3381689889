"""Functions that work for paths and for URLs."""

import hashlib
import os
from pathlib import Path

from pipeline.storage.url import Url


def read_file(path: Path | Url) -> bytes:
    """The bytes of a file. Raises FileNotFoundError, another OSError, or StoreError."""
    if isinstance(path, Path):
        return path.read_bytes()
    from pipeline.storage import object_store

    return object_store.read(path)


def exists(path: Path | Url) -> bool:
    if isinstance(path, Path):
        return os.path.exists(path)
    from pipeline.storage import object_store

    return object_store.exists(path)


def names_below(path: Path | Url) -> set[str]:
    """The paths of all files below a folder, with slashes."""
    if isinstance(path, Path):
        return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    from pipeline.storage import object_store

    return {stored.name for stored in object_store.files_below(path)}


def sha256_of(path: Path | Url) -> str | None:
    """The SHA-256 of a file, 64 hex digits; None if it cannot be read."""
    try:
        if isinstance(path, Url):
            return hashlib.sha256(read_file(path)).hexdigest()
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
