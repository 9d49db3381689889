"""Kinds of numbers and words that both commands are given: they keep a slip of the finger from becoming a crash."""

from math import isfinite
from typing import Any, Final

import click

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
