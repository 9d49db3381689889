"""`trainer report`: writes a page about a run for clinicians, and a model card."""

import os
from pathlib import Path

import click

from pipeline.command_line import OutputFile
from pipeline.errors import RunError
from pipeline.storage.atomic import is_stream, write_atomically
from pipeline.storage.outputs import kept
from pipeline.storage.url import Url
from trainer.kinds import PAGE
from trainer.reporting.measured import read_measured
from trainer.reporting.report import DRAWINGS, make_card, make_page
from trainer.run_folder import RunFolder


def report(path: Path, split: str, cache_path: Path | Url | None, out: Path | None, card: Path | None) -> None:
    """Writes the page, its drawings (into the run folder, as PNG and SVG) and, if `card` is given, the model card.

    cache_path: where the cache is now; None: where it was during training. out: the page; None: in the run folder.
    Raises RunError if the split has not been measured, a file of the run is missing or damaged, or a file cannot be
    written; CacheError if `cache_path` is given and is not the cache that was measured.
    """
    measured = read_measured(RunFolder(path), split, cache_path)
    run = measured.run
    page = out or run.report(split)
    drawings = [run.accuracy_drawing, *(run.report_drawing(name, split) for name in DRAWINGS)]
    run.check_plain_files(*drawings, *[run.forest_drawing] * bool(measured.sites))
    if card and os.path.realpath(card) == os.path.realpath(page):
        raise RunError(f"{card}: the page and the model card need a file each")
    try:
        with kept([] if out else OutputFile(PAGE).check(page, [path])):  # the command line already keeps --out
            data = make_page(measured)
            write(page, data)
        click.echo(f"written: {page} ({len(data) / 1e6:.1f} MB)")
        if card:
            write(card, make_card(measured))
            click.echo(f"written: {card}")
    except OSError as error:
        where = error.filename or "the report"
        raise RunError(
            f"{where}: cannot be written ({error.strerror}); the drawings go into the run folder, the page to --out"
        ) from error


def write(path: Path, data: bytes) -> None:
    if not is_stream(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        file.write(data)
