"""Output of the commands of `trainer` on the terminal: warnings and tables. Only commands import it."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console
from rich.table import Table

from pipeline.grades import GRADES
from trainer.run_folder import EpochRow


def warn(line: str) -> None:
    """Prints one warning on stderr, in bold yellow on a terminal."""
    click.secho(f"WARNING: {line}", fg="yellow", bold=True, err=True)


class LogOnTerminal(logging.Handler):
    """Prints a warning of the library as `warn` does, and an error as click does."""

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if record.levelno >= logging.ERROR:
            click.echo(f"Error: {line}", err=True)
        else:
            warn(line)


@contextmanager
def log_on_terminal() -> Iterator[None]:
    """Prints what the modules of `trainer` log during the block. They print nothing themselves: another program that
    calls them has handlers of its own."""
    logger, handler = logging.getLogger("trainer"), LogOnTerminal(logging.WARNING)
    logger.addHandler(handler)
    logger.propagate = False  # a handler of another library must not print it a second time
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table: the first column to the left, all others to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 1000  # no wrapping for a program that reads a pipe; lines end after their last column anyway
    console.print(table)


def print_class_weights(photographs: Sequence[int], weights: Sequence[float]) -> None:
    rows = zip(GRADES, photographs, weights, strict=True)
    print_table(
        ["grade", "training photographs", "weight"], [(name, str(n), f"{weight:.3f}") for name, n, weight in rows]
    )


def epoch_line(row: EpochRow, epochs: int) -> str:
    """A row of accuracy.csv as a line for the terminal."""
    test = "" if row.acc_test is None else f" test {row.acc_test:.1f}"
    return (
        f"epoch {row.epoch}/{epochs} {row.phase}: lr {row.lr:.2e}, "
        f"loss {row.loss_train:.4f} val {row.loss_val:.4f}, "
        f"accuracy {row.acc_train:.1f} val {row.acc_val:.1f}{test} %, kappa val {row.kappa_val:.3f}, "
        f"{row.seconds:.1f} s, {row.images_per_second:.0f} images/s"
    )
