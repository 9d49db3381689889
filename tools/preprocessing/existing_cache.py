"""The cache of an earlier `tools preprocess`, and which of its parts are still right."""

import csv
import os
import shlex
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pandas as pd

from pipeline.cache.index import MANIFEST, REJECTS, CacheIndex, ShardRecord
from pipeline.cache.manifest import COLUMNS, Row, read_manifest
from pipeline.cache.rejects import IGNORED, NOT_USED
from pipeline.cache.shards import shard_path
from pipeline.cache.splits import SPLITS
from pipeline.errors import CacheError, SourceError
from pipeline.grades import UNKNOWN
from pipeline.photos.preparation import Recipe
from pipeline.storage.artifacts import INDEX, SHARDS, UNFINISHED
from pipeline.storage.atomic import sync_folder
from pipeline.storage.locks import changed_ns, replace
from pipeline.storage.paths import sha256_of
from tools.preprocessing.splits import split_of
from tools.sources.listing import ListedSample, Listing

MIN_CHANGED: Final = 5
"""If all photographs with known names have changed, and there are at least this many, the data set is another one."""


@dataclass
class ExistingCache:
    """The state of a cache folder before the run; empty for a new folder.

    A photograph is unchanged if its size and modification time are the same and its change time, which no program can
    set back, is before the shard's modification time. In the same way shards are compared with cache.json, which is
    written last.
    """

    folder: Path
    index: CacheIndex | None = None
    complete: bool = False
    rows: dict[str, Row] = field(default_factory=dict)  # by id
    refused: dict[str, str] = field(default_factory=dict)  # source -> reason
    salvaged: list[tuple[str, str]] = field(default_factory=list)  # (patient, split) from a damaged manifest
    damaged: bool = False  # whether the manifest is damaged
    verified: bool = False  # whether a shard was read completely to check it

    @classmethod
    def read(cls, folder: Path) -> "ExistingCache":
        """The state of a folder."""
        previous = cls(folder)
        for name in (UNFINISHED, INDEX):
            with suppress(CacheError):
                previous.index = CacheIndex.read(folder, name)
                previous.complete = name == INDEX
        index = previous.index
        if index and sha256_of(folder / MANIFEST) == index.manifest:
            table = read_manifest(folder / MANIFEST)
            previous.rows = {row[0]: Row(*row) for row in table.itertuples(index=False, name=None)}
        else:  # damaged, or newer than the index: the run was interrupted between the two
            previous.damaged = previous.complete
            previous.salvaged = _salvage(folder / MANIFEST)
        if index and previous.complete and sha256_of(folder / REJECTS) == index.rejects:
            table = pd.read_csv(folder / REJECTS, dtype=str, na_filter=False, encoding_errors="surrogateescape")
            own = ~table["reason"].str.startswith((IGNORED, NOT_USED))
            previous.refused = dict(zip(table["source"][own], table["reason"][own], strict=True))
        return previous

    @property
    def shard_count(self) -> int:
        return len(self.index.shards) if self.index else 0

    def shard_files(self) -> dict[int, Path]:
        """All files that have the final name of a shard."""
        files = (self.folder / SHARDS).glob("[0-9]*.tar")
        return {int(path.stem): path for path in sorted(files) if path.stem.isdigit()}

    def recorded_splits(self, split: str, seed: int) -> list[tuple[str, str]]:
        """(patient, split) as recorded; empty if the splits were drawn by another rule."""
        if self.index and (self.index.split, self.index.split_seed) != (split, seed):
            return []
        return [(row.patient, row.split) for row in self.rows.values() if row.split] or self.salvaged

    def copies(self, shards: tuple[ShardRecord, ...], rows: list[Row]) -> int | None:
        """The number of test photographs that are copies, if it was counted for the same photographs and splits."""
        index = self.index
        if index is None or not self.rows or index.shards != shards:
            return None
        same = len(self.rows) == len(rows) and all(self.rows[row.id].split == row.split for row in rows)
        return index.copies if same else None

    def check_replaced(self, listing: Listing) -> None:
        """Raises SourceError if the run would replace a cache with grades by one without, or that of another data
        set."""
        if not self.rows or self.index is None:
            return
        graded = sum(row.grade != UNKNOWN for row in self.rows.values())
        if graded and all(sample.grade == UNKNOWN for sample in listing.samples):
            options = shlex.join(self.index.options)
            how = f" It was made with: {options}." if options else " Was --labels forgotten?"
            raise SourceError(
                f"{self.folder} has grades of {graded:,} photographs, and now no photograph has one.{how} Give the "
                "grades, or another --out"
            )
        by_source = {row.source: row for row in self.rows.values()}
        files = [sample.file for sample in listing.samples]
        shared = [file for file in files if file.source in by_source]
        changed = sum(file.nbytes != by_source[file.source].source_bytes for file in shared)
        known = shared or any(sample.id in self.rows for sample in listing.samples)
        known = known or any(refusal.source in by_source for refusal in listing.refused + listing.ignored)
        if not known or (len(shared) >= MIN_CHANGED and changed == len(shared)):
            first = min(by_source)
            what = f"{len(shared)} photographs have these names and other sizes" if known else "none of them is there"
            raise SourceError(
                f"{self.folder} is the cache of another data set, of {len(by_source):,} photographs such as {first}: "
                f"below {listing.root} {what}. Give another --out, or remove the cache first"
            )

    def changed_options(self, listing: Listing) -> list[str]:
        """A note if the options that decide what a cache says of its photographs have changed."""
        if self.index is None or not self.rows or self.index.options == listing.options:
            return []
        before, now = (shlex.join(options) or "no options" for options in (self.index.options, listing.options))
        return [f"{self.folder} was made with {before}, and is now with {now}"]

    def lost_splits(self) -> list[str]:
        """A note if the manifest was damaged and cannot be made again as it was."""
        if not self.damaged:
            return []
        return [
            f"{MANIFEST} was damaged: {len(dict(self.salvaged))} patients keep the split that can still be read; "
            "others were drawn again and may have changed their split"
        ]

    def still_refused(self, samples: Iterable[ListedSample], recipe: Recipe) -> dict[str, str]:
        """source -> reason of the photographs that could not be read and have not changed. If a package was missing,
        they are tried again."""
        if not self.refused or self.index is None or self.index.recipe != recipe:
            return {}
        mtime_ns = (self.folder / REJECTS).stat().st_mtime_ns
        sources = (sample.file.source for sample in samples if sample.file.ctime_ns < mtime_ns)
        reasons = {source: self.refused[source] for source in sources if source in self.refused}
        return {source: reason for source, reason in reasons.items() if "pip install" not in reason}

    def unchanged_shards(
        self, wanted: dict[int, list[ListedSample]], still_refused: dict[str, str], recipe: Recipe, *, keep_blank: bool
    ) -> dict[int, ShardRecord]:
        """Number -> record of the shards that already have exactly the wanted samples. Empty for a cache of an old
        version, whose JSONs lack patient and split."""
        index = self.index
        if index is None or not (self.complete and index.placed):
            return {}
        if index.recipe != recipe or len(index.shards) != len(wanted):
            return {}
        held = [0] * len(index.shards)
        for row in self.rows.values():
            held[row.shard] += 1
        unchanged = {}
        for shard, samples in wanted.items():
            path = self.folder / shard_path(shard)
            try:
                stat = path.stat()
            except OSError:
                continue
            samples = [sample for sample in samples if sample.file.source not in still_refused]
            same = len(samples) == held[shard] and all(
                self._holds(sample, stat.st_mtime_ns, keep_blank=keep_blank) for sample in samples
            )
            if same and self._is_intact(path, stat, index.shards[shard]):
                unchanged[shard] = index.shards[shard]
        return unchanged

    def mark_incomplete(self, recipe: Recipe, split: str, seed: int) -> None:
        """Marks the cache as unfinished: nobody can open it until cache.json is written again."""
        if self.complete:
            replace(self.folder / INDEX, self.folder / UNFINISHED)
        elif self.index is None:
            CacheIndex(recipe, split, seed, (), "", "").write(self.folder, UNFINISHED)
            (self.folder / INDEX).unlink(missing_ok=True)
        self.complete = False
        (self.folder / SHARDS).mkdir(exist_ok=True)
        sync_folder(self.folder)

    def _holds(self, sample: ListedSample, mtime_ns: int, *, keep_blank: bool) -> bool:
        row, file = self.rows.get(sample.id), sample.file
        return (
            row is not None
            and row.source == file.source
            and row.source_bytes == file.nbytes
            and row.source_mtime_ns == file.mtime_ns
            and file.ctime_ns < mtime_ns
            and row.grade == sample.grade
            and row.patient == sample.patient
            and row.split == split_of(sample.split, row.flags.split(), keep_blank=keep_blank)
        )

    def _is_intact(self, path: Path, stat: os.stat_result, record: ShardRecord) -> bool:
        if stat.st_size != record.nbytes:
            return False
        if changed_ns(stat) <= changed_ns((self.folder / INDEX).stat()):
            return True
        self.verified = True
        return sha256_of(path) == record.sha256


def _salvage(manifest: Path) -> list[tuple[str, str]]:
    """(patient, split) of the rows of a damaged manifest that can still be read."""
    try:
        lines = manifest.read_bytes().decode("utf-8", "surrogateescape").splitlines()
        rows = [next(csv.reader([line]), []) for line in lines]
    except (OSError, csv.Error):
        return []
    patient, split = COLUMNS.index("patient"), COLUMNS.index("split")
    return [(row[patient], row[split]) for row in rows if len(row) == len(COLUMNS) and row[split] in SPLITS]
