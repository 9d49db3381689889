"""`tools preprocess`: bring a cache up to date with the photographs, the labels and the recipe.

A finished cache is a pure function of these and of the sides recorded for the patients. So nothing here asks how the
cache came about: what is wanted is worked out, what is there and still right is kept, the rest is built.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final

from pipeline.cache.folder import claim, sweep
from pipeline.cache.index import CacheIndex, ShardRecord
from pipeline.cache.manifest import UNGRADABLE, Row, manifest_csv
from pipeline.cache.rejects import IGNORED, NOT_USED
from pipeline.cache.shards import shard_count, shard_name, shard_of, sort_key
from pipeline.cache.writing import make_row, make_tables, with_tables
from pipeline.errors import CacheError, ClusterError, SourceError
from pipeline.photos.discovery import Refusal
from pipeline.photos.fingerprint import MOST
from pipeline.photos.preparation import Recipe
from pipeline.storage.artifacts import INDEX, SHARDS
from pipeline.storage.atomic import write_whole
from pipeline.storage.url import Url
from tools.preprocessing.build_shards import CLOCK_SLACK_NS, Built, Group, publish_shards
from tools.preprocessing.copies import Copy, copies_across_splits
from tools.preprocessing.executors import GroupExecutor, on_this_machine
from tools.preprocessing.existing_cache import ExistingCache
from tools.preprocessing.splits import Assignment, assign_splits, split_of
from tools.sources.listing import ListedSample, Listing

MANY_REFUSED: Final = 100
"""Fewer refused photographs than this never stop a run: a small set may have its share of bad files. So many in a row
always do, unless every photograph may be refused."""

Progress = Callable[[int, int], None]  # (photographs done, of how many)


@dataclass(frozen=True)
class PreprocessSettings:
    """How to preprocess, beside the recipe."""

    split: str = "auto"
    """auto: the set's splits where it brings them; patient: always drawn by patient; train, test: all photographs
    there; any other word: the set's splits, which a table of that name has given."""
    split_seed: int = 0
    keep_blank: bool = False
    workers: int = 1
    strict: bool = False
    max_rejects: float = 0.01  # of the photographs
    scheduler: str | None = None  # address of a Dask scheduler, whose workers then do the work


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    rows: list[Row]
    refused: list[Refusal]  # photographs
    encoded: int
    seconds: float
    changed: bool  # False: everything was there already, nothing was written
    notes: list[str]
    copies: int  # test photographs that look like one of train or val
    shown: list[Copy]  # those that were found now; none where nothing has changed


def preprocess(
    listing: Listing,
    out: Path,
    recipe: Recipe,
    settings: PreprocessSettings,
    progress: Progress,
    finished: Callable[[int], None] = lambda shard: None,
) -> Outcome:
    """Makes or updates the cache `out`. `finished` is called with the number of each shard that was written, once it is
    final.

    Raises SourceError where too much is refused, CacheError where `out` is not ours to write or a worker dies,
    ClusterError where a Dask cluster cannot do the work.
    """
    began, began_ns = time.perf_counter(), time.time_ns() - CLOCK_SLACK_NS
    if settings.strict and (refused := listing.refused + listing.rows):
        raise SourceError(f"--strict: {refused[0].source}: {refused[0].reason} ({len(refused)} refused in all)")
    with claim(out):
        try:
            update = _Update(listing, out, recipe, settings, progress, began_ns)
            update.build()
            notes = update.assign_splits()
            for shard in sorted(update.written):
                finished(shard)
            copies, shown = update.copies()
            if len(update.rows) > MOST:
                notes.append(f"copies across splits were not looked for: {len(update.rows):,} photographs are too many")
            changed = update.finish(copies)
        except OSError as error:
            raise CacheError(
                f"{out}: cannot be written ({error.strerror}); run the same command to continue"
            ) from error
    seconds = time.perf_counter() - began
    return Outcome(update.rows, update.refused, update.encoded, seconds, changed, notes, copies, shown)


class _Update:
    """A cache on the way from what is there to what is wanted. Its methods are called in their order, once each."""

    def __init__(
        self,
        listing: Listing,
        out: Path,
        recipe: Recipe,
        settings: PreprocessSettings,
        progress: Progress,
        began_ns: int,
    ) -> None:
        self.listing, self.out, self.recipe, self.settings = listing, out, recipe, settings
        self._progress, self._began_ns = progress, began_ns
        self.previous = ExistingCache.read(out)
        self.previous.check_replaced(listing)
        self.notes = self.previous.changed_options(listing)
        self.samples = {sample.id: sample for sample in listing.samples}
        self.still_refused = self.previous.still_refused(listing.samples, recipe)
        self.wanted = self._wanted()
        self.kept = self.previous.unchanged_shards(
            self.wanted, self.still_refused, recipe, keep_blank=settings.keep_blank
        )
        in_kept = {sample.file.source for shard in self.kept for sample in self.wanted[shard]}
        self.refused = [Refusal(source, reason) for source, reason in self.still_refused.items() if source in in_kept]
        self.records = dict(self.kept)
        self.rows = [row for row in self.previous.rows.values() if row.shard in self.kept]
        self.written = set[int]()
        """Shards."""
        self.encoded = 0
        """Photographs."""

    def build(self) -> None:
        """Builds the shards that are not there as they are wanted."""
        _stop_if_many(self.refused, self.listing, self.settings)
        built = self._run(self._groups(), self.refused)
        for part in built:
            for shard, entries in part.entries.items():
                for entry in entries:
                    sample = self.samples[entry.id]
                    self.rows.append(make_row(entry, shard, sample.grade, sample.file))
        self.encoded = sum(part.encoded for part in built)
        unusable = [Refusal(source, f"{NOT_USED}{reason}") for source, reason in self.listing.refused]
        self.refused = sorted(unusable + self.refused + [refusal for part in built for refusal in part.refused])
        if not self.rows:
            first = self.refused[0]
            raise SourceError(f"{self.listing.root}: every photograph is refused, e.g. {first.source}: {first.reason}")

    def assign_splits(self) -> list[str]:
        """Gives the rows their patients, eyes and splits, sorted by id, and returns what is to be said of it.

        A photograph that was refused only while shards were built may change what was drawn. The shards that tell
        another split then are written again; their JPEGs are copied.
        """
        told = {row.id: (row.patient, row.split) for row in self.rows}
        self.rows, losses = self._assigned_rows()
        wrong = {row.shard for row in self.rows if told[row.id] != (row.patient, row.split)}
        copied = self._run(self._copy_groups(wrong), [])
        offsets = {each.id: each.offset for part in copied for inside in part.entries.values() for each in inside}
        self.rows = [row._replace(offset=offsets.get(row.id, row.offset)) for row in self.rows]
        return self.notes + losses

    def copies(self) -> tuple[int, list[Copy]]:
        """How many test photographs look like one of train or val, and those that were looked for and found now."""
        known = self.previous.copies(self._shards(), self.rows)
        if known is not None:
            return known, []
        shown = copies_across_splits(self.out, self.rows) if len(self.rows) <= MOST else []
        return len(shown), shown

    def finish(self, copies: int) -> bool:
        """Writes the tables and cache.json. Returns whether anything was written at all."""
        listing, settings = self.listing, self.settings
        index = CacheIndex(
            self.recipe,
            settings.split,
            settings.split_seed,
            self._shards(),
            "",
            "",
            listing.scale.name,
            listing.scale.exact,
            copies=copies,
            options=listing.options,
            placed=True,
            data_set=listing.data_set,
        )
        cells = [(row.id, *self.samples[row.id].kept) for row in self.rows] if listing.kept else None
        files = make_tables(self.rows, _rejects(self.refused, listing), cells, listing.kept)
        return _finish(self.out, index, files, self.previous, self._began_ns) or bool(self.written)

    def _shards(self) -> tuple[ShardRecord, ...]:
        return tuple(self.records[shard] for shard in range(len(self.wanted)))

    def _wanted(self) -> dict[int, list[ListedSample]]:
        """The samples of each shard, in the order they are written, with the patients and splits that they have if no
        further photograph is refused and a damaged manifest had no history."""
        samples, settings, previous = self.listing.samples, self.settings, self.previous
        taken = [sample for sample in samples if sample.file.source not in self.still_refused]
        recorded = [] if previous.salvaged else previous.recorded_splits(settings.split, settings.split_seed)
        assignments = _assignments(taken, settings, recorded)
        count = shard_count(len(samples))
        wanted: dict[int, list[ListedSample]] = {shard: [] for shard in range(count)}
        for sample in sorted(samples, key=lambda sample: sort_key(sample.id)):
            if it := assignments.get(sample.id):
                sample = sample._replace(patient=it.patient, split=it.split)
            wanted[shard_of(sample.id, count)].append(sample)
        return wanted

    def _assigned_rows(self) -> tuple[list[Row], list[str]]:
        """A damaged manifest is made anew; if that is not what it was, some sides had a history, of which its remains
        tell."""
        previous, settings = self.previous, self.settings
        if previous.salvaged and previous.index:
            anew = _with_assignments(self.rows, self.samples, settings, [])
            if sha256(manifest_csv(anew)).hexdigest() == previous.index.manifest:
                return anew, []
        recorded = previous.recorded_splits(settings.split, settings.split_seed)
        return _with_assignments(self.rows, self.samples, settings, recorded), previous.lost_splits()

    def _groups(self) -> list[Group]:
        """The work: shards that must be built, together where they share predecessors.

        Numbers of shards are powers of two, so a sample's shard in any of them is the same modulo the smallest.
        """
        previous, count = self.previous, len(self.wanted)
        modulus = min(count, previous.shard_count or count)
        files: dict[int, list[Path]] = defaultdict(list)
        for number, path in previous.shard_files().items():
            files[number % modulus].append(path.absolute())
        mtimes = {row.source: row.source_mtime_ns for row in previous.rows.values()}
        groups = []
        for remainder in range(modulus):
            numbers = range(count - modulus + remainder, -1, -modulus)
            shards = {shard: self.wanted[shard] for shard in numbers if shard not in self.kept}
            if shards:
                sources = {sample.file.source for samples in shards.values() for sample in samples}
                group = self._group(shards, files[remainder])
                groups.append(
                    group._replace(
                        refused={source: self.still_refused[source] for source in sources & self.still_refused.keys()},
                        mtimes={source: mtimes[source] for source in sources & mtimes.keys()},
                        max_consecutive_refused=MANY_REFUSED if self.settings.max_rejects < 1 else 0,
                    )
                )
        return groups

    def _copy_groups(self, shards: set[int]) -> list[Group]:
        """The work where JSONs of finished shards tell another patient or split than the rows: JPEGs are copied."""
        inside: dict[int, list[ListedSample]] = {shard: [] for shard in sorted(shards)}
        for row in sorted(self.rows, key=lambda row: sort_key(row.id)):
            if row.shard in shards:
                inside[row.shard].append(self.samples[row.id]._replace(patient=row.patient, split=row.split))
        folder = (self.out / SHARDS).absolute()
        return [
            self._group({shard: held}, [folder / shard_name(shard)])._replace(keep_blank=True, copy=True)
            for shard, held in inside.items()
        ]

    def _group(self, shards: dict[int, list[ListedSample]], predecessors: list[Path]) -> Group:
        root = self.listing.root
        return Group(
            root=root if isinstance(root, Url) else root.absolute(),
            folder=(self.out / SHARDS).absolute(),
            recipe=self.recipe,
            shards=shards,
            predecessors=predecessors,
            refused={},
            mtimes={},
            max_consecutive_refused=0,
            mtime_ns=self._began_ns,
            threads=1,
            keep_blank=self.settings.keep_blank,
        )

    def _run(self, groups: list[Group], refused: list[Refusal]) -> list[Built]:
        """Does the work, few groups ahead of it: millions of photographs are never all on their way.

        refused: photographs that were refused before; these and new ones may be too many.
        """
        if not groups:
            return []
        total = sum(len(samples) for group in groups for samples in group.shards.values())
        built: list[Built] = []
        with _open_executor(self.settings, groups) as executor:  # which may not be had: before the cache is touched
            self.previous.mark_incomplete(self.recipe, self.settings.split, self.settings.split_seed)
            waiting = iter(groups)
            pending = {executor.submit(group) for group in islice(waiting, executor.wanted())}
            while pending:
                finished, pending = wait(pending, timeout=0.25, return_when=FIRST_COMPLETED)
                for future in finished:
                    built.append(future.result())
                    publish_shards(built[-1], groups[0].folder)
                self._progress(executor.photographs(), total)
                _stop_if_many(
                    refused + [refusal for part in built for refusal in part.refused], self.listing, self.settings
                )
                pending |= {
                    executor.submit(group) for group in islice(waiting, max(0, executor.wanted() - len(pending)))
                }
        for part in built:
            self.records |= part.records
            self.written |= part.records.keys()
        return built


def _open_executor(settings: PreprocessSettings, groups: list[Group]) -> AbstractContextManager[GroupExecutor]:
    if settings.scheduler is None:
        return on_this_machine(settings.workers, len(groups))
    try:
        from tools.preprocessing.dask_executor import on_cluster
    except ImportError as error:
        raise ClusterError("--scheduler needs Dask: pip install 'fundus-grading[dask]'") from error
    return on_cluster(settings.scheduler, groups)


def _stop_if_many(refused: list[Refusal], listing: Listing, settings: PreprocessSettings) -> None:
    """Raises SourceError where more photographs could not be read than the settings allow."""
    if refused and settings.strict:
        raise SourceError(f"--strict: {refused[0].source}: {refused[0].reason}")
    if len(refused) > max(MANY_REFUSED, settings.max_rejects * listing.found):
        raise SourceError(
            f"{len(refused)} of {listing.found} photographs are refused, more than --max-rejects allows; "
            f"the disk may be failing; e.g. {refused[0].source}: {refused[0].reason}"
        )


def _with_assignments(
    rows: list[Row], samples: dict[str, ListedSample], settings: PreprocessSettings, recorded: list[tuple[str, str]]
) -> list[Row]:
    assignments = _assignments([samples[row.id] for row in rows], settings, recorded)
    assigned = []
    for row in sorted(rows, key=lambda row: row.id):
        it, sample = assignments[row.id], samples[row.id]
        flags = [flag for flag in row.flags.split() if flag != UNGRADABLE]
        split = split_of(it.split, flags, keep_blank=settings.keep_blank)
        flags = sorted([*flags, UNGRADABLE]) if sample.ungradable else flags
        assigned.append(
            row._replace(patient=it.patient, eye=it.eye, grade=sample.grade, split=split, flags=" ".join(flags))
        )
    return assigned


def _assignments(
    samples: list[ListedSample], settings: PreprocessSettings, recorded: list[tuple[str, str]]
) -> dict[str, Assignment]:
    return assign_splits(
        samples,
        single_split=settings.split if settings.split in ("train", "test") else "",
        keep_layout=settings.split != "patient",
        seed=settings.split_seed,
        recorded=recorded,
    )


def _rejects(refused: list[Refusal], listing: Listing) -> list[Refusal]:
    """The lines of rejects.csv: photographs that cannot be read or used, those nobody asked for, rows without one."""
    ignored = [Refusal(source, f"{IGNORED}{reason}") for source, reason in listing.ignored]
    return sorted(refused + ignored) + listing.rows


def _finish(out: Path, index: CacheIndex, files: dict[str, bytes], previous: ExistingCache, began_ns: int) -> bool:
    """Writes what is not there yet, cache.json last. Returns whether anything was."""
    index = with_tables(index, files)
    stale = [name for name, data in files.items() if not (out / name).is_file() or (out / name).read_bytes() != data]
    fresh = previous.complete and previous.index == index and not stale
    if not fresh:
        previous.mark_incomplete(index.recipe, index.split, index.split_seed)
    for name in stale:
        with write_whole(out / name, began_ns) as file:
            file.write(files[name])
    if not fresh:
        index.write(out)
    sweep(out, index)
    if fresh and previous.verified:
        os.utime(out / INDEX)  # newer than the shards again: the next run need not read them
    return not fresh
