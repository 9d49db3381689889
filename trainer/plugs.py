"""Plugs: functions of the user's own for the network, the loss or the augmentation, as `package.module:function`.

Python finds their modules as it finds any: in installed packages and in the folders of PYTHONPATH. The folder of a file
that names one does not count, and neither does the current folder. So weights from a stranger cannot bring code along.
Each import is announced, and no function of Python's own library is taken.
"""

import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, entry_points, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from sysconfig import get_path
from typing import Any, Final

from pipeline.errors import RunError

logger = logging.getLogger(__name__)

_NAME: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_PACKAGE: Final = re.compile(r"[\w.-]+==[\w.+!-]+", re.ASCII)
FORM: Final = "package.module:function"
OPTIONS: Final = ("model", "loss", "augment")
"""Of `trainer fit`, that take a function."""


def is_plug(name: str) -> bool:
    """Whether a name has the form `package.module:function`.

    >>> is_plug("nets.small:backbone"), is_plug("resnet18"), is_plug("C:/weights")
    (True, False, False)
    """
    return bool(_NAME.fullmatch(name))


@dataclass(frozen=True)
class Plug:
    """What config.json and the metadata of weights record of a function."""

    option: str
    """Of `trainer fit`: "model", "loss" or "augment"."""
    function: str
    """`package.module:function`."""
    needs: dict[str, str] = field(default_factory=dict)
    """Module -> its package with the version that the training had, such as "timm==1.0.31"; "" for a file that no
    package brought. The modules are those of the function and of the layers that it gave."""

    def __post_init__(self) -> None:
        """Raises ValueError for what no training records. Commands print these words, and advise to install by them."""
        packages = [package for package in self.needs.values() if package]
        if self.option not in OPTIONS or not is_plug(self.function):
            raise ValueError(f"{self.function!r} is no function for {self.option!r}")
        if not all(map(str.isidentifier, self.needs)) or not all(map(_PACKAGE.fullmatch, packages)):
            raise ValueError(f"{self.function} needs what are no packages")

    @property
    def words(self) -> str:
        """The function and what it needs."""
        return f"{self.function}, needs {', '.join(package or module for module, package in self.needs.items())}"


def describe_plug(option: str, function: str, modules: Sequence[str] = ()) -> Plug:
    """The record of a function that was imported. modules: in which further parts of it are defined."""
    tops = {_top(each) for each in (function, *modules)} - {"torch", "torchvision", "trainer"}
    return Plug(option, function, {top: _package(top) for top in sorted(tops)})


def _top(name: str) -> str:
    """The first part of a module's or a function's name."""
    return re.split("[.:]", name)[0]


def _package(module: str) -> str:
    """The package that brought a module, with its version; "" if none did."""
    installed = getattr(sys.modules.get(module), "__file__", None) or ""
    names = [module, *(packages_distributions().get(module, []) if "site-packages" in installed else [])]
    for name in names:
        try:
            return f"{name}=={version(name)}"
        except PackageNotFoundError:
            continue
    return ""


@cache
def program_starts() -> frozenset[str]:
    """The names of the functions that start installed programs, such as `main`."""
    return frozenset(each.attr for each in entry_points(group="console_scripts"))


@cache
def load_function(name: str) -> Callable[..., Any]:
    """Imports a function, `package.module:function`, and says so in a line.

    Raises RunError if Python does not find it, and if its module fails. Weights from a stranger may name any function
    that is installed. Refused are those that do harm without an argument: Python's own, such as `os:abort`, and those
    that start a program, such as `pytest:main`, which runs the files of the current folder.
    """
    module, _, function = name.partition(":")
    if _top(name) in {*sys.stdlib_module_names, "__main__"}:
        raise RunError(f"{name} belongs to Python itself, and is never called for a file or an option")
    if function in program_starts() or "main" in function.split("_"):
        raise RunError(f"{name} has the name by which installed programs are started, and is never called; rename it")
    logger.warning(f"importing code from outside: {name}")
    with failing(name):
        try:
            found = getattr(import_module(module), function, None)
        except ModuleNotFoundError as error:
            raise RunError(f"{name}: {_missing(error.name or module, name)}") from error
    if not callable(found):
        raise RunError(f"{name}: the module {module} has no function {function}")
    return found  # type: ignore[no-any-return]


def _missing(module: str, name: str) -> str:
    """What to do about a module that Python does not find."""
    if _top(module) != _top(name):
        return f"it needs the module {module}, which is not installed: pip install {_top(module)}"
    return (
        f"Python finds no module {module}: install its package, or put its folder on PYTHONPATH (PYTHONPATH=. for the "
        "current one)"
    )


def check_installed(plugs: Sequence[Plug], function: str, source: str) -> None:
    """Raises RunError, with the line that installs it, if a package that a function needs is missing.

    plugs: as recorded in `source`, which the message names.
    """
    for plug in plugs:
        if plug.function != function:
            continue
        for module, package in plug.needs.items():
            if package and not _is_there(module):
                raise RunError(f"{source} needs {function}, and {module} is not installed: pip install '{package}'")
            if not _is_there(module):
                raise RunError(f"{source} needs {function}: {_missing(module, function)}")


def _is_there(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


@contextmanager
def failing(name: str) -> Iterator[None]:
    """Raises what a function of the user's raises as RunError, with the line of its file."""
    try:
        yield
    except RunError:
        raise
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise RunError(f"{name} fails{_where(error)}: {type(error).__name__}: {reason[:300]}") from error


def _where(error: BaseException) -> str:
    """The last line of a file of the user's that an error came through: neither torch's nor ours."""
    house = Path(__file__).resolve().parents[1]
    others = (str(house / "trainer"), str(house / "pipeline"), get_path("stdlib"), get_path("purelib"), "<")
    theirs = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith(others)]
    return f" ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else ""
