"""Patients who share a photograph under different names. Splits and folds must keep them together."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
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


class SharedPhoto(NamedTuple):
    """Two photographs, of two patients by name, that are copies of one."""

    id: str
    copy: str
    patient: str
    copy_patient: str
    correlation: float  # of their fingerprints; 1 where the cached bytes are the same


def shared_photos(cache: Cache, rows: NDArray[np.int64]) -> list[SharedPhoto]:
    """Copies among some rows under different patients, in the order of rows, blank photographs left out.

    The same bytes are found among any number; what only looks the same, among `MOST` photographs at most.

    Raises CacheError where a photograph's bytes are not those that were cached.
    """
    table = cache.manifest.iloc[rows]
    patients = patients_of(cache.manifest, table["id"]).to_numpy()
    not_blank = ~flagged(table, "blank").to_numpy()
    rows, patients = rows[not_blank], patients[not_blank]
    found = {pair: 1.0 for pair in _same_bytes(cache, rows) if patients[pair[0]] != patients[pair[1]]}
    if len(rows) <= MAX_COMPARED:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            vectors = list(pool.map(lambda row: coarse(fingerprint_or_zeros(cache.read(row))), rows.tolist()))
        for i, j in candidates(np.reshape(vectors, (len(rows), -1))):
            if patients[i] != patients[j] and (i, j) not in found:
                correlation = mirrored_correlation(
                    *(fingerprint_or_zeros(cache.read(int(rows[index]))) for index in (i, j))
                )
                if correlation > COPY_CORRELATION:
                    found[i, j] = correlation
    ids = cache.manifest["id"].iloc[rows].to_numpy()
    return [SharedPhoto(ids[i], ids[j], patients[i], patients[j], found[i, j]) for i, j in sorted(found)]


def joined_patients(shared: Iterable[SharedPhoto]) -> dict[str, str]:
    """For each patient who shares a photograph, the first by name of all whom such photographs join."""
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
    """Places in `rows` of photographs whose cached bytes are the same, each with the first of them."""
    marks = cache.manifest[["nbytes", "crc32"]].iloc[rows]
    firsts: dict[tuple[int, int], int] = {}
    pairs = (
        (firsts.setdefault(mark, index), index) for index, mark in enumerate(marks.itertuples(index=False, name=None))
    )
    return [(one, other) for one, other in pairs if one != other]
