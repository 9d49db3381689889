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
"""What a half-written file is called; whoever finds one without its owner may delete it."""
TRIES: Final = 8
"""To claim an output, up to 50 ms apart."""
READER: Final = 10.0
"""Seconds to wait for somebody who reads a FIFO that is written to."""
LOCK: Final = "lock"
"""Is claimed in a folder that is kept as a whole; a file of this name is never made."""
_LONGEST: Final = 200
"""Bytes of a name that its temporary name repeats: file systems allow 255, and the rest of it takes 30."""
_UNIQUE: Final = re.compile(rf"(?P<start>.+)\.[0-9a-f]{{16}}-[0-9a-f]{{8}}\{TMP_SUFFIX}", re.DOTALL)


class Busy(OSError):
    """Another process writes the same output."""


@contextmanager
def write_whole(path: Path, mtime_ns: int | None = None) -> Iterator[IO[bytes]]:
    """A file opened beside `path`, synced to the disk and renamed over it when the block ends well.

    Killed at any moment, `path` holds the old bytes or the new ones, never a part. An exception in the block removes
    the unfinished file. Of several processes that write one path each has a file of its own, and the last rename wins
    whole. `mtime_ns` sets the modification time, in nanoseconds. A file that holds these very bytes already is left as
    it is.

    A link is followed: what it points to is written, and the link stays. A FIFO or a device is written to, as
    `is_stream` tells them. Raises OSError where that cannot be.
    """
    if is_stream(path):
        with _open_stream(path) as stream:
            yield stream
        return
    path = Path(os.path.realpath(path))  # a new name beside a link would take its place
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
    """Keeps outputs for this process while the block lasts, so that a second command is told and no work is lost.

    Missing folders above them are made; those that are still empty go again when the block fails. What writers that
    were killed have left beside them is removed. Raises Busy where another process has claimed or writes one of them,
    another OSError where a file cannot be made there. FIFOs and devices cannot be claimed.
    """
    with ExitStack() as stack:
        for path in paths:
            if not is_stream(path):
                path = Path(os.path.realpath(path))
                stack.enter_context(made_folder(path.parent))
                _claim(path, stack)
        yield


def _claim(path: Path, stack: ExitStack) -> None:
    """Holds an own file beside `path` with `stack`, where nobody else has one.

    Each looks for others after its own file is there and locked, so of two at least one sees the other and steps back.
    Where both do, they try again after different times.
    """
    for _ in range(TRIES):
        with ExitStack() as mine:
            file = mine.enter_context(_own_file(path))
            others = [
                other for other in _unfinished(path.parent, _start_of(path)) if other.name != Path(file.name).name
            ]
            # The oldest first: a claim is older than what is written under it, so no file of the living is tried.
            if all(map(_removed_if_dead, sorted(others))) and _is_there(file):
                stack.push(mine.pop_all())
                return
        time.sleep(secrets.randbelow(50) / 1000)
    raise Busy(errno.EBUSY, "another command is writing it; wait until that ends", str(path))


def _is_there(file: IO[bytes]) -> bool:
    """Whether the file still has its name: before it was locked, another may have taken it for a dead one's."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))
    except FileNotFoundError:
        return False


def is_stream(path: Path) -> bool:
    """Whether a path is a FIFO, a device or a socket, or a name that the system has for an open file, as /dev/stdout.

    These are written to and never replaced.
    """
    try:
        kind = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)) or _open_descriptor(path) is not None


def _open_descriptor(path: Path) -> int | None:
    """The descriptor of this process that a path stands for, as /dev/stdout and /dev/fd/3 do."""
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
        # The open file itself: opened anew, a file that the shell appends to would be written over from its beginning.
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
            time.sleep(0.05)  # a FIFO whose reader has not come yet
        else:
            if hasattr(os, "O_NONBLOCK"):
                os.set_blocking(descriptor, True)
            return open(descriptor, "wb")


@contextmanager
def _own_file(path: Path) -> Iterator[IO[bytes]]:
    """A new file beside `path` that this process alone has, locked as long as it is open, and then removed if it was
    not renamed."""
    unique = f"{time.time_ns():016x}-{secrets.token_hex(4)}"
    unfinished = path.with_name(f"{_start_of(path)}.{unique}{TMP_SUFFIX}")
    try:
        with open(unfinished, "xb") as file:
            with suppress(OSError):  # a file system without locks
                lock(file.fileno())
            yield file
    finally:
        remove(unfinished)


def _start_of(path: Path) -> str:
    """What the temporary names for a path begin with."""
    name = os.fsencode(path.name)
    return path.name if len(name) <= _LONGEST else hashlib.sha256(name).hexdigest()


def _unfinished(folder: Path, start: str | None = None) -> list[Path]:
    """The temporary files of `_own_file` in a folder: all, or those whose names begin so. No other file has such a
    name, so nobody's `notes.csv.old.tmp` is among them."""
    names = ((_UNIQUE.fullmatch(name), name) for name in os.listdir(folder))
    return [folder / name for match, name in names if match and start in (None, match["start"])]


def is_unfinished(name: str) -> bool:
    """Whether a file's name is one of those that half-written files of ours have."""
    return _UNIQUE.fullmatch(name) is not None


def sweep_dead(folder: Path) -> None:
    """Removes what writers that were killed have left in a folder."""
    for path in _unfinished(folder):
        _removed_if_dead(path)


def _removed_if_dead(unfinished: Path) -> bool:
    """Removes a half-written file whose owner has died, for locks die with their owners; whether it is gone."""
    try:
        with open(unfinished, "rb") as file:
            lock(file.fileno())
            let_go(file)
            unfinished.unlink()
    except FileNotFoundError:
        return True
    except OSError as error:
        return not isinstance(error, IN_USE)  # without locks nobody can tell: the last rename wins
    return True


@contextmanager
def made_folder(path: Path) -> Iterator[None]:
    """A folder, with those above it. Those that were made for it and are still empty go again when the block fails."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # it holds something by now
                folder.rmdir()
        raise


@contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """Keeps a folder for one writer while the block lasts.

    The lock is the kernel's and dies with its owner. Raises BlockingIOError while another process holds it, another
    OSError where the file system knows no locks. On Windows, where no folder can be locked, a half-written file in it
    that is claimed is its lock.
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
    """On POSIX: locks a folder for one writer; returns the descriptor that holds the lock until it is closed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        lock(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def sync_folder(path: Path) -> None:
    """Makes renames and removals inside a folder survive a power cut; on Windows that is the file system's matter."""
    if not POSIX_FILES:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
