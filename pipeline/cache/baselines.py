"""Scores without the photograph: the baselines that a trained model has to exceed.

Both baselines learn from the table alone. "majority" gives every photograph the commonest grade of train; "fellow eye"
copies the grade that the same patient has in train. The second is possible only where patients leak from train into
the measured split, and then a network that recognises patients scores it too.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.grades import UNKNOWN
from pipeline.metrics import Counts, confusion_counts, quadratic_kappa


@dataclass(frozen=True, eq=False)
class Baseline:
    name: str
    counts: Counts  # (5, 5) by true grade (row) and predicted grade (column)

    @property
    def accuracy(self) -> float:
        """0 to 1."""
        return float(np.trace(self.counts) / self.counts.sum())

    @property
    def kappa(self) -> float:
        return quadratic_kappa(self.counts)

    def as_dict(self) -> dict[str, float]:
        return {"accuracy": self.accuracy, "kappa": self.kappa}


@dataclass(frozen=True, eq=False)
class Baselines:
    photographs: int
    """Graded photographs of the measured split."""
    leaked: int
    """How many of them show a patient who is in train."""
    majority_grade: int
    majority: Baseline
    fellow_eye: Baseline
    """Equal to `majority` where nothing leaks."""

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON, without the counts."""
        return {
            "leaked": self.leaked,
            "majority_grade": self.majority_grade,
            "majority": self.majority.as_dict(),
            "fellow_eye": self.fellow_eye.as_dict(),
        }


def no_image_baselines(table: pd.DataFrame, split: str = "test") -> Baselines | None:
    """Scores the baselines on the graded photographs of a split; None where train or that split has none.

    `table` has the columns patient (str), grade (int, -1 unknown) and split (str), a row a photograph. A patient with
    several photographs in train passes on the worst of their grades; the lowest of several equally common grades is
    the majority.
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
