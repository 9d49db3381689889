"""Finds one patient under two names: both have a copy of the same photograph. Folds must keep them together."""

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.cache import Cache
from pipeline.cache.manifest import flagged
from pipeline.cache.splits import patients_of
from pipeline.photos.fingerprint import (
    COPY_CORRELATION,
    MAX_COMPARED,
    candidates,
    coarse,
    fingerprint_or_zeros,
    mirrored_correlation,
)
from pipeline.threads import ThreadPool


class SharedPhoto(NamedTuple):
    """Two copies of one photograph under two patients' names."""

    id: str
    copy: str
    patient: str
    copy_patient: str
    correlation: float  # of their fingerprints; 1 if the cached bytes are equal


def shared_photos(cache: Cache, rows: NDArray[np.int64]) -> list[SharedPhoto]:
    """Copies under different patients among rows (n,) of the manifest, in the order of `rows`. Blank photographs do not
    count.

    Copies with equal bytes are always found. Copies that only look alike are searched if there are at most MAX_COMPARED
    photographs.

    Raises CacheError if a photograph in the cache is damaged.
    """
    table = cache.manifest.iloc[rows]
    patients = patients_of(cache.manifest, table["id"]).to_numpy()
    not_blank = ~flagged(table, "blank").to_numpy()
    rows, patients = rows[not_blank], patients[not_blank]
    found = {pair: 1.0 for pair in _same_bytes(cache, rows) if patients[pair[0]] != patients[pair[1]]}
    if len(rows) <= MAX_COMPARED:
        vectors = [coarse(each) for each in fingerprints(cache, rows)]
        for i, j in candidates(np.reshape(vectors, (len(rows), -1))):
            if patients[i] != patients[j] and (i, j) not in found:
                correlation = mirrored_correlation(
                    *(fingerprint_or_zeros(cache.read(int(rows[index]))) for index in (i, j))
                )
                if correlation > COPY_CORRELATION:
                    found[i, j] = correlation
    ids = cache.manifest["id"].iloc[rows].to_numpy()
    return [SharedPhoto(ids[i], ids[j], patients[i], patients[j], found[i, j]) for i, j in sorted(found)]


def fingerprints(cache: Cache, rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """Yields the fingerprint of each of the rows (n,) of the manifest; zeros for one that cannot be decoded.

    Raises CacheError if a photograph in the cache is damaged.
    """
    with ThreadPool(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(lambda row: fingerprint_or_zeros(cache.read(row)), rows.tolist())


def joined_patients(shared: Iterable[SharedPhoto]) -> dict[str, str]:
    """patient -> the first name of all patients whom shared photographs link to it, directly or through others."""
    parent: dict[str, str] = {}

    def root(patient: str) -> str:
        while parent[patient] != patient:
            patient = parent[patient]
        return patient

    for photo in shared:
        for patient in (photo.patient, photo.copy_patient):
            parent.setdefault(patient, patient)
        one, other = sorted((root(photo.patient), root(photo.copy_patient)))
        parent[other] = one
    return {patient: root(patient) for patient in parent}


def _same_bytes(cache: Cache, rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Pairs of positions in `rows` of photographs with equal bytes: each with the first of its copies."""
    marks = cache.manifest[["nbytes", "crc32"]].iloc[rows]
    firsts: dict[tuple[int, int], int] = {}
    pairs = (
        (firsts.setdefault(mark, index), index) for index, mark in enumerate(marks.itertuples(index=False, name=None))
    )
    return [(one, other) for one, other in pairs if one != other]
