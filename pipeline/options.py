"""Kinds of options that both commands have: numbers and words that are checked, and sections of a long --help."""

from collections.abc import Callable
from functools import partial
from math import isfinite
from typing import Any, Final, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
SMALLEST: Final = 32
"""Pixels, the least side of a square photograph. The last map of a ResNet, a 32nd of the side, has one place of it."""
LARGEST: Final = 4096
MOST_THREADS: Final = 1024
MOST_EPOCHS: Final = 100_000
MOST_A_BATCH: Final = 1 << 20


class Finite(click.FloatRange):
    """Refuses "inf", and "nan" too, which lies outside no range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value} is not a number to count with.", param, ctx)
        return number


class Text(click.types.StringParamType):
    """Refuses an empty word, which would pass for none at all."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("an empty word", param, ctx)
        return super().convert(value, param, ctx)


WORKERS: Final = click.IntRange(1, MOST_THREADS)


class SectionOption(click.Option):
    """An option that `--help` lists below the title of its section."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


def section(title: str) -> Callable[..., Callable[[Command], Command]]:
    """`click.option` for the options of one section."""
    return partial(click.option, cls=SectionOption, section=title)


def write_options(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    """Writes a command's options, section by section; those of no section come last, below "Options"."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        if record := parameter.get_help_record(context):
            sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
    for title, records in sorted(sections.items(), key=lambda item: item[0] == "Options"):
        with formatter.section(title):
            formatter.write_dl(records)
