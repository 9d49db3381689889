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
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final

from pipeline.cache.folder import claim, sweep
from pipeline.cache.index import CacheIndex, ShardRecord
from pipeline.cache.manifest import Row, manifest_csv
from pipeline.cache.shards import shard_count, shard_of, sort_key
from pipeline.cache.writing import make_row, make_tables, with_tables
from pipeline.errors import CacheError, ClusterError, SourceError
from pipeline.photos.discovery import Refusal
from pipeline.photos.fingerprint import MOST
from pipeline.photos.preparation import Recipe
from pipeline.storage.artifacts import INDEX, SHARDS
from pipeline.storage.atomic import write_whole
from pipeline.storage.url import Url
from tools.preprocessing.build_shards import CLOCK_SLACK_NS, Built, Group, put_in_place
from tools.preprocessing.copies import Copy, copies_across_splits
from tools.preprocessing.executors import Crew, on_this_machine
from tools.preprocessing.existing_cache import IGNORED, NOT_USED, Previous
from tools.preprocessing.splits import place
from tools.sources.listing import UNGRADABLE, Listing, Sample

MANY_REFUSED: Final = 100
"""Fewer refused photographs than this never stop a run: a small set may have its share of bad files. So many in a row
always do, unless every photograph may be refused."""

Progress = Callable[[int, int], None]  # (photographs done, of how many)


@dataclass(frozen=True)
class Settings:
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
    settings: Settings,
    progress: Progress,
    placed: Callable[[int], None] = lambda shard: None,
) -> Outcome:
    """Makes or updates the cache `out`. `placed` is told of each shard as soon as it is finished.

    Raises SourceError where too much is refused, CacheError where `out` is not ours to write or a worker dies,
    ClusterError where a Dask cluster cannot do the work.
    """
    began, began_ns = time.perf_counter(), time.time_ns() - CLOCK_SLACK_NS
    if settings.strict and (refused := listing.refused + listing.rows):
        raise SourceError(f"--strict: {refused[0].source}: {refused[0].reason} ({len(refused)} refused in all)")
    with claim(out):
        try:
            previous = Previous.read(out)
            previous.check_replaced(listing)
            forgotten = previous.forgotten(listing)
            count = shard_count(len(listing.samples))
            wanted: dict[int, list[Sample]] = {shard: [] for shard in range(count)}
            for sample in sorted(listing.samples, key=lambda sample: sort_key(sample.id)):
                wanted[shard_of(sample.id, count)].append(sample)
            still_refused = previous.still_refused(listing.samples, recipe)
            kept = previous.untouched(wanted, still_refused, recipe)
            in_kept = {sample.found.source for shard in kept for sample in wanted[shard]}
            refused = [Refusal(source, reason) for source, reason in still_refused.items() if source in in_kept]
            _stop_if_many(refused, listing, settings)
            in_a_row = MANY_REFUSED if settings.max_rejects < 1 else 0
            groups = _group(listing.root, out, recipe, wanted, kept, previous, still_refused, in_a_row, began_ns)
            built: list[Built] = []
            if groups:
                with _crew(settings, groups) as crew:  # which may not be had: before the cache is touched
                    previous.mark_incomplete(recipe, settings.split, settings.split_seed)
                    built = _build(crew, groups, refused, listing, settings, progress, placed)

            records = dict(kept)
            rows = [row for row in previous.rows.values() if row.shard in kept]
            samples = {sample.id: sample for sample in listing.samples}
            for part in built:
                records |= part.records
                for shard, entries in part.entries.items():
                    for entry in entries:
                        sample = samples[entry.id]
                        rows.append(make_row(entry, shard, sample.grade, sample.found))
            unusable = [Refusal(source, f"{NOT_USED}{reason}") for source, reason in listing.refused]
            refused = sorted(unusable + refused + [refusal for part in built for refusal in part.refused])
            if not rows:
                raise SourceError(
                    f"{listing.root}: every photograph is refused, e.g. {refused[0].source}: {refused[0].reason}"
                )
            rows, notes = _place(rows, samples, settings, previous)

            shards = tuple(records[shard] for shard in range(count))
            index = CacheIndex(
                recipe,
                settings.split,
                settings.split_seed,
                shards,
                "",
                "",
                listing.scale.name,
                listing.scale.exact,
                options=listing.options,
            )
            copies, shown = previous.copies(shards, rows), []
            if copies is None:
                shown = copies_across_splits(out, rows) if len(rows) <= MOST else []
                copies = len(shown)
            if len(rows) > MOST:
                notes = [*notes, f"copies across splits were not looked for: {len(rows):,} photographs are too many"]
            cells = [(row.id, *samples[row.id].kept) for row in rows] if listing.kept else None
            files = make_tables(rows, _rejects(refused, listing), cells, listing.kept)
            changed = _finish(out, replace(index, copies=copies), files, previous, began_ns) or bool(groups)
            encoded = sum(part.encoded for part in built)
            seconds = time.perf_counter() - began
            return Outcome(rows, refused, encoded, seconds, changed, forgotten + notes, copies, shown)
        except OSError as error:
            raise CacheError(
                f"{out}: cannot be written ({error.strerror}); the same command goes on from there"
            ) from error


def _group(
    root: Path | Url,
    out: Path,
    recipe: Recipe,
    wanted: dict[int, list[Sample]],
    kept: dict[int, ShardRecord],
    previous: Previous,
    still_refused: dict[str, str],
    in_a_row: int,
    dated: int,
) -> list[Group]:
    """The work: shards that must be built, together where they share predecessors.

    Numbers of shards are powers of two, so a sample's shard in any of them is the same modulo the smallest.
    """
    modulus = min(len(wanted), previous.shard_count or len(wanted))
    files: dict[int, list[Path]] = defaultdict(list)
    for number, path in previous.shard_files().items():
        files[number % modulus].append(path.absolute())
    mtimes = {row.source: row.source_mtime_ns for row in previous.rows.values()}
    groups = []
    for remainder in range(modulus):
        shards = {shard: wanted[shard] for shard in range(len(wanted) - modulus + remainder, -1, -modulus)}
        shards = {shard: samples for shard, samples in shards.items() if shard not in kept}
        if shards:
            sources = {sample.found.source for samples in shards.values() for sample in samples}
            refused = {source: still_refused[source] for source in sources & still_refused.keys()}
            known = {source: mtimes[source] for source in sources & mtimes.keys()}
            old = files[remainder]
            source = root if isinstance(root, Url) else root.absolute()
            where = (source, (out / SHARDS).absolute())
            groups.append(Group(*where, recipe, shards, old, refused, known, in_a_row, dated, threads=1))
    return groups


def _crew(settings: Settings, groups: list[Group]) -> AbstractContextManager[Crew]:
    if settings.scheduler is None:
        return on_this_machine(settings.workers, len(groups))
    try:
        from tools.preprocessing.dask_executor import on_cluster
    except ImportError as error:
        raise ClusterError("--scheduler needs Dask: pip install 'fundus-grading[dask]'") from error
    return on_cluster(settings.scheduler, groups)


def _build(
    crew: Crew,
    groups: list[Group],
    refused: list[Refusal],
    listing: Listing,
    settings: Settings,
    progress: Progress,
    placed: Callable[[int], None],
) -> list[Built]:
    """Gives the groups to the crew, few ahead of the work: millions of photographs are never all on their way."""
    total = sum(len(samples) for group in groups for samples in group.shards.values())
    folder, waiting = groups[0].folder, iter(groups)
    built: list[Built] = []
    pending = {crew.submit(group) for group in islice(waiting, crew.wanted())}
    while pending:
        finished, pending = wait(pending, timeout=0.25, return_when=FIRST_COMPLETED)
        for future in finished:
            built.append(future.result())
            put_in_place(built[-1], folder)
            for shard in built[-1].records:
                placed(shard)
        progress(crew.photographs(), total)
        _stop_if_many(refused + [refusal for part in built for refusal in part.refused], listing, settings)
        pending |= {crew.submit(group) for group in islice(waiting, max(0, crew.wanted() - len(pending)))}
    return built


def _stop_if_many(refused: list[Refusal], listing: Listing, settings: Settings) -> None:
    """Raises SourceError where more photographs could not be read than the settings allow."""
    if refused and settings.strict:
        raise SourceError(f"--strict: {refused[0].source}: {refused[0].reason}")
    if len(refused) > max(MANY_REFUSED, settings.max_rejects * listing.found):
        raise SourceError(
            f"{len(refused)} of {listing.found} photographs are refused, more than --max-rejects allows; "
            f"is the disk ill? e.g. {refused[0].source}: {refused[0].reason}"
        )


def _place(
    rows: list[Row], samples: dict[str, Sample], settings: Settings, previous: Previous
) -> tuple[list[Row], list[str]]:
    """The rows with patients, eyes and splits, sorted by id; and what is to be said of it.

    A damaged manifest is made anew; if that is not what it was, some sides had a history, of which its remains tell.
    """
    if previous.remains and previous.index:
        anew = _placed(rows, samples, settings, [])
        if sha256(manifest_csv(anew)).hexdigest() == previous.index.manifest:
            return anew, []
    placed = _placed(rows, samples, settings, previous.sides(settings.split, settings.split_seed))
    return placed, previous.losses()


def _placed(
    rows: list[Row], samples: dict[str, Sample], settings: Settings, recorded: list[tuple[str, str]]
) -> list[Row]:
    """Blank photographs take no part unless asked for."""
    places = place(
        [samples[row.id] for row in rows],
        whole=settings.split if settings.split in ("train", "test") else "",
        keep_layout=settings.split != "patient",
        seed=settings.split_seed,
        recorded=recorded,
    )
    placed = []
    for row in sorted(rows, key=lambda row: row.id):
        it, sample = places[row.id], samples[row.id]
        flags = [flag for flag in row.flags.split() if flag != UNGRADABLE]
        takes_part = settings.keep_blank or "blank" not in flags
        flags = sorted([*flags, UNGRADABLE]) if sample.ungradable else flags
        split = it.split if takes_part else ""
        placed.append(
            row._replace(patient=it.patient, eye=it.eye, grade=sample.grade, split=split, flags=" ".join(flags))
        )
    return placed


def _rejects(refused: list[Refusal], listing: Listing) -> list[Refusal]:
    """The lines of rejects.csv: photographs that cannot be read or used, those nobody asked for, rows without one."""
    ignored = [Refusal(source, f"{IGNORED}{reason}") for source, reason in listing.ignored]
    return sorted(refused + ignored) + listing.rows


def _finish(out: Path, index: CacheIndex, files: dict[str, bytes], previous: Previous, began_ns: int) -> bool:
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
