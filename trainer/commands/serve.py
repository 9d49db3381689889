"""`trainer serve`: a page on this machine that grades photographs."""

import os
import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from pipeline.errors import RunError
from trainer.console import warn
from trainer.inference.predictor import Predictor

LEFT_TO_A_PERSON: Final = 0.1
"""Default of --defer: this fraction of the validation photographs is less certain."""


def serve(run: Path, *, host: str | None, port: int | None, defer: float | None, device_name: str) -> NoReturn:
    """Serves the page until Ctrl-C, then ends the process.

    defer: fraction of the validation photographs that would be left to a human, 0 to 1; None: LEFT_TO_A_PERSON, or none
    if the weights carry no confidence. Raises RunError if the weights cannot be used or a package is missing,
    OutputError if the address cannot be used.
    """
    try:
        from trainer.serving import server
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("starlette", "uvicorn", "h11"):
            raise
        raise RunError(f"trainer serve needs {package}: pip install 'fundus-grading[serve]'") from error
    predictor = Predictor(run, device_name, workers=1)
    share = LEFT_TO_A_PERSON if defer is None else defer
    try:
        predictor.rule.least_confidence(share)
    except ValueError as error:
        if defer is not None:
            raise RunError(f"{run}: {error}") from error
        warn(f"{error}; only blank and unusual photographs are left to a person")

    page = server.Page(predictor, run, share, host=host, port=port)
    if port is None and page.port != server.PORT:
        click.echo(f"port {server.PORT} is taken; this is {page.port}")
    if host is not None:
        warn("the page is open to the network: whoever has the address can use it, and nothing is encrypted")
    click.echo(f"open {page.url}\nCtrl-C ends it")
    page.run()
    # At once: a normal exit waits for the thread that grades a photograph, and torch takes up to 5 s to shut down on a
    # busy machine. Nothing has to be written.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
