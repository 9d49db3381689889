"""From prepared photographs to the content of a cache: entries of shards, rows of tables, the index."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pipeline.cache.index import ATTRIBUTES, MANIFEST, REJECTS, CacheIndex, ShardRecord
from pipeline.cache.manifest import Row, manifest_csv
from pipeline.cache.shards import Entry, WrittenEntry
from pipeline.photos.discovery import Found, Refusal
from pipeline.photos.preparation import Prepared, Recipe
from pipeline.storage.csv_files import to_csv


def make_entry(id: str, grade: int, found: Found, sha256: str, prepared: Prepared, recipe: Recipe) -> Entry:
    """The entry of a prepared photograph. sha256: of the photograph's file."""
    meta = {
        "source": found.source,
        "source_bytes": found.nbytes,
        "source_sha256": sha256,
        "width": prepared.width,
        "height": prepared.height,
        "disc": None if prepared.disc is None else [round(value, 1) for value in prepared.disc],
        "flags": list(prepared.flags),
        "recipe": recipe.digest,
    }
    return Entry(id, prepared.jpeg, meta, grade)


def with_patient_and_split(entry: Entry, patient: str, split: str) -> Entry:
    """The entry with the patient and the split of manifest.csv in its JSON.

    So a program that reads only the shards can keep test out of training.
    """
    return entry._replace(meta={**entry.meta, "patient": patient, "split": split})


def make_record(entries: Iterable[WrittenEntry], sha256: str, nbytes: int) -> ShardRecord:
    """The record of a shard for the index. sha256, nbytes: of the shard."""
    sources = "".join(f"{entry.id}\0{entry.meta['source_sha256']}\n" for entry in entries)
    return ShardRecord(nbytes, sha256, hashlib.sha256(sources.encode("utf-8", "surrogateescape")).hexdigest())


def make_row(entry: WrittenEntry, shard: int, grade: int, found: Found) -> Row:
    """The manifest's row of an entry, without the eye. The entry has its patient and split."""
    meta = entry.meta
    cx, cy, radius = meta["disc"] or (math.nan, math.nan, math.nan)
    return Row(
        id=entry.id,
        patient=meta["patient"],
        eye="",
        grade=grade,
        split=meta["split"],
        source=found.source,
        source_bytes=found.nbytes,
        source_mtime_ns=found.mtime_ns,
        width=meta["width"],
        height=meta["height"],
        cx=cx,
        cy=cy,
        radius=radius,
        flags=" ".join(meta["flags"]),
        shard=shard,
        offset=entry.offset,
        nbytes=entry.nbytes,
        crc32=entry.crc32,
    )


def make_tables(
    rows: Iterable[Row],
    refusals: Iterable[Refusal],
    kept: Iterable[Sequence[str]] | None = None,
    columns: Sequence[str] = (),
) -> dict[str, bytes]:
    """File name -> bytes of manifest.csv and rejects.csv, and of attributes.csv if columns were kept.

    rows: sorted by id. kept: (id, cell, ...) for each row. columns: the names of the cells.
    """
    tables = {MANIFEST: manifest_csv(rows), REJECTS: to_csv(refusals, Refusal._fields)}
    return tables if kept is None else {**tables, ATTRIBUTES: to_csv(kept, ("id", *columns))}


def with_tables(index: CacheIndex, tables: Mapping[str, bytes]) -> CacheIndex:
    """The index with the digests of the tables."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in tables.items()}
    attributes = digests.get(ATTRIBUTES, "")
    return replace(index, manifest=digests[MANIFEST], rejects=digests[REJECTS], attributes=attributes)
