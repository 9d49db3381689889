"""What is below SRC: which photograph has which grade, and what happened to everything else."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pipeline.photos.discovery import (
    Found,
    Refusal,
)
from pipeline.storage.url import Url
from tools.sources.label_tables import LabelRow


class Sample(NamedTuple):
    """A photograph that will be prepared."""

    id: str
    found: Found
    grade: int  # UNKNOWN where the layout has none
    split: str  # what the layout brings, else ""


@dataclass
class Listing:
    """All that is below SRC. Every photograph found is in exactly one of samples, refused and ignored."""

    root: Path | Url
    layout: str
    samples: list[Sample] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)  # photographs
    rows: list[Refusal] = field(default_factory=list)  # rows of tables for which there is no photograph to use
    ignored: list[Refusal] = field(default_factory=list)  # photographs that nobody asked for
    notes: list[str] = field(default_factory=list)

    @property
    def found(self) -> int:
        return len(self.samples) + len(self.refused) + len(self.ignored)


class Rows(NamedTuple):
    """What the tables of a layout say."""

    layout: str
    rows: list[tuple[LabelRow, str]]  # (row, the split that its table brings or "")
