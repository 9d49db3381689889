"""Finds test photographs that are copies of a photograph of train or val with another name."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.manifest import Row
from pipeline.cache.shards import shard_path
from pipeline.photos.fingerprint import (
    CANDIDATE_CORRELATION,
    COPY_CORRELATION,
    coarse,
    fingerprint_or_zeros,
    mirrored,
    mirrored_correlation,
)
from pipeline.threads import ThreadPool

BLOCK: Final = 1024
"""Test photographs that are compared at a time."""


class Copy(NamedTuple):
    """A test photograph and one of train or val that looks the same."""

    test: str  # id
    other: str  # id
    correlation: float  # of their fingerprints, at most 1


def copies_across_splits(cache: Path, rows: Sequence[Row]) -> list[Copy]:
    """The test photographs that are copies of a photograph of train or val, each with the best match. A copy may have
    another size, brightness or quality, or may be mirrored."""
    test = [row for row in rows if row.split == "test" and "blank" not in row.flags.split()]
    rest = [row for row in rows if row.split in ("train", "val") and "blank" not in row.flags.split()]
    if not test or not rest:
        return []
    with ThreadPool(min(8, os.cpu_count() or 1)) as pool:
        prints = np.stack(list(pool.map(lambda row: coarse(_fingerprint(cache, row)), rest)))
        tested = list(pool.map(lambda row: _fingerprint(cache, row), test))
        copies = []
        for start in range(0, len(test), BLOCK):
            best = np.zeros(len(tested[start : start + BLOCK]), np.float32)
            at = np.zeros(len(best), np.int64)
            for mirror in range(4):
                block = np.stack([coarse(mirrored(each, mirror)) for each in tested[start : start + BLOCK]])
                correlation = block @ prints.T
                nearest, value = correlation.argmax(axis=1), correlation.max(axis=1)
                better = value > best
                best[better], at[better] = value[better], nearest[better]
            for number in np.flatnonzero(best > CANDIDATE_CORRELATION).tolist():
                mine, other = tested[start + number], _fingerprint(cache, rest[int(at[number])])
                value = mirrored_correlation(mine, other)
                if value > COPY_CORRELATION:
                    copies.append(Copy(test[start + number].id, rest[int(at[number])].id, value))
    return copies


def _fingerprint(cache: Path, row: Row) -> NDArray[np.float32]:
    with open(cache / shard_path(row.shard), "rb") as file:
        file.seek(row.offset)
        return fingerprint_or_zeros(file.read(row.nbytes))
