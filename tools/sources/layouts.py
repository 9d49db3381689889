"""Lists the photographs and grades of a folder or a URL."""

import os
from contextlib import ExitStack
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.photos.discovery import walk
from pipeline.photos.formats import SUFFIXES
from pipeline.storage.url import Url
from tools.sources.course import COURSE_TABLES
from tools.sources.evidence import Evidence, SourceOptions
from tools.sources.inventory import take_inventory
from tools.sources.label_tables import LabelTable
from tools.sources.listing import Listing
from tools.sources.medmnist import list_medmnist
from tools.sources.remote import tables_of, walk_url


def list_source(src: Path | Url, options: SourceOptions = SourceOptions()) -> Listing:  # noqa: B008  # frozen
    """Reads SRC: recognises its layout and matches photographs with grades.

    Raises SourceError if there is nothing to prepare (no such folder, no photographs, no row that fits one) or if SRC
    can be read in two ways; StoreError if a URL cannot be listed or read.
    """
    with ExitStack() as stack:
        labels = options.labels
        if isinstance(labels, Url):
            labels = stack.enter_context(tables_of(labels.parent, [labels.name])).folder / labels.name
        if isinstance(src, Path):
            if os.path.isfile(src) and src.suffix.lower() == ".npz":
                return list_medmnist(src)
            if not os.path.isdir(src):  # pathlib's is_dir raises where a name is too long
                raise SourceError(f"{src}: no such folder")
            listing = Evidence(
                src, src, take_inventory(src, walk(src, options.follow_links), labels), options
            ).listing()
        elif src.name.lower().endswith(".npz"):
            raise SourceError(f"{src}: a MedMNIST file is read from a disk; copy it there first")
        else:
            walked, names = walk_url(src)
            tables = stack.enter_context(tables_of(src, names, COURSE_TABLES))
            inventory = take_inventory(tables.folder, walked, labels, names)
            listing = Evidence(src, tables.folder, inventory, options).listing()
            listing.layout = tables.named(listing.layout)
    if not listing.found:
        wanted = " ".join(sorted(SUFFIXES))
        unread = [f"{each.source}: {each.reason}" for each in listing.unread[:3]]
        why = "; ".join([f"looked for {wanted}, and for images by content", *listing.notes, *unread])
        raise SourceError(f"{src}: no photographs below it ({why})")
    if not listing.samples:
        first = (listing.refused + listing.rows + listing.ignored)[0]
        raise SourceError(f"{src}: nothing to prepare ({listing.layout}); e.g. {first.source}: {first.reason}")
    return listing


def tables_alone(folder: Path) -> tuple[str, list[LabelTable]] | None:
    """(the layout in words, the tables of grades) of a folder without photographs; None if it has no such table.

    Raises SourceError if a table can be read in two ways.
    """
    reader = Evidence(folder, folder, take_inventory(folder, walk(folder)), SourceOptions())
    tables, _ = reader.tables(lambda name: True)
    return (reader.layout_text(tables, None), tables) if tables else None
