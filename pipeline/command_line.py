"""What the command lines of `tools` and `trainer` share: types of options, and the class of all commands.

No other module of `pipeline` imports click, and none imports this one, so library users need neither.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from pipeline.errors import FundusError, OutputError, UsageError
from pipeline.limits import MOST_THREADS
from pipeline.machine import check_file_name_encoding
from pipeline.storage.artifacts import Kind
from pipeline.storage.atomic import LOCK, is_stream
from pipeline.storage.local_cache import DEFAULT_GB, LOCAL_CACHE, LOCAL_CACHE_GB
from pipeline.storage.outputs import Part, check_contents, check_file, check_folder, check_name, kept, reason_of
from pipeline.storage.url import Url, path_or_url, scrubbed

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

# --- numbers, words and folders


class Finite(click.FloatRange):
    """A number in a range. Refuses "inf", and "nan", which no range excludes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Text(click.types.StringParamType):
    """A text. Refuses an empty one, which would look as if none was given."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("an empty word", param, ctx)
        return super().convert(value, param, ctx)


class Folder(click.Path):
    """A path on this machine, no URL."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(path_or_url(value), Url):
            self.fail(f"{scrubbed(value)} is a URL; this must be a path", param, ctx)
        if value == "":
            self.fail("an empty name", param, ctx)
        return super().convert(value, param, ctx)


WORKERS: Final = click.IntRange(1, MOST_THREADS)

# --- outputs: pipeline.storage.outputs has the rules


class OutputFile(Folder):
    """A file, and the files beside it. Without a kind, the path is only the beginning of the names of other files."""

    def __init__(self, kind: Kind | None, beside: Callable[[Path], list[Part]] = lambda path: []) -> None:
        super().__init__(path_type=Path)
        self._kind, self._beside = kind, beside

    def parts(self, path: Path) -> list[Part]:
        """All files that are written for this value of the option."""
        check_name(path)
        if self._kind is None and is_stream(path):
            raise OutputError(f"{path}: a device; several files are written, so name the beginning of their names")
        if self._kind is None:
            return self._beside(path)
        return [Part(path, self._kind), *([] if is_stream(path) else self._beside(path))]

    def check(self, path: Path, inputs: Sequence[Path]) -> list[Path]:
        """The files to claim. Raises OutputError if one of them must not be written."""
        return [check_file(*part, inputs) for part in self.parts(path)]


class OutputFolder(Folder):
    """A folder. If it exists, the files that its file `record` lists may be replaced if `made` says that the command
    wrote them. Without a record the folder must be empty."""

    def __init__(self, record: str | None = None, made: Callable[[Path], bool] = lambda path: False) -> None:
        super().__init__(path_type=Path)
        self._record, self._made = record, made

    def check(self, path: Path, inputs: Sequence[Path]) -> list[Path]:
        """See OutputFile."""
        real = check_folder(path, inputs)
        check_contents(path, real, self._record, self._made)
        return [real / (self._record or LOCK)]


class ResumableOutput(Folder):
    """A cache or a run, which a command makes or continues. With `urls` it may be behind a URL too. The command itself
    checks what is there already, and keeps other commands out."""

    def __init__(self, *, urls: bool = False) -> None:
        super().__init__(path_type=Path)
        self._urls = urls

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self._urls and isinstance(url := path_or_url(value), Url):
            return url
        return super().convert(value, param, ctx)

    def check(self, path: Path, inputs: Sequence[Path]) -> list[Path]:
        """See OutputFile; there is nothing to claim."""
        check_folder(path, inputs)
        return []


Output = OutputFile | OutputFolder | ResumableOutput

# --- the machine's folder for caches at URLs


def _into_environment(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Sets the option's environment variable while the command runs, for this process and those that it starts."""
    name = str(parameter.envvar)
    if value is not None:
        before = os.environ.get(name)
        os.environ[name] = str(value)
        context.call_on_close(lambda: os.environ.pop(name) if before is None else os.environ.update({name: before}))


local_cache_option = click.option(
    "--local-cache",
    type=Folder(path_type=Path),
    envvar=LOCAL_CACHE,
    expose_value=False,
    callback=_into_environment,
    help="Where files of caches at URLs are kept.  [default: ~/.cache/fundus-grading]",
)
local_cache_gb_option = click.option(
    "--local-cache-gb",
    type=Finite(0, min_open=True),
    envvar=LOCAL_CACHE_GB,
    expose_value=False,
    callback=_into_environment,
    help=f"Gigabytes to keep there at most. Files not used for longest are deleted.  [default: {DEFAULT_GB:g}]",
)

# --- sections of a long --help


class SectionOption(click.Option):
    """An option that `--help` lists below the title of its section."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


def section(title: str) -> Callable[..., Callable[[Decorated], Decorated]]:
    """`click.option` for the options of one section."""
    return partial(click.option, cls=SectionOption, section=title)


# --- commands


class Failure(click.ClickException):
    """A FundusError as an error of click: one line on stderr, no traceback."""

    def __init__(self, error: FundusError) -> None:
        super().__init__(error.message)
        self.exit_code = error.exit_code  # type: ignore[misc]  # click declares it for the class, but reads the instance's


@contextmanager
def _errors_as_clicks(context: click.Context | None) -> Iterator[None]:
    """Raises a FundusError as an error of click, which ends the command with one line and its exit code."""
    try:
        yield
    except UsageError as error:
        raise click.UsageError(error.message, context) from error
    except FundusError as error:
        raise Failure(error) from error


class Guarded(click.Command):
    """A command whose outputs are checked against all paths that it was given, and claimed until it ends.

    Its help has sections. If it raises a FundusError, it ends with one line and the error's exit code.
    """

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the options by section. Those without a section are last, below "Options"."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for title, records in sorted(sections.items(), key=lambda item: item[0] == "Options"):
            with formatter.section(title):
                formatter.write_dl(records)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _errors_as_clicks(None):  # an invalid URL is a StoreError
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _errors_as_clicks(ctx):
            check_file_name_encoding()
            paths = [(param.type, path) for param in self.params for path in _paths(ctx.params.get(param.name or ""))]
            inputs = [path for kind, path in paths if not isinstance(kind, Output)]
            outputs = [(kind, path) for kind, path in paths if isinstance(kind, Output)]
            files = [file for kind, path in outputs for file in kind.check(path, inputs)]
            aside = any(is_stream(file) for file in files)  # messages must not be among the rows
            if twice := [file for file in files if files.count(file) > 1 and not is_stream(file)]:
                raise OutputError(f"{twice[0]}: two outputs of one name; give each its own")
            with kept(files), redirect_stdout(sys.stderr) if aside else nullcontext():
                try:
                    return super().invoke(ctx)
                except OSError as error:
                    if error.errno == errno.EPIPE:  # click ends without a message if the reader has ended
                        raise
                    # Of two names the second is the user's: the first is that of a temporary file.
                    name = error.filename2 or error.filename
                    where = f"{name}: " if name else ""
                    raise OutputError(f"{where}cannot be read or written ({reason_of(error)})") from error


class GuardedGroup(click.Group):
    """A program: all its commands are guarded. Ctrl-C ends each with one line and the exit code that shells give it."""

    command_class = Guarded

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # click itself would print "Aborted!" and exit with 1
            click.echo("stopped by SIGINT", err=True)
            raise SystemExit(128 + signal.SIGINT) from None


def _paths(value: Any) -> list[Path]:
    values = value if isinstance(value, tuple) else (value,)
    return [each for each in values if isinstance(each, Path)]
