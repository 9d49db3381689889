"""Takes from Python on Linux what other systems lack; every process of a test imports it as it starts.

The variable OTHER_SYSTEM says which:

* windows: no fcntl, no resource, no DALI, none of the functions below. msvcrt locks bytes, an open or mapped file can
  be neither renamed nor removed, a folder cannot be opened.
* bare: the same without msvcrt and without those rules, which is less than any system has.
* macos: no DALI, and only what macOS lacks.

Names that cannot be encoded by the console's code page, and files opened without an encoding, are the test's to set.
"""

import errno
import fcntl
import multiprocessing
import os
import signal
import struct
import subprocess  # noqa: F401  # it takes a system that has msvcrt for Windows
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

SYSTEM = os.environ["OTHER_SYSTEM"]
LINUX_ONLY = ("sched_getaffinity", "sched_setaffinity", "posix_fadvise", "posix_fallocate", "memfd_create")
POSIX_ONLY = (
    "fork", "forkpty", "setsid", "killpg", "mkfifo", "mknod", "sysconf", "nice", "getloadavg", "chown", "fchmod",
    "pread", "pwrite", "set_blocking", "O_NONBLOCK", "O_NOFOLLOW", "O_SYNC",
)  # fmt: skip
"""But for those that torch, NumPy and Python's own library need once they take a system for Linux."""
POSIX_SIGNALS = (
    "pthread_sigmask", "pthread_kill", "sigwait", "sigpending", "setitimer", "alarm", "siginterrupt", "SIGHUP",
    "SIGUSR1", "SIGALRM",
)  # fmt: skip


def take_away(module: types.ModuleType, names: tuple[str, ...]) -> None:
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


def locking(descriptor: int, mode: int, nbytes: int) -> None:
    """msvcrt's. The locks of an open file description are the kernel's nearest: they belong to the open file, and go
    with it. One that is open for reading alone gets a lock that it shares with its like."""
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    kind = fcntl.F_WRLCK if writable else fcntl.F_RDLCK
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, place, nbytes, 0))
    except OSError as error:
        raise PermissionError(errno.EACCES, "Permission denied") from error


def is_held(path: str) -> bool:
    """Whether a process has a file open or mapped."""
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            folder = f"/proc/{process}/fd"
            if path in (os.readlink(f"{folder}/{number}") for number in os.listdir(folder)):
                return True
            with open(f"/proc/{process}/maps", "rb") as maps:
                if os.fsencode(f" {path}\n") in maps.read():
                    return True
        except OSError:  # it has ended meanwhile, or closed the file
            continue
    return False


def refusing(call: Callable[..., Any]) -> Callable[..., Any]:
    """Of os.replace and its like: refuses where one of the files is held, as Windows does. But two modules of Python,
    which take this for Linux, remove files that they hold."""

    def refuse(*paths: Any, **options: Any) -> Any:
        caller = sys._getframe(1).f_globals["__name__"]
        if caller not in ("tempfile", "multiprocessing.heap") and not options:  # with dir_fd: shutil's, of folders
            for path in map(os.path.realpath, map(os.fspath, paths)):
                if os.path.isfile(path) and is_held(os.fsdecode(path)):
                    raise PermissionError(errno.EACCES, "The process cannot access the file", os.fsdecode(path))
        return call(*paths, **options)

    return refuse


def open_no_folder(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    if os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
    return system_open(path, flags, mode, dir_fd=dir_fd)


system_open = os.open
sys.modules["nvidia"] = None  # type: ignore[assignment]
take_away(os, LINUX_ONLY)
multiprocessing.set_start_method("spawn")
warnings.filterwarnings("ignore", category=EncodingWarning)
warnings.filterwarnings("error", category=EncodingWarning, module=r"(pipeline|tools|trainer)\b")
if SYSTEM != "macos":
    for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"):
        sys.modules[name] = None  # type: ignore[assignment]
    take_away(os, POSIX_ONLY)
    take_away(signal, POSIX_SIGNALS)
if SYSTEM == "windows":
    msvcrt: Any = types.ModuleType("msvcrt")
    msvcrt.LK_NBLCK, msvcrt.locking = 2, locking
    sys.modules["msvcrt"] = msvcrt
    os.open = open_no_folder
    for name in ("replace", "rename", "remove", "unlink"):
        setattr(os, name, refusing(getattr(os, name)))
