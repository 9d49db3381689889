"""The rules by which commands may write files. They are checked before a command reads or computes anything.

* A command never writes its inputs: no output is an input, and no output folder contains one.
* An existing file is replaced only by a file of the same kind: predictions by predictions. In a folder, the files that
  its own record lists are replaced too. If anything else is there, it stays, and the command stops.
* The files of a run or a cache are written only by the commands that make runs and caches.
* A link is followed: the rules hold for its target, which is written, and the link stays.
* FIFOs and devices, such as /dev/stdout, are written to and never replaced.
* While a command runs, a second command with the same output stops with an error.

The types of pipeline.command_line for options that name outputs call this module.
"""

import csv
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.errors import OutputError
from pipeline.storage.artifacts import Kind, belongs_to_run, cache_around, is_report_of_run
from pipeline.storage.atomic import LOCK, Busy, claimed, is_stream, is_unfinished

_REASONS: Final = {
    errno.ENAMETOOLONG: "its name is too long",
    errno.ENOTDIR: "a part of its path is a file and no folder",
    errno.ELOOP: "a link that leads back to itself",
    errno.EACCES: "its folder may not be written to",
    errno.EROFS: "its file system may only be read",
}


class Part(NamedTuple):
    """A file that an output consists of."""

    path: Path
    kind: Kind


@contextmanager
def kept(files: Sequence[Path]) -> Iterator[None]:
    """Claims files for this command. Raises OutputError if another command has them, or if they cannot be made."""
    with ExitStack() as stack:
        try:
            stack.enter_context(claimed(files))
        except Busy as error:
            where = Path(error.filename)
            raise OutputError(f"{where.parent if where.name == LOCK else where}: {error.strerror}") from error
        except OSError as error:
            raise OutputError(f"{error.filename}: cannot be written ({reason_of(error)})") from error
        yield


def recorded(record: Path) -> list[str]:
    """The names in the first column of a record; none if it is missing or no such table. Paths are left out."""
    try:
        with open(record, encoding="utf-8", errors="surrogateescape", newline="") as file:
            names = [row[0] for row in csv.reader(file) if row][1:]
    except (OSError, csv.Error):
        return []
    return [name for name in names if name == os.path.basename(name) and name not in ("", ".", "..")]


def check_file(path: Path, kind: Kind, inputs: Sequence[Path]) -> Path:
    """The file that will be written, with links resolved. inputs: the paths that the command reads.

    Raises OutputError if the file must not be written.
    """
    if is_stream(path):
        return path
    real = _real(path)
    if kind.suffix and real.suffix.lower() != kind.suffix:
        raise OutputError(f"{path}: {kind.what} has a name that ends in {kind.suffix}")
    if os.path.isdir(real):
        raise OutputError(f"{path}: a folder; name a file in it")
    _check_around(path, real)
    if is_report_of_run(real) and not any(_same(real.parent, source) for source in inputs):
        raise OutputError(f"{path}: the report of another run; name another file")
    if belongs_to_run(real):
        raise OutputError(f"{path}: a file of the run {real.parent}; name another file")
    if os.path.lexists(real):
        if any(_same(real, source) for source in inputs):
            raise OutputError(f"{path}: the command reads it; name another file to write")
        try:
            made = kind.made(real)
        except OSError as error:
            raise OutputError(f"{path}: cannot be read, so it is left as it is ({error.strerror})") from error
        if not made:
            raise OutputError(f"{path}: exists and is not {kind.what}, so it is left as it is; name another file")
    return real


def check_folder(path: Path, inputs: Sequence[Path]) -> Path:
    """The folder that will be written into, with links resolved; see `check_contents` for its files. inputs: the paths
    that the command reads.

    Raises OutputError if the folder must not be written into.
    """
    real = _real(path)
    if os.path.lexists(real) and not os.path.isdir(real):
        raise OutputError(f"{path}: is no folder; name another")
    for source in inputs:
        where = Path(os.path.realpath(source))
        if where == real or _same(where, real):
            raise OutputError(f"{path}: the command reads it; name another folder")
        if any(folder == real or _same(folder, real) for folder in where.parents):  # also in other upper and lower case
            raise OutputError(f"{path}: contains {source}, which the command reads; name another folder")
    _check_around(path, real)
    return real


def check_contents(path: Path, real: Path, record: str | None, made: Callable[[Path], bool]) -> None:
    """Raises OutputError if a folder has files that must not be replaced.

    Only those may be replaced that the file `record` lists and that the command wrote, as `made` says. Without a record
    the folder must be empty. path: the folder as the user named it. real: with links resolved.
    """
    if not os.path.isdir(real):
        return
    listed = recorded(real / record) if record and made(real / record) else []
    allowed = {name for name in listed if not os.path.islink(real / name) and made(real / name)}
    if strangers := sorted(name for name in os.listdir(real) if name not in allowed and not is_unfinished(name)):
        why = f"holds {strangers[0]!r}, which this command did not make; name a new folder"
        raise OutputError(f"{path}: {why if record else 'the folder is not empty; name a new one'}")


def _check_around(path: Path, real: Path) -> None:
    if cache := cache_around(real):
        raise OutputError(
            f"{path}: lies in the cache {cache}, which holds nothing but its own files; name another folder"
        )
    above = next(folder for folder in real.parents if os.path.lexists(folder))
    if not os.path.isdir(above):
        raise OutputError(f"{path}: {above} is a file and no folder")
    if not os.access(above, os.W_OK | os.X_OK):
        shut = hasattr(os, "statvfs") and os.statvfs(above).f_flag & os.ST_RDONLY  # not on Windows
        raise OutputError(f"{path}: cannot be written ({_REASONS[errno.EROFS if shut else errno.EACCES]})")


def check_name(path: Path) -> None:
    """Raises OutputError for a path that names no file."""
    if path.name in ("", ".."):
        raise OutputError(f"{path}: a folder; name a file in it")


def _real(path: Path) -> Path:
    """The path with links resolved. Raises OutputError for an impossible path."""
    try:
        real = Path(os.path.realpath(path))
        with suppress(FileNotFoundError):
            os.lstat(real)
    except FileNotFoundError as error:
        raise OutputError(f"{path}: the current folder is gone; change to another") from error
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be written ({reason_of(error)})") from error
    return real


def reason_of(error: OSError | ValueError) -> str:
    """Why a file cannot be read or written, in a few plain words."""
    if not isinstance(error, OSError):
        return str(error)
    return _REASONS.get(error.errno or 0, error.strerror or str(error))


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
