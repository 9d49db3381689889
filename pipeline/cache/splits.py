"""Patients and their splits: who a photograph shows, and how patients are drawn into train, val and test."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd

from pipeline.photos.photo import SUFFIXES
from pipeline.storage.csv_files import utf8

SPLITS: Final = ("train", "val", "test")
SHARES: Final = {"train": 0.7, "val": 0.1, "test": 0.2}
"""Of the patients, where the layout brings no split."""
PATIENT_PATTERN: Final = r"^(?P<patient>.+)_(?P<eye>left|right)$"
"""EyePACS: `17_left` and `17_right` are the eyes of patient 17."""


def parse_patient(id: str, pattern: re.Pattern[str]) -> tuple[str, str]:
    """(patient, eye) from an id: the pattern's groups `patient` (or its first) and `eye`, searched in the last part of
    the id without an image suffix. An id that does not match is a patient of its own, with no known eye.

    >>> parse_patient("train/17_left", re.compile(PATIENT_PATTERN))
    ('17', 'left')
    """
    name = id.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    match = pattern.search(stem if f"{dot}{suffix}".lower() in SUFFIXES else name)
    if match is None:
        return id, ""
    groups = match.groupdict()
    return groups.get("patient") or match[1], groups.get("eye") or ""


def draw_sides(
    patients: Mapping[str, int], shares: Mapping[str, float], seed: int, recorded: Mapping[str, str]
) -> dict[str, str]:
    """A side for every patient: grouped, stratified and seeded.

    `patients` maps a patient to its stratum (the worst grade of its eyes). Patients come in an order that only the
    seed and their names decide; each gets the side that is furthest behind its share, within its stratum and over
    all, so that both stay proportional. Those in `recorded` keep their side and count.
    """
    sides = list(shares)
    targets = np.array([shares[side] for side in sides])
    total = np.zeros(len(sides))
    by_stratum: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(len(sides)))
    drawn = {patient: side for patient, side in recorded.items() if patient in patients and side in shares}

    def place(patient: str, at: int) -> None:
        total[at] += 1
        by_stratum[patients[patient]][at] += 1

    for patient, side in drawn.items():
        place(patient, sides.index(side))
    new = [patient for patient in patients if patient not in drawn]
    for patient in sorted(new, key=lambda name: hashlib.sha256(utf8(f"{seed}/{name}")).digest()):
        stratum = by_stratum[patients[patient]]
        behind = targets * (total.sum() + stratum.sum() + 2) - total - stratum
        at = int(behind.argmax())
        place(patient, at)
        drawn[patient] = sides[at]
    return drawn


def leaked(manifest: pd.DataFrame) -> "pd.Series[bool]":
    """For each row, whether it is a test photograph of a patient who is also in train."""
    train = manifest.loc[manifest["split"] == "train", "patient"]
    return (manifest["split"] == "test") & manifest["patient"].isin(train)


def patients_of(manifest: pd.DataFrame, ids: "pd.Series[str]") -> "pd.Series[str]":
    """(n,) patients of n photographs of the manifest; a photograph whose patient nobody knows is its own."""
    patients = manifest["patient"].mask(manifest["patient"] == "", manifest["id"])
    return ids.map(dict(zip(manifest["id"], patients, strict=True)))
