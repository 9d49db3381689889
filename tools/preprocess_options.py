"""The options of `tools preprocess`, stated once, and the records that they become."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource

from pipeline.command_line import WORKERS, Decorated, Finite, Folder, ResumableOutput, Text, local_cache_option, section
from pipeline.errors import UsageError
from pipeline.limits import LARGEST, SMALLEST
from pipeline.machine import usable_cores
from pipeline.storage.url import Url, path_or_url

if TYPE_CHECKING:  # imported when a method runs: `--help` answers at once
    from pipeline.photos.preparation import Recipe
    from tools.preprocessing.preprocess import PreprocessSettings
    from tools.sources.columns import ColumnOptions
    from tools.sources.evidence import SourceOptions
    from tools.sources.known_sets import KnownSet

SPLITS: Final = ("auto", "patient", "train", "test")
"""The values of --split that are not a file."""
READING_OPTIONS: Final = (
    "labels", "id_column", "grade_column", "patient_column", "eye_column", "split_column", "gradable_column",
    "keep_column", "scale", "layout", "follow_links", "patient_pattern", "id_key", "keep_ids", "keep_blank", "split",
)  # fmt: skip
"""The options that decide what a cache says of its photographs; cache.json records them."""


@dataclass(frozen=True)
class PreprocessOptions:
    """The options as the user gave them. Each field has the name of its option; None: not given."""

    out: Path | Url
    size: int
    quality: int
    enhance: str
    keep_blank: bool
    labels: Path | Url | None
    id_column: str | None
    grade_column: str | None
    patient_column: str | None
    eye_column: str | None
    split_column: str | None
    gradable_column: str | None
    keep_column: tuple[str, ...]
    scale: str | None
    layout: str | None
    follow_links: bool
    split: str
    split_seed: int
    patient_pattern: str | None
    id_key: Path | None
    keep_ids: bool
    workers: int
    strict: bool
    max_rejects: float
    scheduler: str | None

    def check_combinations(self) -> None:
        """Raises UsageError if two options contradict each other."""
        if self.keep_ids and self.id_key is not None:
            raise UsageError("--keep-ids keeps the ids of patients as they are; --id-key is for pseudonyms")
        source = click.get_current_context().get_parameter_source("workers")
        if self.scheduler and source != ParameterSource.DEFAULT:
            raise UsageError("--workers is for this machine; with --scheduler the cluster has workers of its own")

    def recipe(self) -> "Recipe":
        """How a photograph is prepared."""
        from pipeline.photos.preparation import Recipe

        return Recipe(self.size, self.quality, self.enhance)

    def settings(self) -> "PreprocessSettings":
        """How the cache is made."""
        from tools.preprocessing.preprocess import PreprocessSettings

        split = self.split if self.split in SPLITS else f"table {Path(self.split).name}"
        return PreprocessSettings(
            split, self.split_seed, self.keep_blank, self.workers, self.strict, self.max_rejects, self.scheduler
        )

    def source_options(self, name_patient: Callable[[str], str]) -> "SourceOptions":
        """How SRC is read. name_patient: patient id of a DICOM file -> id in the cache.

        Raises UsageError if a value cannot be understood, SourceError if a file is not what it should be.
        """
        from tools.sources.evidence import SourceOptions
        from tools.sources.scales import open_scale

        columns = self._columns()
        _check_pattern(self.patient_pattern)
        layout = _layout(self.layout)
        split_table = None if self.split in SPLITS else Path(self.split)
        if split_table is not None and not split_table.is_file():
            raise UsageError(f"--split {self.split}: none of {', '.join(SPLITS)}, and no file")
        scale = open_scale(self.scale) if self.scale is not None else None
        return SourceOptions(
            self.labels, columns, scale, layout, self.patient_pattern, split_table, self.follow_links, name_patient
        )

    def _columns(self) -> "ColumnOptions":
        from tools.sources.columns import ColumnOptions, gradable_key

        headers = {
            "photograph": self.id_column,
            "grade": self.grade_column,
            "patient": self.patient_column,
            "eye": self.eye_column,
            "split": self.split_column,
        }
        named = {role: header for role, header in headers.items() if header is not None}
        gradable: frozenset[str] | None = None
        if self.gradable_column is not None:
            header, equals, values = self.gradable_column.partition("=")
            gradable = frozenset(gradable_key(value) for value in values.split(",") if value.strip())
            if not (header.strip() and equals and gradable):
                raise UsageError(
                    f"--gradable-column {self.gradable_column!r}: write COLUMN=VALUES, such as quality=0,1"
                )
            named["gradable"] = header.strip()
        return ColumnOptions(named, gradable, keep=self.keep_column)


def _check_pattern(pattern: str | None) -> None:
    """Raises UsageError for a --patient-pattern that is no regular expression or has no group for the patient."""
    if pattern is None:
        return
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--patient-pattern {pattern!r}: {error}") from error
    if not set(range(1, regex.groups + 1)) - {regex.groupindex.get("eye")}:
        raise UsageError(f"--patient-pattern {pattern!r} has no group for the patient")


def _layout(layout: str | None) -> "str | KnownSet":
    """The value of --layout: "auto", "tables", "folders", or the description in a file."""
    from tools.sources.known_sets import read_description

    if layout is None or layout in ("tables", "folders"):
        return layout or "auto"
    if not Path(layout).is_file():
        raise UsageError(f"--layout {layout}: neither tables nor folders nor a file")
    return read_description(Path(layout))


def given_reading_options(context: click.Context) -> tuple[str, ...]:
    """The READING_OPTIONS on the command line, as the user wrote them, with the names of files without folders."""
    words: list[str] = []
    for option in context.command.params:
        name = option.name or ""
        given = context.get_parameter_source(name) == ParameterSource.COMMANDLINE
        if not given or name not in READING_OPTIONS:
            continue
        value = context.params[name]
        for each in value if isinstance(value, tuple) else (value,):
            is_file = isinstance(each, Path | Url) or (name in ("scale", "layout", "split") and Path(each).suffix)
            text = Path(str(each)).name if is_file else str(each)
            words += [option.opts[0]] if each is True else [option.opts[0], text]
    return tuple(words)


_cache = section("Cache")
_table = section("Table of grades")
_splits = section("Patients and splits")
_work = section("Work")

# fmt: off
_OPTIONS: Final = (
    _cache("--out", type=ResumableOutput(urls=True), default=Path("cache"),
           help="The cache to make or to update, a folder or a URL."),
    _cache("--size", type=click.IntRange(SMALLEST, LARGEST), default=512, help="Side of the cached square, pixels."),
    _cache("--quality", type=click.IntRange(1, 100), default=95, help="JPEG quality of the cached photographs."),
    _cache("--enhance", type=click.Choice(["none", "graham", "clahe"]), default="none",
           help="Enhance the local contrast."),
    _cache("--keep-blank", is_flag=True, help="Put near-black and featureless photographs into the splits too."),
    _table("--labels", type=path_or_url, help="The table of grades, if it is not in SRC or SRC has several."),
    _table("--id-column", type=Text(), help="Column that names the photograph."),
    _table("--grade-column", type=Text(), help="Column that has the grade."),
    _table("--patient-column", type=Text(), help="Column that names the patient."),
    _table("--eye-column", type=Text(), help="Column that names the eye: left or right, L or R, OS or OD."),
    _table("--split-column", type=Text(), help="Column that names the split: train, val or test."),
    _table("--gradable-column", type=Text(), metavar="C=VALUES",
           help="Column that says which photographs can be graded, and its values that mean yes: quality=0,1."),
    _table("--keep-column", type=Text(), multiple=True, metavar="C",
           help="Column to keep in attributes.csv. May be given several times."),
    _table("--scale", type=Text(), metavar="NAME|FILE",
           help="Scale of the grades: icdr, messidor, scottish, nhs, paraguay, or a TOML file.  [default: icdr]"),
    _table("--layout", type=Text(), metavar="tables|folders|FILE",
           help="Take grades from tables alone, from names of folders alone, or as a TOML file describes the set.  "
                "[default: as the files show]"),
    _table("--follow-links", is_flag=True, help="Follow links, also to files outside SRC."),
    _splits("--split", type=Text(), default="auto", metavar="auto|patient|train|test|FILE",
            help="auto: the splits of the data set; if it has none, as patient. patient: drawn by patient, "
                 "70/10/20 %. train, test: all photographs in that split. FILE: a table with the columns image and "
                 "split."),
    _splits("--split-seed", type=click.IntRange(-(2**63), 2**64 - 1), default=0,
            help="Seed of the drawing of patients."),
    _splits("--patient-pattern", type=Text(),
            help="Regular expression for names: its group `patient` (or its first) is the patient, `eye` the eye.  "
                 "[default: common names, such as 17_left]"),
    _splits("--id-key", type=Folder(path_type=Path), metavar="FILE",
            help="Key of the pseudonyms of patients in DICOM files; it is made if it does not exist. The same key "
                 "gives the same pseudonyms in other caches.  [default: one of the user's]"),
    _splits("--keep-ids", is_flag=True, help="Keep the patient ids of DICOM files as they are, without pseudonyms."),
    _work("--workers", type=WORKERS, default=usable_cores, show_default="all cores", help="Number of processes."),
    _work("--strict", is_flag=True, help="Stop at the first photograph or row that is refused."),
    _work("--max-rejects", type=Finite(0, 1), default=0.01,
          help="Stop when more than this fraction of the photographs (and more than 100) is refused."),
    local_cache_option,
    _work("--scheduler", type=Text(), metavar="URL",
          help="A Dask scheduler, tcp://HOST:8786, whose workers do the work. They need SRC and --out under the same "
               "paths."),
)
# fmt: on


def preprocess_options(command: Decorated) -> Decorated:
    """Gives a command all options of `tools preprocess`, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
