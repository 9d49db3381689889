"""`trainer recipes`: prints what each preset of `trainer fit --recipe` sets, and what it is for."""

from dataclasses import asdict

import click

from trainer.config import FitConfig
from trainer.console import print_table
from trainer.presets import PRESETS, PURPOSES


def recipes() -> None:
    """Prints a row for each option that a preset sets, and a line for each preset."""
    defaults = asdict(FitConfig())
    options = [name for name in defaults if any(name in settings for settings in PRESETS.values())]

    columns = [defaults, *PRESETS.values()]
    rows = [
        (f"--{name.replace('_', '-')}", *(in_cell(column[name]) if name in column else "" for column in columns))
        for name in options
    ]
    print_table(["option", "default", *PRESETS], rows)
    click.echo("\nAn empty cell: the default; -: not set. Any other option of fit overrides its --recipe.\n")
    for name, purpose in PURPOSES.items():
        click.echo(f"{name}: {purpose}")


def in_cell(value: object) -> str:
    """
    >>> in_cell(True), in_cell(None), in_cell(0.005)
    ('yes', '-', '0.005')
    """
    return {True: "yes", False: "no", None: "-"}[value] if value is None or isinstance(value, bool) else str(value)
