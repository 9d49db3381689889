"""Patients and their splits: who a photograph shows, and how patients are drawn into train, val and test."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from pipeline.photos.photo import SUFFIXES
from pipeline.storage.csv_files import utf8

SPLITS: Final = ("train", "val", "test")
SPLIT_FRACTIONS: Final = {"train": 0.7, "val": 0.1, "test": 0.2}
"""Of the patients, where the layout brings no split."""


def parse_patient(id: str, pattern: re.Pattern[str]) -> tuple[str, str]:
    """(patient, eye) from an id: the pattern's groups `patient` (or its first) and `eye`, searched in the last part of
    the id without an image suffix, then in the whole id. An id that does not match is a patient of its own, with no
    known eye. What the group `eye` finds is not translated: it may be OD.

    >>> parse_patient("train/17_left", re.compile(r"^(?P<patient>.+)_(?P<eye>left|right)$"))
    ('17', 'left')
    """
    name = id.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    match = pattern.search(stem if f"{dot}{suffix}".lower() in SUFFIXES else name) or pattern.search(id)
    if match is None:
        return id, ""
    groups, eye = match.groupdict(), pattern.groupindex.get("eye")
    first = next((match[number] for number in range(1, pattern.groups + 1) if number != eye), None)
    return groups.get("patient") or first or id, groups.get("eye") or ""


def draw_splits(
    patients: Mapping[str, int], fractions: Mapping[str, float], seed: int, recorded: Mapping[str, str]
) -> dict[str, str]:
    """A side for every patient: grouped, stratified and seeded.

    `patients` maps a patient to its stratum (the worst grade of its eyes). Patients come in an order that only the
    seed and their names decide; each gets the side that is furthest behind its share, within its stratum and over
    all, so that both stay proportional. Those in `recorded` keep their side and count.
    """
    splits = list(fractions)
    targets = np.array([fractions[split] for split in splits])
    total = np.zeros(len(splits))
    by_stratum: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(len(splits)))
    drawn = {patient: split for patient, split in recorded.items() if patient in patients and split in fractions}

    def count(patient: str, index: int) -> None:
        total[index] += 1
        by_stratum[patients[patient]][index] += 1

    for patient, split in drawn.items():
        count(patient, splits.index(split))
    new = [patient for patient in patients if patient not in drawn]
    for patient in sorted(new, key=lambda name: hashlib.sha256(utf8(f"{seed}/{name}")).digest()):
        stratum = by_stratum[patients[patient]]
        behind = targets * (total.sum() + stratum.sum() + 2) - total - stratum
        index = int(behind.argmax())
        count(patient, index)
        drawn[patient] = splits[index]
    return drawn


def known_patients(manifest: pd.DataFrame) -> "pd.Series[bool]":
    """For each row, whether something tells whose photograph it is: its patient is not the photograph's own id, or has
    another photograph."""
    return (manifest["patient"] != manifest["id"]) | manifest["patient"].duplicated(keep=False)


class Leak(NamedTuple):
    """What is known of photographs of a split whose patients, or very pictures, a network sees in train."""

    tested: int  # photographs of the split
    leaked: int  # of them, those whose patient is in train
    copies: int  # of them, those that look like a photograph of train or val; counted for test alone
    patient_unknown: int  # photographs of train and of the split whose patient nothing tells
    photographs: int  # of train and of the split

    @property
    def no_patient_known(self) -> bool:
        """Whether nothing tells any patient, so that no leak can be seen."""
        return self.patient_unknown == self.photographs


def leak_of(manifest: pd.DataFrame, split: str = "test", copies: int = 0) -> Leak:
    """Looks for the patients of a split in train: the one judgement of that, for all commands.

    copies: how many test photographs are copies, as cache.json has it.
    """
    both = manifest["split"].isin(["train", split])
    measured = manifest["split"] == split
    leaks = measured & manifest["patient"].isin(manifest.loc[manifest["split"] == "train", "patient"])
    return Leak(
        int(measured.sum()),
        int(leaks.sum()) if split != "train" else 0,
        copies if split == "test" else 0,
        int((both & ~known_patients(manifest)).sum()),
        int(both.sum()),
    )


def patients_of(manifest: pd.DataFrame, ids: "pd.Series[str]") -> "pd.Series[str]":
    """(n,) patients of n photographs of the manifest; a photograph whose patient nobody knows is its own."""
    patients = manifest["patient"].mask(manifest["patient"] == "", manifest["id"])
    return ids.map(dict(zip(manifest["id"], patients, strict=True)))
