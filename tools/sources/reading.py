"""Turns the options of `tools preprocess` into the settings for reading SRC."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from click import UsageError

from pipeline.storage.url import Url
from tools.sources.columns import ColumnOptions, gradable_key
from tools.sources.evidence import SourceOptions
from tools.sources.known_sets import KnownSet, read_description
from tools.sources.pseudonyms import temporary_pseudonym
from tools.sources.scales import open_scale

SPLITS: Final = ("auto", "patient", "train", "test")


def reading_of(
    labels: Path | Url | None,
    columns: Mapping[str, str],
    gradable: str | None,
    keep: tuple[str, ...],
    scale: str | None,
    layout: str | None,
    patient_pattern: str | None,
    split: str,
    *,
    follow_links: bool = False,
    name_patient: Callable[[str], str] = temporary_pseudonym,
) -> SourceOptions:
    """columns: role -> header; gradable: "C=VALUES"; the rest as the options have it.

    Raises click.UsageError where a text cannot be understood, SourceError where a file is not what it should be.
    """
    named = dict(columns)
    cells: frozenset[str] | None = None
    if gradable is not None:
        name, equals, values = gradable.partition("=")
        cells = frozenset(gradable_key(value) for value in values.split(",") if value.strip())
        if not (name.strip() and equals and cells):
            raise UsageError(f"--gradable-column {gradable!r}: write COLUMN=VALUES, such as quality=0,1")
        named["gradable"] = name.strip()
    if patient_pattern is not None:
        try:
            regex = re.compile(patient_pattern)
        except re.error as error:
            raise UsageError(f"--patient-pattern {patient_pattern!r}: {error}") from error
        if not set(range(1, regex.groups + 1)) - {regex.groupindex.get("eye")}:
            raise UsageError(f"--patient-pattern {patient_pattern!r} has no group for the patient")
    description: str | KnownSet = "auto"
    if layout in ("tables", "folders"):
        description = layout
    elif layout is not None:
        if not Path(layout).is_file():
            raise UsageError(f"--layout {layout}: neither tables nor folders nor a file")
        description = read_description(Path(layout))
    split_table = None
    if split not in SPLITS:
        split_table = Path(split)
        if not split_table.is_file():
            raise UsageError(f"--split {split}: none of {', '.join(SPLITS)}, and no file")
    return SourceOptions(
        labels,
        ColumnOptions(named, cells, keep=keep),
        open_scale(scale) if scale is not None else None,
        description,
        patient_pattern,
        split_table,
        follow_links,
        name_patient,
    )
