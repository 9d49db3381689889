"""The progress of long work, on stderr: a bar on a terminal; elsewhere, as in the log of a job, a line every 30 s."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table

Item = TypeVar("Item")

EVERY: Final = 30.0
"""Seconds between two lines without a terminal: 120 lines an hour."""


class Update(Protocol):
    def __call__(self, done: int, total: int, more: Callable[[], str] | None = None, /) -> None:
        """Shows that `done` of `total` are done. more: gives further text; it is called only if the text is shown."""


class Pace:
    """The mean rate since the first call. What an earlier command has done does not count."""

    def __init__(self, unit: str, each: float, clock: Callable[[], float] = time.monotonic) -> None:
        """unit: of the rate, such as "images". each: their number in each item that is counted, such as a batch. clock:
        gives seconds."""
        self.clock, self._unit, self._each = clock, unit, each
        self._start: tuple[int, float] | None = None

    def say(self, done: int, total: int) -> tuple[str, str]:
        """The rate and the time left, such as "24.3 images/s" and "1:02 left"; "" as long as they are unknown."""
        now = self.clock()
        before, began = self._start = self._start or (done, now)
        if done <= before or now <= began:
            return "", ""
        rate = (done - before) / (now - began)
        return f"{self._each * rate:.1f} {self._unit}/s", f"{as_clock((total - done) / rate)} left"


class Heartbeat:
    """A line on stderr every 30 s, for output that goes to a file. Shorter work prints nothing."""

    def __init__(self, what: str, pace: Pace) -> None:
        self._what, self._pace = what, pace
        self._said = pace.clock()

    def update(self, done: int, total: int, more: Callable[[], str] | None = None, /) -> None:
        pace = self._pace.say(done, total)
        if self._pace.clock() - self._said < EVERY:
            return
        self._said = self._pace.clock()
        parts = (f"{self._what}: {done:,} of {total:,}", *pace, more() if more else "")
        print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)


class FittingProgress(Progress):
    """A bar that fits the width of the terminal. Columns in `optional` are left out if needed, the first one first."""

    def __init__(
        self, columns: Sequence[ProgressColumn], optional: Sequence[ProgressColumn], console: Console, transient: bool
    ) -> None:
        self._all, self._optional, self._to = columns, optional, console
        super().__init__(*columns, console=console, transient=transient)

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        shown = list(tasks)

        def width(column: ProgressColumn) -> int:
            measure = (Measurement.get(self._to, self._to.options, column(task)).maximum for task in shown)
            return max(measure, default=0)

        widths = {column: width(column) for column in self._all}
        kept = [column for column in self._all if widths[column]]
        for column in self._optional:
            if sum(widths[each] + 1 for each in kept) <= self._to.width:  # a blank after each
                break
            kept = [each for each in kept if each is not column]
        self.columns = tuple(kept)
        return super().make_tasks_table(shown)


@contextmanager
def progress_of(what: str, unit: str, *, each: float = 1, stays: bool = False) -> Iterator[Update]:
    """Yields a function to call whenever part of the work is done. unit, each: see `Pace`.

    stays: whether the bar stays on the terminal at the end.
    """
    console, pace = Console(stderr=True), Pace(unit, each)
    if not console.is_terminal:
        yield Heartbeat(what, pace).update
        return
    name, count = TextColumn("{task.description}"), MofNCompleteColumn()
    left, rate, rest = (TextColumn(f"{{task.fields[{field}]}}") for field in ("left", "rate", "more"))
    columns = (name, BarColumn(20), count, left, rate, rest)
    with FittingProgress(columns, (rest, rate, name, count), console, transient=not stays) as bar:
        task = bar.add_task(what, total=None, left="", rate="", more="")

        def update(done: int, total: int, more: Callable[[], str] | None = None, /) -> None:
            rate, left = pace.say(done, total)
            bar.update(task, completed=done, total=total, rate=rate, left=left, more=more() if more else "")

        yield update


def track(batches: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """The batches, with their progress."""
    with progress_of(what, "batches") as update:
        update(0, total)
        for done, batch in enumerate(batches, 1):
            yield batch
            update(done, total)


def as_clock(seconds: float) -> str:
    """
    >>> as_clock(3725), as_clock(59.6)
    ('1:02:05', '1:00')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
