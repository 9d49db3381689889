"""The listing of SRC: photographs with their grades, and what was refused or ignored."""

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
    grade: int  # UNKNOWN if it has none
    split: str = ""  # of the data set; "" for none
    patient: str = ""  # "": not known, so the photograph is a patient of its own
    eye: str = ""  # "left", "right" or ""
    ungradable: bool = False
    kept: tuple[str, ...] = ()  # cells of the columns that --keep-column names


@dataclass
class Listing:
    """Everything below SRC. Each photograph is in exactly one of samples, refused and ignored."""

    root: Path | Url
    layout: str
    samples: list[ListedSample] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)  # photographs
    rows: list[Refusal] = field(default_factory=list)  # rows of tables without a photograph
    ignored: list[Refusal] = field(default_factory=list)  # photographs that are not used
    unread: list[Refusal] = field(default_factory=list)  # other files that are not read, each with advice
    notes: list[str] = field(default_factory=list)
    row_notes: list[str] = field(default_factory=list)  # on single rows
    warnings: list[str] = field(default_factory=list)
    scale: Scale = ICDR
    kept: tuple[str, ...] = ()  # headers of the kept columns
    data_set: str = ""  # titles of the known sets with the grades, joined by commas; "" for none
    options: tuple[str, ...] = ()  # options that say how SRC is read

    @property
    def found(self) -> int:
        """Number of photographs."""
        return len(self.samples) + len(self.refused) + len(self.ignored)
