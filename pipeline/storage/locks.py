"""Locks of open files, and what else POSIX and Windows do with files in two ways. No other file knows of the two.

A lock is needed on a file that is open anyway: a half-written one, by whose lock others tell a living owner from a dead
one. It must go with the process that holds it, however that ends. The package `filelock` locks by the same two calls as
here, but only files of its own, which it empties when it opens them; it locks no file that is open, and no folder. So
the calls are made here.

* **POSIX** (Linux, macOS): `flock`, on files and folders.
* **Windows**: `msvcrt.locking`. It locks bytes, which nobody else may read meanwhile, so one far behind the data is
  locked, 2 GB from the beginning, the last that it can name. A folder cannot be opened there: `locked_folder` of
  `pipeline.storage.atomic` lets a file in it stand for its lock.
* **Elsewhere** there are no locks, as on some file systems.

On Windows an open file can be neither renamed nor removed. `let_go` closes it before; what others have open is tried
again for a second, for virus scanners open what has just been written. Between `let_go` and the renaming, some 0.1 ms,
the file has no lock, and a sweep of its folder may take it for a dead one's: that write then fails, in one line, and
nothing is damaged. Nor is there a time of change, which no program can set: see `changed_ns`.

None of this has ever run on Windows. `tests/test_other_systems.py` runs it on Linux, with a stand-in for msvcrt and for
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
"""What it raises to lock or to remove a file that another process has."""
PATIENCE: Final = 1.0
"""Seconds for which a file that somebody has open is tried again, on Windows."""
_BYTE: Final = 2**31 - 2
"""Where the byte is that is locked on Windows."""


def lock(descriptor: int, wait: bool = False) -> None:
    """Locks an open file, on POSIX a folder too, until it is closed or its process ends. `wait`: on POSIX only.

    Raises BlockingIOError while another has it, another OSError where there are no locks.
    """
    if POSIX_FILES:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    else:
        _lock_byte(descriptor)


def unlock(descriptor: int) -> None:
    """On POSIX. Closing is not enough where there is a map of the file, which has a descriptor of its own."""
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
    """Closes a file that is about to be renamed or removed, where it must be closed for that, and loses its lock."""
    if not POSIX_FILES:
        file.close()


def replace(old: str | Path, new: str | Path) -> None:
    """os.replace, with patience."""
    _patiently(lambda: os.replace(old, new))


def remove(path: Path) -> None:
    """Removes a file that may be gone already, with patience."""
    _patiently(lambda: path.unlink(missing_ok=True))


def remove_unused(path: Path) -> None:
    """Removes a file that may be gone already; on Windows not one that is open: whoever has it open removes it."""
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        if POSIX_FILES:
            raise


def changed_ns(about: os.stat_result) -> int:
    """When a file was changed last: on Windows, where st_ctime is the time of its making, when it was written to."""
    return about.st_ctime_ns if POSIX_FILES else about.st_mtime_ns


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
