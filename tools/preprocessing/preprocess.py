"""`tools preprocess`: brings a cache up to date with the photographs, the labels and the recipe.

A finished cache is a pure function of these and of the recorded splits of the patients. So the history of a cache does
not matter here: the wanted shards are worked out, those that are there and right are kept, and the others are built.
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
from pipeline.photos.fingerprint import MAX_COMPARED
from pipeline.photos.preparation import Recipe
from pipeline.storage.artifacts import INDEX, SHARDS
from pipeline.storage.atomic import write_atomically
from pipeline.storage.url import Url
from pipeline.threads import result_of, signals_delayed
from tools.preprocessing.build_shards import CLOCK_SLACK_NS, Built, Group, publish_shards
from tools.preprocessing.copies import Copy, copies_across_splits
from tools.preprocessing.executors import GroupExecutor, on_this_machine
from tools.preprocessing.existing_cache import ExistingCache
from tools.preprocessing.splits import Assignment, assign_splits, split_of
from tools.sources.listing import ListedSample, Listing

MANY_REFUSED: Final = 100
"""Fewer refused photographs than this never stop a run: a small data set may have some bad files. This many in a
row always stop it, unless --max-rejects is 1."""

Progress = Callable[[int, int], None]  # (photographs done, photographs in total)


@dataclass(frozen=True)
class PreprocessSettings:
    """How to make a cache, apart from the recipe."""

    split: str = "auto"
    """auto: the splits of the data set, else drawn by patient; patient: always drawn by patient; train, test: all
    photographs in that split; any other word: the splits of the table with that name."""
    split_seed: int = 0
    keep_blank: bool = False
    workers: int = 1
    strict: bool = False
    max_rejects: float = 0.01  # fraction of the photographs
    scheduler: str | None = None  # address of a Dask scheduler, whose workers do the work


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    rows: list[Row]
    refused: list[Refusal]  # photographs
    encoded: int
    seconds: float
    changed: bool  # whether anything was written
    notes: list[str]
    copies: int  # test photographs that look like one of train or val
    shown: list[Copy]  # these copies, if they were searched for in this run


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

    Raises SourceError if too many photographs are refused, CacheError if `out` cannot be written or a worker dies,
    ClusterError if a Dask cluster cannot do the work.
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
            if len(update.rows) > MAX_COMPARED:
                notes.append(
                    f"copies across splits were not searched for: {len(update.rows):,} photographs are too many"
                )
            changed = update.finish(copies)
        except OSError as error:
            raise CacheError(
                f"{out}: cannot be written ({error.strerror}); run the same command to continue"
            ) from error
    seconds = time.perf_counter() - began
    return Outcome(update.rows, update.refused, update.encoded, seconds, changed, notes, copies, shown)


class _Update:
    """One update of a cache. The public methods are called once each, in their order."""

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
        self.written = set[int]()  # shards
        self.encoded = 0  # photographs

    def build(self) -> None:
        """Builds the wanted shards that are not there."""
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
        """Gives the rows, sorted by id, their patients, eyes and splits. Returns notes for the user.

        If a photograph was refused while shards were built, other splits may be drawn. Shards whose JSONs have another
        split are then written again; their JPEGs are copied.
        """
        in_shards = {row.id: (row.patient, row.split) for row in self.rows}
        self.rows, lost = self._assigned_rows()
        wrong = {row.shard for row in self.rows if in_shards[row.id] != (row.patient, row.split)}
        copied = self._run(self._copy_groups(wrong), [])
        offsets = {each.id: each.offset for part in copied for entries in part.entries.values() for each in entries}
        self.rows = [row._replace(offset=offsets.get(row.id, row.offset)) for row in self.rows]
        return self.notes + lost

    def copies(self) -> tuple[int, list[Copy]]:
        """(number of test photographs that look like one of train or val, those found in this run)."""
        known = self.previous.copies(self._shards(), self.rows)
        if known is not None:
            return known, []
        shown = copies_across_splits(self.out, self.rows) if len(self.rows) <= MAX_COMPARED else []
        return len(shown), shown

    def finish(self, copies: int) -> bool:
        """Writes the tables and cache.json. Returns whether this run has written anything."""
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
        """The samples of each shard, in the order of the file. Their patients and splits are right if no further
        photograph is refused and if a damaged manifest can be made again without recorded splits."""
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
        """(the rows with patients, eyes and splits; notes for the user).

        A damaged manifest is made again without recorded splits. If its checksum differs, some splits came from earlier
        runs; they are taken from the rows that can still be read.
        """
        previous, settings = self.previous, self.settings
        if previous.salvaged and previous.index:
            remade = _with_assignments(self.rows, self.samples, settings, [])
            if sha256(manifest_csv(remade)).hexdigest() == previous.index.manifest:
                return remade, []
        recorded = previous.recorded_splits(settings.split, settings.split_seed)
        return _with_assignments(self.rows, self.samples, settings, recorded), previous.lost_splits()

    def _groups(self) -> list[Group]:
        """The shards that must be built; those that share predecessors are one group.

        The number of shards is a power of two, so the shard of a sample is the same modulo the smaller number.
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
        """Groups that write finished shards again, with other patients and splits in the JSONs; JPEGs are copied."""
        samples: dict[int, list[ListedSample]] = {shard: [] for shard in sorted(shards)}
        for row in sorted(self.rows, key=lambda row: sort_key(row.id)):
            if row.shard in shards:
                samples[row.shard].append(self.samples[row.id]._replace(patient=row.patient, split=row.split))
        folder = (self.out / SHARDS).absolute()
        return [
            self._group({shard: in_shard}, [folder / shard_name(shard)])._replace(keep_blank=True, copy=True)
            for shard, in_shard in samples.items()
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
        """Builds groups. Only few wait at a time, so memory does not grow with the number of photographs.

        refused: photographs that were refused before; together with new ones they may be too many.
        """
        if not groups:
            return []
        total = sum(len(samples) for group in groups for samples in group.shards.values())
        built: list[Built] = []
        with _open_executor(self.settings, groups) as executor:  # may fail: before the cache is changed
            self.previous.mark_incomplete(self.recipe, self.settings.split, self.settings.split_seed)
            waiting = iter(groups)
            pending = {executor.submit(group) for group in islice(waiting, executor.wanted())}
            while pending:
                with signals_delayed():  # see ThreadPool
                    finished, pending = wait(pending, timeout=0.25, return_when=FIRST_COMPLETED)
                for future in finished:
                    built.append(result_of(future))
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
    """Processes of this machine, or the workers of a Dask scheduler."""
    if settings.scheduler is None:
        return on_this_machine(settings.workers, len(groups))
    try:
        from tools.preprocessing.dask_executor import on_cluster
    except ImportError as error:
        raise ClusterError("--scheduler needs Dask: pip install 'fundus-grading[dask]'") from error
    return on_cluster(settings.scheduler, groups)


def _stop_if_many(refused: list[Refusal], listing: Listing, settings: PreprocessSettings) -> None:
    """Raises SourceError if more photographs are refused than the settings allow."""
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
    """The lines of rejects.csv: photographs refused and ignored, and rows without a photograph."""
    ignored = [Refusal(source, f"{IGNORED}{reason}") for source, reason in listing.ignored]
    return sorted(refused + ignored) + listing.rows


def _finish(out: Path, index: CacheIndex, files: dict[str, bytes], previous: ExistingCache, began_ns: int) -> bool:
    """Writes the files that have changed, cache.json last. Returns whether there were any."""
    index = with_tables(index, files)
    changed = [name for name, data in files.items() if not (out / name).is_file() or (out / name).read_bytes() != data]
    up_to_date = previous.complete and previous.index == index and not changed
    if not up_to_date:
        previous.mark_incomplete(index.recipe, index.split, index.split_seed)
    for name in changed:
        with write_atomically(out / name, began_ns) as file:
            file.write(files[name])
    if not up_to_date:
        index.write(out)
    sweep(out, index)
    if up_to_date and previous.verified:
        os.utime(out / INDEX)  # now newer than the shards, so the next run need not read them
    return not up_to_date
