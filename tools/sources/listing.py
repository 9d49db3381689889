"""The listing of SRC: the grade of each photograph, and what was refused or ignored."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pipeline.photos.discovery import Found, Refusal
from pipeline.storage.url import Url
from tools.sources.scales import ICDR, Scale


class ListedSample(NamedTuple):
    """A photograph that will be prepared, and what is known of it."""

    id: str
    file: Found
    grade: int  # UNKNOWN where the layout has none
    split: str = ""  # what the layout brings, else ""
    patient: str = ""  # "" where nothing tells: a patient of its own
    eye: str = ""  # "left", "right" or ""
    ungradable: bool = False
    kept: tuple[str, ...] = ()  # cells of the columns that --keep-column names


@dataclass
class Listing:
    """All that is below SRC. Every photograph found is in exactly one of samples, refused and ignored."""

    root: Path | Url
    layout: str
    samples: list[ListedSample] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)  # photographs
    rows: list[Refusal] = field(default_factory=list)  # rows of tables for which there is no photograph to use
    ignored: list[Refusal] = field(default_factory=list)  # photographs that nobody asked for
    unread: list[Refusal] = field(
        default_factory=list
    )  # files that are no photographs and are not read, with the advice
    notes: list[str] = field(default_factory=list)
    row_notes: list[str] = field(default_factory=list)  # of single rows
    warnings: list[str] = field(default_factory=list)
    scale: Scale = ICDR
    kept: tuple[str, ...] = ()  # the names of the columns kept
    data_set: str = ""  # titles of the known sets that gave the grades, joined by commas; "" where none is known
    options: tuple[str, ...] = ()  # those that said how SRC is read, to do it again

    @property
    def found(self) -> int:
        return len(self.samples) + len(self.refused) + len(self.ignored)
