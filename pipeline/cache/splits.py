"""Patients and splits: which patient a photograph shows, and how patients are drawn into train, val and test."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from pipeline.photos.eye_names import last_part
from pipeline.storage.csv_files import utf8

SPLITS: Final = ("train", "val", "test")
SPLIT_FRACTIONS: Final = {"train": 0.7, "val": 0.1, "test": 0.2}
"""Fractions of the patients, used if the data set has no split of its own."""


def parse_patient(id: str, pattern: re.Pattern[str]) -> tuple[str, str]:
    """(patient, eye) from an id.

    They are the pattern's groups `patient` (or its first group) and `eye`. The pattern is searched in the last part of
    the id without an image suffix, then in the full id. If it matches neither, the id is the patient and the eye is "".
    The eye is not translated: it may be "OD".

    >>> parse_patient("train/17_left", re.compile(r"^(?P<patient>.+)_(?P<eye>left|right)$"))
    ('17', 'left')
    """
    match = pattern.search(last_part(id)) or pattern.search(id)
    if match is None:
        return id, ""
    groups, eye = match.groupdict(), pattern.groupindex.get("eye")
    first = next((match[number] for number in range(1, pattern.groups + 1) if number != eye), None)
    return groups.get("patient") or first or id, groups.get("eye") or ""


def draw_splits(
    patients: Mapping[str, int], fractions: Mapping[str, float], seed: int, recorded: Mapping[str, str]
) -> dict[str, str]:
    """Draws a split for every patient, stratified by grade.

    patients: patient -> stratum, the worst grade of its eyes. fractions: split -> fraction of the patients, sum 1.
    recorded: patient -> split drawn before; these patients keep it and are counted.

    The order of the patients depends only on the seed and their names. Each gets the split that most lacks patients,
    in its stratum and in total. So the fractions hold in every stratum and over all.
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
    """(rows,) whether the patient is known: its name is not the photograph's id, or it has another photograph."""
    return (manifest["patient"] != manifest["id"]) | manifest["patient"].duplicated(keep=False)


class Leak(NamedTuple):
    """Numbers of photographs of a split whose patients, or copies, are in train, as far as is known."""

    tested: int  # photographs of the split
    leaked: int  # of these, with a patient who is in train
    copies: int  # of these, that look like a photograph of train or val; counted for test only
    patient_unknown: int  # photographs of train and of the split whose patient is not known
    photographs: int  # photographs of train and of the split

    @property
    def no_patient_known(self) -> bool:
        """Whether no patient is known, so that no leak can be found."""
        return self.patient_unknown == self.photographs


def leak_of(manifest: pd.DataFrame, split: str = "test", copies: int = 0) -> Leak:
    """Looks for the patients of a split in train. All commands use it, so that they agree.

    copies: number of test photographs that are copies, from cache.json.
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
    """(n,) patients of n photographs of the manifest. If the patient is not known, it is the photograph's id."""
    patients = manifest["patient"].mask(manifest["patient"] == "", manifest["id"])
    return ids.map(dict(zip(manifest["id"], patients, strict=True)))
