"""The `tools` command. Bodies import what they need when they run: `--help` answers at once."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from pipeline.errors import FundusError
from pipeline.machine import END_SIGNALS, usable_cores
from pipeline.options import LARGEST, MOST_A_BATCH, SMALLEST, WORKERS, Finite, Text, section
from pipeline.storage.artifacts import Kind, picture_kind
from pipeline.storage.atomic import write_whole
from pipeline.storage.local_cache import local_cache_option
from pipeline.storage.outputs import GuardedGroup, OutputFile, OutputFolder, OutputPlace
from pipeline.storage.url import Folder, Url, place

if TYPE_CHECKING:
    from tools.sheet import Grouping

FOLDER = Folder(path_type=Path)
SHEET = picture_kind("a contact sheet", suffix=".png")
READING_OPTIONS = (
    "labels", "id_column", "grade_column", "patient_column", "eye_column", "split_column", "gradable_column",
    "keep_column", "scale", "layout", "follow_links", "patient_pattern", "id_key", "keep_ids", "keep_blank", "split",
)  # fmt: skip
"""Of `tools preprocess`: those that decide what a cache says of its photographs."""
BENCH = Kind("figures of `tools bench`", holds=b'"made_by": "tools bench"')


@click.group(cls=GuardedGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="fundus-grading")
def main() -> None:
    """Prepare, check and look at caches of fundus photographs."""


@contextmanager
def _exit_at_sigterm() -> Iterator[None]:
    """SIGTERM, by which schedulers end a job, leaves through the `finally`s, so that workers end too; exit code 143."""
    before = {each: signal.signal(each, lambda number, _: sys.exit(128 + number)) for each in END_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_cache = section("Cache")
_table = section("Table of grades")
_splits = section("Patients and splits")
_work = section("Work")


@main.command()
@click.argument("src", type=place)
@_cache(
    "--out",
    type=OutputPlace(urls=True),
    default=Path("cache"),
    help="The cache to make or to update, a folder or a URL.",
)
@_cache("--size", type=click.IntRange(SMALLEST, LARGEST), default=512, help="Side of the cached square, pixels.")
@_cache("--quality", type=click.IntRange(1, 100), default=95, help="JPEG quality of the cached photographs.")
@_cache("--enhance", type=click.Choice(["none", "graham", "clahe"]), default="none", help="Enhance the local contrast.")
@_cache("--keep-blank", is_flag=True, help="Let near-black and featureless photographs take part.")
@_table("--labels", type=place, help="The table of grades, where it is not in SRC or SRC has several.")
@_table("--id-column", type=Text(), help="Column that names the photograph.")
@_table("--grade-column", type=Text(), help="Column that has the grade.")
@_table("--patient-column", type=Text(), help="Column that names the patient.")
@_table("--eye-column", type=Text(), help="Column that names the eye: left or right, L or R, OS or OD.")
@_table("--split-column", type=Text(), help="Column that names the split: train, val or test.")
@_table(
    "--gradable-column",
    type=Text(),
    metavar="C=VALUES",
    help="Column that says which photographs can be graded, and the cells that mean so: quality=0,1.",
)
@_table(
    "--keep-column",
    type=Text(),
    multiple=True,
    metavar="C",
    help="Column to keep in attributes.csv. May be given several times.",
)
@_table(
    "--scale",
    type=Text(),
    metavar="NAME|FILE",
    help="Scale of the grades: icdr, messidor, scottish, nhs, paraguay, or a TOML file.  [default: icdr]",
)
@_table(
    "--layout",
    type=Text(),
    metavar="tables|folders|FILE",
    help="Take grades from tables alone, from names of folders alone, or as a TOML file describes the set.  "
    "[default: by the evidence]",
)
@_table("--follow-links", is_flag=True, help="Read what links lead to, also outside SRC.")
@_splits(
    "--split",
    type=Text(),
    default="auto",
    metavar="auto|patient|train|test|FILE",
    help="auto: train, val and test as the set has them, else as patient. patient: drawn by patient, 70/10/20 %. "
    "train, test: all photographs there. FILE: a table with the columns image and split.",
)
@_splits("--split-seed", type=click.IntRange(-(2**63), 2**64 - 1), default=0, help="Seed of the drawing of patients.")
@_splits(
    "--patient-pattern",
    type=Text(),
    help="Regular expression for names: its group `patient` (or its first) is the patient, `eye` the eye.  "
    "[default: the usual ways, such as 17_left]",
)
@_splits(
    "--id-key",
    type=FOLDER,
    metavar="FILE",
    help="Key of the pseudonyms of patients in DICOM files; it is made if it does not exist. The same key gives "
    "the same pseudonyms in other caches.  [default: one of the user's]",
)
@_splits("--keep-ids", is_flag=True, help="Keep the patient ids of DICOM files as they are, without pseudonyms.")
@_work("--workers", type=WORKERS, default=usable_cores, show_default="all cores", help="Processes.")
@_work("--strict", is_flag=True, help="Stop at the first photograph or row that is refused.")
@_work(
    "--max-rejects",
    type=Finite(0, 1),
    default=0.01,
    help="Stop when more than this fraction of the photographs (and more than 100) is refused.",
)
@local_cache_option
@_work(
    "--scheduler",
    type=Text(),
    metavar="URL",
    help="A Dask scheduler, tcp://HOST:8786, whose workers do the work. They need SRC and --out under the same paths.",
)
@_exit_at_sigterm()
def preprocess(
    src: Path | Url,
    out: Path | Url,
    size: int,
    quality: int,
    enhance: str,
    labels: Path | Url | None,
    id_column: str | None,
    grade_column: str | None,
    patient_column: str | None,
    eye_column: str | None,
    split_column: str | None,
    gradable_column: str | None,
    keep_column: tuple[str, ...],
    scale: str | None,
    layout: str | None,
    follow_links: bool,
    split: str,
    split_seed: int,
    patient_pattern: str | None,
    id_key: Path | None,
    keep_ids: bool,
    keep_blank: bool,
    workers: int,
    strict: bool,
    max_rejects: float,
    scheduler: str | None,
) -> None:
    """Find, crop, resize and cache photographs.

    SRC is a folder, an archive or a URL. The same command continues an interrupted run, and updates a cache.
    """
    from pipeline.photos.preparation import Recipe
    from pipeline.progress import progress_of
    from tools.preprocessing.preprocess import PreprocessSettings
    from tools.preprocessing.preprocess import preprocess as bring_up_to_date
    from tools.preprocessing.summary import say_listing, say_outcome
    from tools.sources.layouts import list_source
    from tools.sources.pseudonyms import Pseudonyms, key_file, unchanged_id
    from tools.sources.reading import reading_of

    if keep_ids and id_key is not None:
        raise click.UsageError("--keep-ids keeps the ids of patients as they are; --id-key is for pseudonyms")
    if scheduler and click.get_current_context().get_parameter_source("workers") != ParameterSource.DEFAULT:
        raise click.UsageError("--workers is for this machine alone; a --scheduler has the workers that it has")
    columns = {
        "photograph": id_column,
        "grade": grade_column,
        "patient": patient_column,
        "eye": eye_column,
        "split": split_column,
    }
    given = {role: name for role, name in columns.items() if name is not None}
    pseudonyms = Pseudonyms(key_file(id_key, out if isinstance(out, Path) else None))
    reading = reading_of(
        labels,
        given,
        gradable_column,
        keep_column,
        scale,
        layout,
        patient_pattern,
        split,
        follow_links=follow_links,
        name_patient=unchanged_id if keep_ids else pseudonyms,
    )
    listing = list_source(src, reading)
    listing.options = _options_that_matter()
    say_listing(listing)
    if pseudonyms.used:
        click.echo(f"  note: patients by pseudonyms under the key in {pseudonyms.path}, which is for nobody else")
    recipe = Recipe(size, quality, enhance)
    settings = PreprocessSettings(
        split if reading.split_table is None else f"table {reading.split_table.name}",
        split_seed,
        keep_blank,
        workers,
        strict,
        max_rejects,
        scheduler,
    )
    if isinstance(out, Path):
        with progress_of("preparing", "photographs", stays=True) as progress:
            outcome = bring_up_to_date(listing, out, recipe, settings, progress)
    else:
        from tools.preprocessing.upload import upload_to

        with upload_to(out) as upload, progress_of("preparing", "photographs", stays=True) as progress:
            outcome = bring_up_to_date(listing, upload.folder, recipe, settings, progress, upload.send_shard)
        click.echo(f"{out}: {upload.sent} files, {upload.nbytes / 1e6:.1f} MB sent from {upload.folder}")
    say_outcome(listing, outcome, out)
    for note in outcome.notes:
        click.secho(note, fg="red")


def _options_that_matter() -> tuple[str, ...]:
    """The options of this `tools preprocess` that say how SRC was read, as they were given; files by their names."""
    context = click.get_current_context()
    told: list[str] = []
    for option in context.command.params:
        name = option.name or ""
        given = context.get_parameter_source(name) == ParameterSource.COMMANDLINE
        if not given or name not in READING_OPTIONS:
            continue
        value = context.params[name]
        for each in value if isinstance(value, tuple) else (value,):
            is_file = isinstance(each, Path | Url) or (name in ("scale", "layout", "split") and Path(each).suffix)
            text = Path(str(each)).name if is_file else str(each)
            told += [option.opts[0]] if each is True else [option.opts[0], text]
    return tuple(told)


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
@click.argument("cache", type=place)
def check(cache: Path | Url) -> None:
    """Verify every byte of CACHE.

    Reads checksums, pictures, sizes and the manifest. Ends with exit code 1 and a list if anything is wrong.
    """
    from tools.check import check_cache

    problems, entries = check_cache(cache)
    for problem in problems:
        click.echo(problem)
    if problems:
        raise FundusError(f"{cache}: {len(problems)} problems; `tools preprocess` mends them")
    click.echo(f"{cache}: {entries} photographs, all well")


@main.command()
@click.argument("cache", type=place)
@click.argument("out", type=OutputFile(SHEET))
@click.option("--by", type=click.Choice(["grade", "split", "flag"]), default="grade", help="What makes a row.")
@click.option("--each", type=click.IntRange(1, 200), default=12, help="Photographs a row.")
@click.option("--augmented", is_flag=True, help="Training photographs instead, as the first epochs of fit show each.")
@click.option("--zoom", type=Finite(1, 2), default=1.0, help="With --augmented: as fit's.")
@click.option("--colour", type=Finite(0, 1), default=0.0, help="With --augmented: as fit's.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, help="With --augmented: as fit's.")
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
            raise click.UsageError(f"--{name} says how training varies photographs; give --augmented with it")
    with open_cache(cache) as opened:
        if augmented:
            drawing = sheet_of_augmented(opened, Augment(zoom=zoom, colour=colour), by, each, seed=seed)
        else:
            drawing = sheet_of_cache(opened, by, each)
        drawn = encoded(drawing, "PNG", SHEET.what)
    with write_whole(out) as file:
        file.write(drawn)
    click.echo(f"{out}: {'what training sees' if augmented else 'photographs'} of {cache} by {by}")


@main.command()
@click.argument("target", type=place, metavar="CACHE|SRC")
def audit(target: Path | Url) -> None:
    """Look for leaks, duplicates and contradicting grades.

    Says too what guesses would score that look at no photograph.
    A SRC is audited by its tables alone where it has no photographs.
    """
    from tools.audit import audit as look

    click.echo(look(target))


@main.command()
@click.argument("out", type=OutputFolder())
@click.option(
    "--eyes", type=click.IntRange(1, 10_000_000), required=True, help="How many photographs; two eyes a patient."
)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, help="Another seed draws other eyes.")
@click.option(
    "--onto",
    type=place,
    metavar="CACHE",
    help="Paint lesions on its healthy photographs of train and val instead, as many a grade, in a folder per grade.",
)
@local_cache_option
def phantom(out: Path, eyes: int, seed: int, onto: Path | Url | None) -> None:
    """Draw synthetic graded eyes, to try everything on.

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
@click.option("--workers", type=WORKERS, default=usable_cores, show_default="all cores", help="Loading.")
@click.option("--seconds", type=Finite(0, min_open=True), default=1.5, help="For each row in each round.")
@click.option("--json", "out", type=OutputFile(BENCH), help="Write the figures there too.")
def bench(
    cache: Path | None,
    size: int | None,
    batch: int | None,
    workers: int,
    seconds: float,
    out: Path | None,
) -> None:
    """Measure how fast this machine decodes, loads and trains.

    Measures on CACHE, or on drawn eyes, and tells what is slowest and what to do about it.
    """
    import json

    from rich.console import Console

    from tools.benchmark.bench import BenchSettings
    from tools.benchmark.bench import bench as measure

    with Console(stderr=True).status("") as status:
        report = measure(cache, BenchSettings(size, batch, workers, seconds), status.update)
    Console(width=None if Console().is_terminal else 120).print(report.table())
    if out:
        with write_whole(out) as file:
            file.write((json.dumps({"made_by": "tools bench", **report.as_dict()}, indent=1) + "\n").encode())
    click.echo(report.verdict())
