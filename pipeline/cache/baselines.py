"""Baselines that do not look at photographs. A trained model has to be better.

Both use the manifest alone. "majority" predicts the most common grade of train for every photograph. "fellow eye"
predicts the grade that the patient has in train. It is possible only if patients are in train and in the measured split
(a leak). Then a network that recognises patients can reach the same score.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.grades import UNKNOWN
from pipeline.metrics import Counts, confusion_counts, quadratic_kappa


@dataclass(frozen=True, eq=False)
class Baseline:
    """The result of one baseline."""

    name: str
    counts: Counts  # (5, 5) by true grade (row) and predicted grade (column)

    @property
    def accuracy(self) -> float:
        """0 to 1."""
        return float(np.trace(self.counts) / self.counts.sum())

    @property
    def kappa(self) -> float:
        return quadratic_kappa(self.counts)


@dataclass(frozen=True, eq=False)
class Baselines:
    """Both baselines on one split."""

    photographs: int
    """Number of graded photographs of the measured split."""
    leaked: int
    """How many of them show a patient who is in train."""
    majority_grade: int
    majority: Baseline
    fellow_eye: Baseline
    """Equal to `majority` if `leaked` is 0."""


def no_image_baselines(table: pd.DataFrame, split: str = "test") -> Baselines | None:
    """Measures the baselines on the graded photographs of a split. None if train or that split has none.

    table: a row per photograph, with the columns patient (str), grade (int, -1 if unknown) and split (str).

    If a patient has several photographs in train, the worst of their grades counts. If several grades are equally
    common, the lowest is the majority grade.
    """
    graded = table[table["grade"] != UNKNOWN]
    train, measured = graded[graded["split"] == "train"], graded[graded["split"] == split]
    if train.empty or measured.empty:
        return None
    majority = int(np.bincount(train["grade"]).argmax())
    known = measured["patient"].map(train.groupby("patient")["grade"].max())
    grades = measured["grade"].to_numpy()
    return Baselines(
        photographs=len(measured),
        leaked=int(known.notna().sum()),
        majority_grade=majority,
        majority=Baseline("majority grade", confusion_counts(grades, np.full(len(grades), majority))),
        fellow_eye=Baseline("fellow eye's grade", confusion_counts(grades, known.fillna(majority).astype("int64"))),
    )
