"""Atomic writes, and a lock so that one process writes a file at a time."""

import errno
import filecmp
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from pipeline.storage.locks import IN_USE, POSIX_FILES, let_go, lock, remove, replace

TMP_SUFFIX: Final = ".tmp"
"""Suffix of an unfinished file. If the process that wrote it has ended, any process may delete it."""
TRIES: Final = 8
"""Attempts to claim an output, up to 50 ms apart."""
READER: Final = 10.0
"""Seconds to wait until another process reads a FIFO that is written to."""
LOCK: Final = "lock"
"""The name that is claimed to lock a folder. A file of this name is never made."""
_LONGEST: Final = 200
"""Bytes of a name that its temporary name repeats: file systems allow 255, and the rest of it takes 30."""
_UNIQUE: Final = re.compile(rf"(?P<start>.+)\.[0-9a-f]{{16}}-[0-9a-f]{{8}}\{TMP_SUFFIX}", re.DOTALL)


class Busy(OSError):
    """Another process writes the same output."""


@contextmanager
def write_atomically(path: Path, mtime_ns: int | None = None) -> Iterator[IO[bytes]]:
    """A file to write beside `path`. If the block ends without an exception, it is synced to the disk and renamed to
    `path`.

    If the process is killed, `path` has the old bytes or the new ones, never a part. An exception in the block removes
    the unfinished file. If several processes write one path, each has a file of its own, and the last rename counts.
    mtime_ns: the modification time to set, in nanoseconds. If `path` has the same bytes already, it is not changed.

    A link is followed: its target is written, and the link stays. A FIFO or a device is written to directly; see
    `is_stream`. Raises OSError if the file cannot be written.
    """
    if is_stream(path):
        with _open_stream(path) as stream:
            yield stream
        return
    path = Path(os.path.realpath(path))  # a rename over the link would replace it
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    with _own_file(path) as file:
        unfinished = file.name
        yield file
        file.flush()
        os.fsync(file.fileno())
        let_go(file)
        if path.is_file() and filecmp.cmp(unfinished, path, shallow=False):
            return
        if mtime_ns is not None:
            os.utime(unfinished, ns=(mtime_ns, mtime_ns))
        replace(unfinished, path)
    sync_folder(path.parent)


@contextmanager
def claimed(paths: Iterable[Path]) -> Iterator[None]:
    """Claims outputs for this process for the duration of the block, so that a second command stops before it works.

    Missing parent folders are made. If the block fails, those that are still empty are removed. Unfinished files of
    processes that were killed are removed. Raises Busy if another process has claimed or writes one of the outputs, and
    another OSError if a file cannot be made there. FIFOs and devices cannot be claimed.
    """
    with ExitStack() as stack:
        for path in paths:
            if not is_stream(path):
                path = Path(os.path.realpath(path))
                stack.enter_context(made_folder(path.parent))
                _claim(path, stack)
        yield


def _claim(path: Path, stack: ExitStack) -> None:
    """Keeps a locked file beside `path` open in `stack`, unless another process has one. Raises Busy then.

    A process looks for other files after its own is made and locked. So of two processes at least one sees the other's
    file and gives up its own. If both do, they try again after different times.
    """
    for _ in range(TRIES):
        with ExitStack() as mine:
            file = mine.enter_context(_own_file(path))
            others = [
                other for other in _unfinished(path.parent, _start_of(path)) if other.name != Path(file.name).name
            ]
            # The oldest first: a claim is older than the files that its owner writes, which are then not tried.
            if all(map(_removed_if_stale, sorted(others))) and _is_there(file):
                stack.push(mine.pop_all())
                return
        time.sleep(secrets.randbelow(50) / 1000)
    raise Busy(errno.EBUSY, "another command is writing it; wait until that ends", str(path))


def _is_there(file: IO[bytes]) -> bool:
    """Whether the file still has its name. Before it was locked, another process may have removed it as stale."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))
    except FileNotFoundError:
        return False


def is_stream(path: Path) -> bool:
    """Whether a path is a FIFO, a device or a socket, or the system's name for an open file, such as /dev/stdout.

    These are written to and never replaced.
    """
    try:
        kind = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)) or _open_descriptor(path) is not None


def _open_descriptor(path: Path) -> int | None:
    """The descriptor of this process that a path such as /dev/stdout or /dev/fd/3 stands for; None for any other."""
    for _ in range(40):  # as many links as Linux follows
        try:
            where = f"{os.path.realpath(path.parent)}/{path.name}"
            if match := re.fullmatch(rf"(?:/proc/{os.getpid()}|/dev)/fd/(\d+)", where):  # Linux's, macOS's
                return int(match[1])
            path = Path(where).parent / os.readlink(where)
        except OSError:
            return None
    return None


def _open_stream(path: Path) -> IO[bytes]:
    if (descriptor := _open_descriptor(path)) is not None:
        # A copy of the descriptor: a file to which the shell appends would be overwritten if it were opened again.
        return open(os.dup(descriptor), "wb")
    until = time.monotonic() + READER
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > until:
                raise OSError(errno.ENXIO, "nobody reads from it", str(path)) from error
            time.sleep(0.05)  # nobody has opened the FIFO for reading yet
        else:
            if hasattr(os, "O_NONBLOCK"):
                os.set_blocking(descriptor, True)
            return open(descriptor, "wb")


@contextmanager
def _own_file(path: Path) -> Iterator[IO[bytes]]:
    """A new file beside `path` with a unique name. It is locked as long as it is open, and at the end removed unless it
    was renamed."""
    unique = f"{time.time_ns():016x}-{secrets.token_hex(4)}"
    unfinished = path.with_name(f"{_start_of(path)}.{unique}{TMP_SUFFIX}")
    try:
        with open(unfinished, "xb") as file:
            with suppress(OSError):  # this file system has no locks
                lock(file.fileno())
            yield file
    finally:
        remove(unfinished)


def _start_of(path: Path) -> str:
    """The beginning of the temporary names for a path."""
    name = os.fsencode(path.name)
    return path.name if len(name) <= _LONGEST else hashlib.sha256(name).hexdigest()


def _unfinished(folder: Path, start: str | None = None) -> list[Path]:
    """The files of `_own_file` in a folder: all, or those whose names begin with `start`. Files of other programs, such
    as `notes.csv.old.tmp`, have no such names."""
    names = ((_UNIQUE.fullmatch(name), name) for name in os.listdir(folder))
    return [folder / name for match, name in names if match and start in (None, match["start"])]


def is_unfinished(name: str) -> bool:
    """Whether a name is one of `_own_file`."""
    return _UNIQUE.fullmatch(name) is not None


def remove_stale(folder: Path) -> None:
    """Removes the unfinished files of processes that were killed from a folder."""
    for path in _unfinished(folder):
        _removed_if_stale(path)


def _removed_if_stale(unfinished: Path) -> bool:
    """Removes an unfinished file if its process has ended, which also ends its lock. Returns whether it is removed."""
    try:
        with open(unfinished, "rb") as file:
            lock(file.fileno())
            let_go(file)
            unfinished.unlink()
    except FileNotFoundError:
        return True
    except OSError as error:
        return not isinstance(error, IN_USE)  # without locks it is not known: the last rename counts
    return True


@contextmanager
def made_folder(path: Path) -> Iterator[None]:
    """Makes a folder and its parents. If the block fails, those that it made and that are still empty are removed."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # no longer empty
                folder.rmdir()
        raise


@contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """Locks a folder for one writer, for the duration of the block.

    The kernel holds the lock, and releases it when the process ends. Raises BlockingIOError if another process has it,
    and another OSError if the file system has no locks. Windows cannot lock a folder: there the file LOCK in it is
    claimed.
    """
    if POSIX_FILES:
        descriptor = lock_folder(path)
        try:
            yield
        finally:
            os.close(descriptor)
        return
    with ExitStack() as stack:
        try:
            _claim(path / LOCK, stack)
        except Busy as error:
            raise BlockingIOError(error.errno, error.strerror, str(path)) from error
        yield


def lock_folder(path: Path) -> int:
    """On POSIX: locks a folder for one writer. Returns the descriptor; closing it releases the lock."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        lock(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def sync_folder(path: Path) -> None:
    """Makes renames and removals in a folder survive a power cut. On Windows the file system does this."""
    if not POSIX_FILES:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
