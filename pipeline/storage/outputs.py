"""Where commands may write. It is decided here, for every command, before anything is read or computed.

* What a command reads is never written: no output is an input, and no output folder contains one.
* A file that exists is replaced only by a newer one of its kind: predictions by predictions. So are, in a folder, the
  files that the folder's own record lists. Whatever else lies there stays, and the command stops.
* The files of a run or cache are written by the commands that make it, and by no other.
* A link is followed: the rules hold for what it points to, that is written, and the link stays.
* FIFOs and devices, /dev/stdout among them, are written to and never replaced.
* While a command works, its outputs are its own: a second command with the same output is told so.

An option that names an output has one of the types below; `Guarded`, the class of all commands, does the rest.
"""

import csv
import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from pipeline.errors import OutputError
from pipeline.machine import check_file_name_encoding
from pipeline.options import write_options
from pipeline.storage.artifacts import Kind, belongs_to_run, cache_around, is_report_of_run
from pipeline.storage.atomic import LOCK, Busy, claimed, is_stream, is_unfinished
from pipeline.storage.url import Folder, Url, place

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


class OutputFile(Folder):
    """A file, with what is written beside it. Without a kind the path is no file itself but begins others' names."""

    def __init__(self, kind: Kind | None, beside: Callable[[Path], list[Part]] = lambda path: []) -> None:
        super().__init__(path_type=Path)
        self._kind, self._beside = kind, beside

    def parts(self, path: Path) -> list[Part]:
        """All files that are written where the command is told `path`."""
        _check_name(path)
        if self._kind is None and is_stream(path):
            raise OutputError(f"{path}: a device; several files are written, so name the beginning of their names")
        if self._kind is None:
            return self._beside(path)
        return [Part(path, self._kind), *([] if is_stream(path) else self._beside(path))]

    def check(self, path: Path, inputs: Sequence[Path]) -> list[Path]:
        """The files to claim. Raises OutputError where one of them may not be written."""
        return [_check_file(*part, inputs) for part in self.parts(path)]


class OutputFolder(Folder):
    """A folder. In one that exists, `record` lists what may be replaced, as long as it is what the command made, which
    `made` tells of a file; without a record the folder must be empty."""

    def __init__(self, record: str | None = None, made: Callable[[Path], bool] = lambda path: False) -> None:
        super().__init__(path_type=Path)
        self._record, self._made = record, made

    def check(self, path: Path, inputs: Sequence[Path]) -> list[Path]:
        """As OutputFile's."""
        real = _check_folder(path, inputs)
        if os.path.isdir(real):
            listed = recorded(real / self._record) if self._record and self._made(real / self._record) else []
            allowed = {name for name in listed if not os.path.islink(real / name) and self._made(real / name)}
            if strangers := sorted(
                name for name in os.listdir(real) if name not in allowed and not is_unfinished(name)
            ):
                why = f"holds {strangers[0]!r}, which this command did not make; name a new folder"
                raise OutputError(f"{path}: {why if self._record else 'the folder is not empty; name a new one'}")
        return [real / (self._record or LOCK)]


class OutputPlace(Folder):
    """A cache or a run to make or to go on with, on this machine or, where `urls`, behind a URL too. What may lie in it
    already is for its command to say, which also keeps others out of it."""

    def __init__(self, *, urls: bool = False) -> None:
        super().__init__(path_type=Path)
        self._urls = urls

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self._urls and isinstance(url := place(value), Url):
            return url
        return super().convert(value, param, ctx)

    def check(self, path: Path, inputs: Sequence[Path]) -> list[Path]:
        """As OutputFile's; there is nothing to claim."""
        _check_folder(path, inputs)
        return []


Output = OutputFile | OutputFolder | OutputPlace


class Guarded(click.Command):
    """A command whose outputs are checked against all paths that it was given, and then are its own until it ends. Its
    help has sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_options(self, ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        check_file_name_encoding()
        paths = [(param.type, path) for param in self.params for path in _paths(ctx.params.get(param.name or ""))]
        inputs = [path for kind, path in paths if not isinstance(kind, Output)]
        outputs = [(kind, path) for kind, path in paths if isinstance(kind, Output)]
        files = [file for kind, path in outputs for file in kind.check(path, inputs)]
        aside = any(is_stream(file) for file in files)  # a command's own words must not stand among its rows
        if twice := [file for file in files if files.count(file) > 1 and not is_stream(file)]:
            raise OutputError(f"{twice[0]}: two outputs of one name; give each its own")
        with kept(files), redirect_stdout(sys.stderr) if aside else nullcontext():
            try:
                return super().invoke(ctx)
            except OSError as error:
                if error.errno == errno.EPIPE:  # click ends quietly where nobody reads on
                    raise
                # Of two names the second is the one that the user knows: the first is of a temporary file.
                name = error.filename2 or error.filename
                where = f"{name}: " if name else ""
                raise OutputError(f"{where}cannot be read or written ({_why(error)})") from error


class GuardedGroup(click.Group):
    """A program: all its commands are guarded."""

    command_class = Guarded


@contextmanager
def kept(files: Sequence[Path]) -> Iterator[None]:
    """Keeps files for this command. Raises OutputError where another has them or they cannot be made."""
    with ExitStack() as stack:
        try:
            stack.enter_context(claimed(files))
        except Busy as error:
            where = Path(error.filename)
            raise OutputError(f"{where.parent if where.name == LOCK else where}: {error.strerror}") from error
        except OSError as error:
            raise OutputError(f"{error.filename}: cannot be written ({_why(error)})") from error
        yield


def recorded(record: Path) -> list[str]:
    """The names in a record's first column; none where it is missing or no table of ours. A name is never a path."""
    try:
        with open(record, encoding="utf-8", errors="surrogateescape", newline="") as file:
            names = [row[0] for row in csv.reader(file) if row][1:]
    except (OSError, csv.Error):
        return []
    return [name for name in names if name == os.path.basename(name) and name not in ("", ".", "..")]


def _paths(value: Any) -> list[Path]:
    values = value if isinstance(value, tuple) else (value,)
    return [each for each in values if isinstance(each, Path)]


def _check_file(path: Path, kind: Kind, inputs: Sequence[Path]) -> Path:
    """The file that will be written. Raises OutputError where it may not be."""
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
            raise OutputError(f"{path}: what the command reads; name another file to write")
        try:
            made = kind.made(real)
        except OSError as error:
            raise OutputError(f"{path}: cannot be read, so it is left as it is ({error.strerror})") from error
        if not made:
            raise OutputError(f"{path}: exists and is not {kind.what}, so it is left as it is; name another file")
    return real


def _check_folder(path: Path, inputs: Sequence[Path]) -> Path:
    real = _real(path)
    if os.path.lexists(real) and not os.path.isdir(real):
        raise OutputError(f"{path}: is no folder; name another")
    for source in inputs:
        where = Path(os.path.realpath(source))
        if where == real or _same(where, real):
            raise OutputError(f"{path}: what the command reads; name another folder")
        if any(folder == real or _same(folder, real) for folder in where.parents):  # by another case of letters too
            raise OutputError(f"{path}: contains {source}, which the command reads; name another folder")
    _check_around(path, real)
    return real


def _check_around(path: Path, real: Path) -> None:
    if cache := cache_around(real):
        raise OutputError(
            f"{path}: lies in the cache {cache}, which holds nothing but its own files; name another place"
        )
    above = next(folder for folder in real.parents if os.path.lexists(folder))
    if not os.path.isdir(above):
        raise OutputError(f"{path}: {above} is a file and no folder")
    if not os.access(above, os.W_OK | os.X_OK):
        shut = hasattr(os, "statvfs") and os.statvfs(above).f_flag & os.ST_RDONLY  # not on Windows
        raise OutputError(f"{path}: cannot be written ({_REASONS[errno.EROFS if shut else errno.EACCES]})")


def _check_name(path: Path) -> None:
    if path.name in ("", ".."):
        raise OutputError(f"{path}: a folder; name a file in it")


def _real(path: Path) -> Path:
    """Without links. Raises OutputError for a path that cannot be."""
    try:
        real = Path(os.path.realpath(path))
        with suppress(FileNotFoundError):
            os.lstat(real)
    except FileNotFoundError as error:
        raise OutputError(f"{path}: the current folder is gone; change to another") from error
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be written ({_why(error)})") from error
    return real


def _why(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return str(error)
    return _REASONS.get(error.errno or 0, error.strerror or str(error))


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
