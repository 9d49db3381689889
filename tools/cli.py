"""The `tools` command; only this module prints. Commands import what they need when they run, so `--help` is fast."""

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pipeline.command_line import (
    WORKERS,
    Finite,
    Folder,
    GuardedGroup,
    OutputFile,
    OutputFolder,
    Text,
    local_cache_option,
)
from pipeline.errors import FundusError, UsageError
from pipeline.limits import LARGEST, MOST_A_BATCH, SMALLEST
from pipeline.machine import END_SIGNALS, usable_cores
from pipeline.storage.artifacts import Kind, picture_kind
from pipeline.storage.atomic import write_atomically
from pipeline.storage.url import Url, path_or_url
from tools.preprocess_options import PreprocessOptions, given_reading_options, preprocess_options

if TYPE_CHECKING:
    from tools.preprocessing.preprocess import Outcome
    from tools.sheet import Grouping
    from tools.sources.listing import Listing

FOLDER = Folder(path_type=Path)
SHEET = picture_kind("a contact sheet", suffix=".png")
BENCH = Kind("figures of `tools bench`", holds=b'"made_by": "tools bench"')


@click.group(cls=GuardedGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="fundus-grading")
def main() -> None:
    """Prepare, check and look at caches of fundus photographs."""


@contextmanager
def _exit_at_sigterm() -> Iterator[None]:
    """At SIGTERM, which schedulers send to end a job, the `finally` blocks run, so workers end too. The exit code is
    143."""
    before = {each: signal.signal(each, lambda number, _: sys.exit(128 + number)) for each in END_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@main.command()
@click.argument("src", type=path_or_url)
@preprocess_options
@_exit_at_sigterm()
def preprocess(src: Path | Url, **given: Any) -> None:
    """Find, crop, resize and cache photographs.

    SRC is a folder, an archive or a URL. The same command continues an interrupted run, and updates a cache.
    """
    from tools.preprocessing.summary import listing_lines, outcome_lines
    from tools.sources.layouts import list_source
    from tools.sources.pseudonyms import Pseudonyms, key_file, unchanged_id

    options = PreprocessOptions(**given)
    options.check_combinations()
    out = options.out
    pseudonyms = Pseudonyms(key_file(options.id_key, out if isinstance(out, Path) else None))
    listing = list_source(src, options.source_options(unchanged_id if options.keep_ids else pseudonyms))
    listing.options = given_reading_options(click.get_current_context())
    _print(listing_lines(listing))
    if pseudonyms.used:
        click.echo(f"  note: patients by pseudonyms under the key in {pseudonyms.path}, which must stay private")
    outcome = _write_cache(listing, options)
    _print(outcome_lines(listing, outcome, out, options.size))
    for note in outcome.notes:
        click.secho(note, fg="red")


def _write_cache(listing: "Listing", options: PreprocessOptions) -> "Outcome":
    """Makes or updates the cache, in its folder or, for a URL, in a local one that is sent there."""
    from pipeline.progress import progress_of
    from tools.preprocessing.preprocess import preprocess

    out, recipe, settings = options.out, options.recipe(), options.settings()
    if isinstance(out, Path):
        with progress_of("preparing", "photographs", stays=True) as progress:
            return preprocess(listing, out, recipe, settings, progress)
    from tools.preprocessing.upload import upload_to

    with upload_to(out) as upload, progress_of("preparing", "photographs", stays=True) as progress:
        outcome = preprocess(listing, upload.folder, recipe, settings, progress, upload.send_shard)
    click.echo(f"{out}: {upload.sent} files, {upload.nbytes / 1e6:.1f} MB sent from {upload.folder}")
    return outcome


def _print(lines: Iterable[str]) -> None:
    """Prints lines; those that the user must not overlook are red."""
    for line in lines:
        click.secho(line, fg="red" if line.startswith(("WARNING", "LEAK", "COPIES")) else None)


@main.command()
@click.argument("name", type=Text(), required=False)
def datasets(name: str | None) -> None:
    """List the known public data sets.

    With NAME, print all that is known of one: where it comes from, how its files must lie, what is wrong with it.
    """
    from shutil import get_terminal_size

    from tools.datasets import details, overview

    width = min(get_terminal_size((120, 0)).columns, 120)
    click.echo(overview(width) if name is None else details(name, width))


@main.command()
@click.argument("cache", type=path_or_url)
def check(cache: Path | Url) -> None:
    """Verify every byte of CACHE.

    Checks checksums, pictures, sizes and the manifest. If anything is wrong, lists it and ends with exit code 1.
    """
    from tools.check import check_cache

    problems, entries = check_cache(cache)
    for problem in problems:
        click.echo(problem)
    if problems:
        raise FundusError(f"{cache}: {len(problems)} problems; `tools preprocess` repairs them")
    click.echo(f"{cache}: {entries} photographs, all well")


@main.command()
@click.argument("cache", type=path_or_url)
@click.argument("out", type=OutputFile(SHEET))
@click.option(
    "--by", type=click.Choice(["grade", "split", "flag"]), default="grade", help="How to group the photographs."
)
@click.option("--each", type=click.IntRange(1, 200), default=12, help="Photographs in each group.")
@click.option("--augmented", is_flag=True, help="Show training photographs, each as in the first epochs of fit.")
@click.option("--zoom", type=Finite(1, 2), default=1.0, help="With --augmented: --zoom of fit.")
@click.option("--colour", type=Finite(0, 1), default=0.0, help="With --augmented: --colour of fit.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, help="With --augmented: --seed of fit.")
def sheet(
    cache: Path | Url, out: Path, by: "Grouping", each: int, augmented: bool, zoom: float, colour: float, seed: int
) -> None:
    """Draw a contact sheet of CACHE into OUT, a PNG file."""
    from pipeline.cache.cache import open_cache
    from pipeline.loading.plan import Augment
    from pipeline.photos.contact_sheet import encoded
    from tools.sheet import sheet_of_augmented, sheet_of_cache

    context = click.get_current_context()
    for name in ("zoom", "colour", "seed"):
        if not augmented and context.get_parameter_source(name) != ParameterSource.DEFAULT:
            raise UsageError(f"--{name} says how training varies photographs; give --augmented with it")
    with open_cache(cache) as opened:
        if augmented:
            drawing = sheet_of_augmented(opened, Augment(zoom=zoom, colour=colour), by, each, seed=seed)
        else:
            drawing = sheet_of_cache(opened, by, each)
        drawn = encoded(drawing, "PNG", SHEET.what)
    with write_atomically(out) as file:
        file.write(drawn)
    click.echo(f"{out}: {'what training sees' if augmented else 'photographs'} of {cache} by {by}")


@main.command()
@click.argument("target", type=path_or_url, metavar="CACHE|SRC")
def audit(target: Path | Url) -> None:
    """Look for leaks, duplicates and contradicting grades.

    Also reports the scores of guesses that use no photograph.
    Without photographs, the tables of SRC alone are audited.
    """
    from tools.audit import audit as report

    click.echo(report(target))


@main.command()
@click.argument("out", type=OutputFolder())
@click.option(
    "--eyes", type=click.IntRange(1, 10_000_000), required=True, help="Number of photographs; two eyes a patient."
)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, help="Another seed draws other eyes.")
@click.option(
    "--onto",
    type=path_or_url,
    metavar="CACHE",
    help="Paint lesions on its healthy photographs of train and val instead: equally many of each grade, in a folder "
    "per grade.",
)
@local_cache_option
def phantom(out: Path, eyes: int, seed: int, onto: Path | Url | None) -> None:
    """Draw synthetic graded eyes, to try all commands.

    OUT gets the layout of EyePACS. With --onto only the lesions are drawn, on healthy photographs of a cache: a network
    can learn from them before it sees graded photographs.
    """
    from pipeline.cache.cache import open_cache
    from tools.phantoms.dataset import paint_phantoms, write_phantoms

    if onto is None:
        click.echo(write_phantoms(out, eyes, seed))
        return
    with open_cache(onto) as cache:
        click.echo(paint_phantoms(out, eyes, cache, seed))


@main.command()
@click.argument("cache", type=FOLDER, required=False)
@click.option(
    "--size", type=click.IntRange(SMALLEST, LARGEST), help="Side of the pictures, pixels.  [default: as cached]"
)
@click.option(
    "--batch", type=click.IntRange(1, MOST_A_BATCH), help="Photographs a batch.  [default: 64 on a GPU, 8 on the CPU]"
)
@click.option(
    "--workers", type=WORKERS, default=usable_cores, show_default="all cores", help="Threads or processes that load."
)
@click.option(
    "--seconds", type=Finite(0, min_open=True), default=1.5, help="Seconds of measuring, for each row in each round."
)
@click.option("--json", "out", type=OutputFile(BENCH), help="Write the results to this file, too.")
def bench(
    cache: Path | None,
    size: int | None,
    batch: int | None,
    workers: int,
    seconds: float,
    out: Path | None,
) -> None:
    """Measure how fast this machine decodes, loads and trains.

    Measures on CACHE, or on drawn eyes, and says what is slowest and how to improve it.
    """
    import json

    from rich.console import Console

    from tools.benchmark.bench import BenchSettings
    from tools.benchmark.bench import bench as measure

    with Console(stderr=True).status("") as status:
        report = measure(cache, BenchSettings(size, batch, workers, seconds), status.update)
    Console(width=None if Console().is_terminal else 120).print(report.table())
    if out:
        with write_atomically(out) as file:
            file.write((json.dumps({"made_by": "tools bench", **report.as_dict()}, indent=1) + "\n").encode())
    click.echo(report.verdict())
