"""The four tables of the course that this project began with: no header, photographs and grades apart."""

from pathlib import Path
from typing import Final

from pipeline.errors import SourceError
from pipeline.photos.discovery import leads_out
from tools.sources.columns import Columns
from tools.sources.inventory import read_whole
from tools.sources.label_tables import LabelTable
from tools.sources.scales import ICDR
from tools.sources.tables import RawTable, read_raw

COURSE_TABLES: Final = ("train_img.csv", "train_label.csv", "test_img.csv", "test_label.csv")


def course_tables(folder: Path) -> tuple[Path, list[LabelTable]] | None:
    """The course's four tables, in SRC or beside it, as one table a split: they have no header, their first row is a
    sample."""
    for where in (folder, folder.resolve().parent):
        paths = [where / name for name in COURSE_TABLES]
        if not all(path.is_file() for path in paths):
            continue
        for path in paths:
            if leads_out(path, where):
                raise SourceError(f"{path}: a link that leads out of {where}; name it with --labels")
        tables = []
        for split in ("train", "test"):
            images, labels = (_csv(where / f"{split}_{kind}.csv") for kind in ("img", "label"))
            if len(images.rows) != len(labels.rows):
                raise SourceError(
                    f"{where / images.source} has {len(images.rows)} rows, {where / labels.source} has "
                    f"{len(labels.rows)}: they must pair up"
                )
            rows = [
                (number, [image[0], grade[0]])
                for (number, image), (_, grade) in zip(images.rows, labels.rows, strict=True)
            ]
            tables.append(LabelTable(images.source, "no header", Columns(0, 1), rows, ICDR, grades_file=labels.source))
        return where, tables
    return None


def _csv(path: Path) -> RawTable:
    return next(iter(read_raw(path.name, read_whole(path))))
