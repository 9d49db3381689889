"""`tools audit`: finds leaks, duplicates and contradictions before training."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cache.baselines import Baseline, no_image_baselines
from pipeline.cache.cache import open_cache
from pipeline.cache.shards import scan_tar
from pipeline.errors import PhotoError, SourceError
from pipeline.grades import UNKNOWN
from pipeline.photos.discovery import Found, walk
from pipeline.photos.fingerprint import SIDE, fingerprint, near_duplicates
from pipeline.photos.preparation import Recipe, prepare
from pipeline.storage.artifacts import INDEX
from pipeline.storage.paths import exists
from pipeline.storage.url import Url
from pipeline.threads import ThreadPool
from tools.preprocessing.splits import Assignment, assign_splits
from tools.preprocessing.summary import SHOWN, grades_by_split, leak_lines
from tools.sources.archives import read_source
from tools.sources.label_tables import LabelTable
from tools.sources.layouts import list_source, tables_alone
from tools.sources.listing import ListedSample, Listing
from tools.sources.patients import with_patients


class Signature(NamedTuple):
    """What identifies a photograph."""

    sha256: str  # of the original file
    fingerprint: NDArray[np.float32]  # (SIDE * SIDE,), of its vessels, with length 1


def audit(target: Path | Url) -> str:
    """The report, as text, on a cache, on a folder of photographs, or on tables alone.

    Raises SourceError or CacheError if the target is none of these.
    """
    signatures: dict[str, Signature] = {}
    if exists(target / INDEX):
        with open_cache(target) as cache:
            table, lines = cache.manifest, [f"cache {target}: {len(cache.manifest):,} photographs"]
            for shard in range(len(cache.index.shards)):
                for entry in scan_tar(cache.map_shard(shard)):
                    signatures[entry.id] = Signature(entry.meta.get("source_sha256", ""), fingerprint(entry.jpeg))
    elif (
        isinstance(target, Url)
        or not os.path.isdir(target)
        or walk(target).photographs
        or (alone := tables_alone(target)) is None
    ):
        listing = list_source(target)
        table = _table(listing.samples, assign_splits(listing.samples))
        lines = [f"layout: {listing.layout}; splits as `tools preprocess` would assign them", *_unread(listing)]
        lines += _contradictions(listing)
        signatures = _signatures(listing)
    else:
        table, lines = _of_tables(*alone)
    if (table["grade"] != UNKNOWN).any():
        lines.append(grades_by_split(table))
    lines += leak_lines(table)
    if signatures:
        lines += _duplicates(table, signatures)
    return "\n".join([*lines, *_baselines(table)])


def _signatures(listing: Listing) -> dict[str, Signature]:
    recipe = Recipe(4 * SIDE)  # cropped as in a cache: copies may have other borders

    def signature(sample: ListedSample) -> tuple[str, Signature] | None:
        try:
            data = read_source(listing.root, sample.file.source)
            return sample.id, Signature(hashlib.sha256(data).hexdigest(), fingerprint(prepare(data, recipe).jpeg))
        except (OSError, PhotoError):
            return None  # `tools preprocess` reports files that cannot be read

    with ThreadPool() as pool:
        return dict(filter(None, pool.map(signature, listing.samples)))


def _of_tables(layout: str, tables: list[LabelTable]) -> tuple[pd.DataFrame, list[str]]:
    """(a manifest of the rows of tables, lines of the report)."""
    samples = []
    for table in tables:
        for number, cells in table.rows:
            label, name = table.label(cells), cells[table.columns.photograph]
            if label.error:
                raise SourceError(f"{table.where(number)}: {label.error}")
            grade, split = max(label.grade, UNKNOWN), label.split or table.split
            samples.append(ListedSample(name, Found(name, 0, 0, 0), grade, split, label.patient, label.eye))
    if len({sample.split for sample in samples}) == 1:
        samples = [sample._replace(split="") for sample in samples]
    samples = with_patients(samples, None, {}).samples
    assignments = dict(zip((sample.id for sample in samples), _as_published(samples), strict=True))
    manifest = _table(samples, assignments)
    doubled = int(manifest["id"].duplicated().sum())
    contradicting = int((manifest.groupby("id")["grade"].nunique() > 1).sum())
    return manifest, [
        f"layout: {layout}; no photographs, so the tables alone",
        f"rows: {len(manifest):,}, of them doubled {doubled}, contradicting {contradicting}",
    ]


def _as_published(samples: list[ListedSample]) -> Iterator[Assignment]:
    """Assignments without a val part drawn from train: the splits are those that the tables were published with."""
    drawn = assign_splits(samples)
    return (drawn[sample.id]._replace(split=sample.split or drawn[sample.id].split) for sample in samples)


def _table(samples: list[ListedSample], assignments: dict[str, Assignment]) -> pd.DataFrame:
    rows = [(sample.id, *assignments[sample.id], sample.grade) for sample in samples]
    return pd.DataFrame(rows, columns=["id", "patient", "eye", "split", "grade"])


def _unread(listing: Listing) -> list[str]:
    """Warnings on SRC, with advice: this command has no options that say how to read SRC."""
    warned = [f"WARNING: {warning}" for warning in listing.warnings]
    advice = "`tools preprocess` has options that say how to read it; then audit its cache: `tools audit CACHE`"
    return [*warned, advice] if warned else []


def _contradictions(listing: Listing) -> list[str]:
    contradictions = [refusal for refusal in listing.refused if "contradict" in refusal.reason]
    return [f"contradicting rows: {len(contradictions)}"] + [
        f"  {refusal.source}: {refusal.reason}" for refusal in contradictions[:SHOWN]
    ]


def _duplicates(table: pd.DataFrame, signatures: dict[str, Signature]) -> list[str]:
    """Pairs of equal files and of near-duplicates, and how many have different grades or splits."""
    ids = [id for id in table["id"] if id in signatures]
    grade, split = (dict(zip(table["id"], table[column], strict=True)) for column in ("grade", "split"))
    by_sha256: dict[str, list[str]] = defaultdict(list)
    for id in ids:
        by_sha256[signatures[id].sha256].append(id)
    copies = {(first, id): 1.0 for first, *rest in by_sha256.values() for id in rest}
    alike = {
        (ids[i], ids[j]): value
        for i, j, value in near_duplicates(np.stack([signatures[id].fingerprint for id in ids]))
        if signatures[ids[i]].sha256 != signatures[ids[j]].sha256
    }
    lines = []
    for title, pairs in (("same file", copies), ("near-duplicates", alike)):
        grades = sum(grade[a] != grade[b] for a, b in pairs)
        splits = sum(split[a] != split[b] for a, b in pairs)
        lines.append(f"{title}: {len(pairs)} pairs, {grades} with contradicting grades, {splits} across splits")
        for (a, b), value in sorted(pairs.items(), key=lambda pair: -pair[1])[:SHOWN]:
            described = [f"{id} (grade {grade[id]}, {split[id] or 'no split'})" for id in (a, b)]
            lines.append(f"  {described[0]} = {described[1]}" + (f", correlation {value:.3f}" if value < 1 else ""))
        if len(pairs) > SHOWN:
            lines.append(f"  and {len(pairs) - SHOWN} more")
    return lines


def _baselines(table: pd.DataFrame) -> list[str]:
    baselines = no_image_baselines(table)
    if baselines is None:
        return ["no-image baselines: none, for train or test has no graded photograph"]

    def lines(baseline: Baseline) -> list[str]:
        matrix = ["  ".join(f"{count:6d}" for count in row) for row in baseline.counts]
        accuracy = f"accuracy {baseline.accuracy:.2%}, quadratic weighted kappa {baseline.kappa:.3f}"
        return [f"  {baseline.name}: {accuracy}", *(f"    true {grade}: {row}" for grade, row in enumerate(matrix))]

    title = f"no-image baselines on {baselines.photographs:,} test photographs (columns: predicted grade 0..4)"
    fellow_eye = f"  {baselines.fellow_eye.name}: not available, for no patient of test has a photograph in train"
    return [title, *lines(baselines.majority), *(lines(baselines.fellow_eye) if baselines.leaked else [fellow_eye])]
