"""Folds of a cache for cross-validation. Each fold is an ordinary cache with other splits and the same shards."""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cache.cache import Cache, open_cache
from pipeline.cache.index import ATTRIBUTES, MANIFEST, REJECTS, CacheIndex
from pipeline.cache.manifest import Row, manifest_csv
from pipeline.cache.splits import SPLIT_FRACTIONS, draw_splits, patients_of
from pipeline.errors import CacheError
from pipeline.grades import UNKNOWN
from pipeline.storage.artifacts import INDEX, SHARDS
from pipeline.storage.atomic import write_atomically
from pipeline.storage.paths import sha256_of

NOBODY_JOINED: Final[Mapping[str, str]] = MappingProxyType({})
"""The value of `joined` if no patients have to stay together."""


def fold_splits(
    manifest: pd.DataFrame, folds: int, seed: int, *, with_test: bool = False, joined: Mapping[str, str] = NOBODY_JOINED
) -> list["pd.Series[str]"]:
    """For each fold a column of splits (rows,): test is the fold, val is 1/8 of the other patients, train is the rest.

    Patients are drawn, stratified by the worst grade of their photographs. Photographs that are not in `folded_rows`
    are in no split.

    with_test: fold the photographs of test too. joined: patient -> a common name, for patients who must stay together;
    they are drawn as one patient.

    Raises CacheError if there are fewer than two patients per fold.
    """
    pool = np.isin(np.arange(len(manifest)), folded_rows(manifest, with_test=with_test))
    patients = patients_of(manifest, manifest["id"]).map(lambda patient: joined.get(patient, patient))
    worst: dict[str, int] = {}
    for patient, grade in zip(patients[pool], manifest["grade"][pool], strict=True):
        worst[patient] = max(grade, worst.get(patient, 0))
    if len(worst) < 2 * folds:
        who = "1 patient is" if len(worst) == 1 else f"{len(worst)} patients are"
        raise CacheError(f"{who} too few for {folds} folds: each fold needs at least two")
    fold_of = draw_splits(worst, {str(fold): 1 / folds for fold in range(folds)}, seed, {})
    without_test = {name: fraction for name, fraction in SPLIT_FRACTIONS.items() if name != "test"}
    fractions = {name: fraction / sum(without_test.values()) for name, fraction in without_test.items()}
    columns = []
    for fold in range(folds):
        others = {patient: grade for patient, grade in worst.items() if fold_of[patient] != str(fold)}
        split_of = draw_splits(others, fractions, seed, {}) | dict.fromkeys(worst.keys() - others.keys(), "test")
        columns.append(patients.map(split_of).where(pool, "").fillna(""))
    return columns


def folded_rows(manifest: pd.DataFrame, *, with_test: bool) -> NDArray[np.int64]:
    """(n,) rows of the graded photographs of train and val, and with `with_test` those of test too."""
    splits = ["train", "val", *(["test"] if with_test else [])]
    return np.flatnonzero((manifest["grade"] != UNKNOWN) & manifest["split"].isin(splits))


def check_foldable(cache: Cache) -> Path:
    """The cache's folder. Raises CacheError if the cache is behind a URL, because folds link to its files."""
    if not isinstance(cache.path, Path):
        raise CacheError(f"{cache.path}: folds need a cache on this machine; copy it here first")
    return cache.path


def write_fold(cache: Cache, folder: Path, splits: "pd.Series[str]", name: str) -> Path:
    """Writes a cache with other splits (rows,) into `folder`, and returns it. Its shards are links to those of `cache`.

    If the folder has this cache already, nothing is written.
    name: how the splits were drawn, for cache.json.

    Raises CacheError if the cache is behind a URL or the folder cannot be written.
    """
    source = check_foldable(cache)
    manifest = manifest_csv(Row(*row) for row in cache.manifest.assign(split=splits).itertuples(index=False, name=None))
    digest = sha256(manifest).hexdigest()
    index = replace(cache.index, split=name, manifest=digest, copies=0)
    try:
        if (folder / INDEX).exists() and CacheIndex.read(folder) == index and sha256_of(folder / MANIFEST) == digest:
            return folder
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
        (folder / INDEX).unlink(missing_ok=True)
        _link(index.shard_digests, source, folder)
        for kept in (REJECTS, *([ATTRIBUTES] if index.attributes else [])):
            shutil.copyfile(source / kept, folder / kept)
        with write_atomically(folder / MANIFEST) as file:
            file.write(manifest)
        index.write(folder)
    except OSError as error:
        raise CacheError(f"{folder}: cannot be written ({error.strerror})") from error
    return folder


def has_other_splits(folder: Path, splits: "pd.Series[str]") -> bool:
    """Whether the folder has a finished fold with other splits than these (rows,)."""
    try:
        return open_cache(folder).manifest["split"].tolist() != splits.tolist()
    except CacheError:  # missing or unfinished
        return False


def _link(names: Iterable[str], source: Path, folder: Path) -> None:
    """Makes hard links, which need no disk space and survive a move of the cache. Copies if links are not possible."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
        try:
            os.link(source / name, folder / name)
        except OSError:
            shutil.copyfile(source / name, folder / name)
