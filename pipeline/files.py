"""Files that are either whole or not there."""

import filecmp
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

TMP_SUFFIX = ".tmp"
"""What a half-written file is called; whoever finds one without its owner may delete it."""


@contextmanager
def write_whole(path: Path, mtime_ns: int | None = None) -> Iterator[IO[bytes]]:
    """A file opened beside `path`, synced to the disk and renamed over it when the block ends well.

    Killed at any moment, `path` holds the old bytes or the new ones, never a part. An exception in the block removes
    the unfinished file. `mtime_ns` sets the modification time, in nanoseconds. A file that holds these very bytes
    already is left as it is.
    """
    unfinished = path.with_name(path.name + TMP_SUFFIX)
    try:
        with open(unfinished, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.is_file() and filecmp.cmp(unfinished, path, shallow=False):
            unfinished.unlink()
            return
        if mtime_ns is not None:
            os.utime(unfinished, ns=(mtime_ns, mtime_ns))
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def lock_folder(path: Path) -> int:
    """Locks a folder for one writer; returns the descriptor that holds the lock until it is closed.

    The lock is the kernel's and dies with its owner. Raises BlockingIOError while another process holds it, another
    OSError where the file system knows no locks.
    """
    import fcntl  # not on Windows, where nothing but this needs it

    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def sync_folder(path: Path) -> None:
    """Makes renames and removals inside a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
