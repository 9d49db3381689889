"""Metrics of pooled predictions.

A table of predictions has a row a photograph: id, grade (int64, 0-4, -1 where nobody graded), predicted (int64, as
trainer.evaluation.ordinal_thresholds reads the probabilities) and p0..p4 (float32, summing to 1). What a split cannot
define, for want of photographs of a grade, is None in Python and JSON and an empty cell in CSV, never NaN.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.grades import GRADES, N_GRADES, UNKNOWN
from pipeline.metrics import Counts, confusion_counts
from trainer.evaluation.weighted_metrics import Sample, ratio
from trainer.kinds import PROBABILITIES
from trainer.network.decision import Floats, OrdinalThresholds, p_referable, predicted_grades


@dataclass(frozen=True)
class Metrics:
    """All but kappa (-1 to 1) lie between 0 and 1. `_by_grade`: that grade against the rest."""

    photographs: int
    """Graded ones; the others are not measured."""
    grades: tuple[int, ...]
    """Photographs by true grade."""
    accuracy: float
    balanced_accuracy: float
    """Mean of `sensitivity_by_grade` over the grades that occur."""
    kappa: float
    """Quadratic weighted; 0 where only one grade occurs."""
    auc: float | None
    """Mean of `auc_by_grade` over the grades that have one."""
    auc_by_grade: tuple[float | None, ...]
    """None for a grade that no photograph, or every photograph, has."""
    sensitivity: float | None
    """For referable retinopathy (grade 2 or worse): how much of it is predicted as 2 or worse. None without any."""
    specificity: float | None
    """How many of the others are predicted as 0 or 1. None without any."""
    sensitivity_by_grade: tuple[float | None, ...]
    """How many of a grade's photographs are given it (recall)."""
    specificity_by_grade: tuple[float | None, ...]
    """How many of the others are not given it."""
    precision_by_grade: tuple[float | None, ...]
    """How many of those given a grade have it. None for a grade that none is given."""
    referable_auc: float | None
    """Of p2 + p3 + p4 for referable retinopathy. None where all or none have it."""


def referable_scores(predictions: pd.DataFrame) -> Floats:
    """(n,) p2 + p3 + p4 of a table of predictions, 0 to 1."""
    return p_referable(predictions[list(PROBABILITIES)].to_numpy(np.float32))


def predictions_table(
    ids: "pd.Series[str]",
    grades: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    ordinal_thresholds: OrdinalThresholds | None = None,
) -> pd.DataFrame:
    """The table from n ids, n grades and (n, 5) probabilities; `ordinal_thresholds` give the predicted grades."""
    columns = dict(zip(PROBABILITIES, probabilities.T, strict=True))
    predicted = predicted_grades(probabilities, ordinal_thresholds)
    return pd.DataFrame({"id": ids.to_numpy(), "grade": grades, "predicted": predicted, **columns})


def graded(predictions: pd.DataFrame) -> pd.DataFrame:
    return predictions[predictions["grade"] != UNKNOWN]


def confusion(predictions: pd.DataFrame) -> Counts:
    """(5, 5) graded photographs by true grade (row) and predicted grade (column)."""
    known = graded(predictions)
    return confusion_counts(known["grade"], known["predicted"])


def row_shares(counts: Counts) -> NDArray[np.float64]:
    """Each row of a confusion matrix divided by its sum; a row without photographs is NaN, to be written as empty."""
    return ratio(counts.astype(np.float64), np.broadcast_to(counts.sum(axis=1, keepdims=True), counts.shape))


def measure(sample: Sample) -> Metrics:
    figures = sample.figures(sample.equal_weights)
    plain = {name: plain_value(values[0]) for name, values in figures.items()}
    by_grade = np.bincount(sample.grades, minlength=N_GRADES)
    return Metrics(photographs=len(sample.grades), grades=tuple(by_grade.tolist()), **plain)


def plain_value(value: Any) -> Any:
    """A number, or a tuple of them, of Python's own; None for NaN."""
    if np.ndim(value):
        return tuple(plain_value(each) for each in value)
    return None if np.isnan(value) else float(value)


def only_grade(predictions: pd.DataFrame) -> int | None:
    """The grade that every photograph was given, where it is one and the same."""
    predicted = predictions["predicted"].unique()
    return int(predicted[0]) if len(predicted) == 1 else None


def confusion_table(cells: NDArray[Any]) -> pd.DataFrame:
    """A (5, 5) matrix with the grades' names as labels, as confusion_*.csv has it."""
    return pd.DataFrame(cells, index=pd.Index(GRADES, name="grade"), columns=list(GRADES))
