"""The four tables of the course that this project began with: without headers, photographs apart from grades."""

from pathlib import Path
from typing import Final

from pipeline.errors import SourceError
from pipeline.photos.discovery import is_link_outside
from tools.sources.columns import Columns
from tools.sources.inventory import read_file_bytes
from tools.sources.label_tables import LabelTable
from tools.sources.scales import ICDR
from tools.sources.tables import RawTable, read_raw

COURSE_TABLES: Final = ("train_img.csv", "train_label.csv", "test_img.csv", "test_label.csv")


def course_tables(folder: Path) -> tuple[Path, list[LabelTable]] | None:
    """(folder, one table for each split) of the course's tables in SRC or beside it; None if they are not there. They
    have no header: the first row is a photograph.

    Raises SourceError if a table is a link that leads out, or if the numbers of rows differ.
    """
    for parent in (folder, folder.resolve().parent):
        paths = [parent / name for name in COURSE_TABLES]
        if not all(path.is_file() for path in paths):
            continue
        for path in paths:
            if is_link_outside(path, parent):
                raise SourceError(f"{path}: a link that leads out of {parent}; name it with --labels")
        tables = []
        for split in ("train", "test"):
            images, labels = (_csv(parent / f"{split}_{kind}.csv") for kind in ("img", "label"))
            if len(images.rows) != len(labels.rows):
                raise SourceError(
                    f"{parent / images.source} has {len(images.rows)} rows, {parent / labels.source} has "
                    f"{len(labels.rows)}: they must pair up"
                )
            rows = [
                (number, [image[0], grade[0]])
                for (number, image), (_, grade) in zip(images.rows, labels.rows, strict=True)
            ]
            tables.append(LabelTable(images.source, "no header", Columns(0, 1), rows, ICDR, grades_file=labels.source))
        return parent, tables
    return None


def _csv(path: Path) -> RawTable:
    return next(iter(read_raw(path.name, read_file_bytes(path))))
