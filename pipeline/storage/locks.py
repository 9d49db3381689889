"""Locks of open files, and everything else that differs between POSIX and Windows. No other module knows it.

The lock of an unfinished file tells other processes that its owner is still running. The lock must end with its
process, however that ends. The package `filelock` makes the same two calls as this module, but it locks only files of
its own, which it empties when it opens them. It locks no file that is open already, and no folder.

* **POSIX** (Linux, macOS): `flock`, on files and folders.
* **Windows**: `msvcrt.locking`. It locks bytes, and other processes cannot read a locked byte. So one far behind the
  data is locked, 2 GB from the beginning, the last that is possible. A folder cannot be opened there, so
  `locked_folder` of `pipeline.storage.atomic` locks a file in it.
* **Other systems**, and some file systems, have no locks.

On Windows an open file can be neither renamed nor removed. `let_go` closes it before. A file that another process has
open is tried again for a second, because virus scanners open new files. Between `let_go` and the rename, about 0.1 ms,
the file has no lock, and another process may remove it as stale. The write then fails with an error of one line, and
nothing is damaged. Windows has no change time that programs cannot set: see `changed_ns`.

None of this has ever run on Windows. `tests/test_other_systems.py` runs it on Linux, with a fake msvcrt and a fake of
the rule on open files.
"""

import errno
import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final

try:
    import fcntl
except ImportError:
    POSIX_FILES = False
else:
    POSIX_FILES = True
"""Whether an open file can be renamed and removed, and a folder opened, locked and synced."""

IN_USE: Final = (BlockingIOError,) if POSIX_FILES else (BlockingIOError, PermissionError)
"""Raised if a file is to be locked or removed that another process has locked or open."""
PATIENCE: Final = 1.0
"""On Windows: seconds for which a file that another process has open is tried again."""
_BYTE: Final = 2**31 - 2
"""Offset of the byte that is locked on Windows."""


def lock(descriptor: int, wait: bool = False) -> None:
    """Locks an open file, on POSIX also a folder, until it is closed or its process ends. wait: for the lock, on POSIX
    only.

    Raises BlockingIOError if another process has the lock, another OSError if there are no locks.
    """
    if POSIX_FILES:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    else:
        _lock_byte(descriptor)


def unlock(descriptor: int) -> None:
    """On POSIX: releases a lock. Closing is not enough if the file is mapped: the map has its own descriptor."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def _lock_byte(descriptor: int) -> None:
    try:
        msvcrt: Any = import_module("msvcrt")
    except ImportError as error:
        raise OSError(errno.ENOLCK, "no locks on this system") from error
    before = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, _BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except PermissionError as error:
        raise BlockingIOError(errno.EWOULDBLOCK, "locked by another process") from error
    finally:
        os.lseek(descriptor, before, os.SEEK_SET)


def let_go(file: IO[bytes]) -> None:
    """On Windows: closes a file that is to be renamed or removed next. It loses its lock."""
    if not POSIX_FILES:
        file.close()


def replace(old: str | Path, new: str | Path) -> None:
    """os.replace; on Windows it is tried again for a second."""
    _patiently(lambda: os.replace(old, new))


def remove(path: Path) -> None:
    """Removes a file, if it is there; on Windows this is tried again for a second."""
    _patiently(lambda: path.unlink(missing_ok=True))


def remove_unused(path: Path) -> None:
    """Removes a file, if it is there. On Windows an open one stays: the process that has it open removes it."""
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        if POSIX_FILES:
            raise


def changed_ns(status: os.stat_result) -> int:
    """When a file was last changed, in ns. On Windows, where st_ctime is its creation: when it was last written."""
    return status.st_ctime_ns if POSIX_FILES else status.st_mtime_ns


def _patiently(call: Callable[[], None]) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            call()
            return
        except PermissionError:
            if POSIX_FILES or time.monotonic() > until:
                raise
            time.sleep(0.02)
