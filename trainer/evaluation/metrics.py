"""Metrics of pooled predictions.

A table of predictions has a row for each photograph: id, grade (int64, 0-4, -1 if unknown), predicted (int64, by the
decision rule) and p0..p4 (float32, summing to 1). That of a network that takes the fellow eye into account has two
more: fellows (int64, photographs of the other eye that were used) and score (float64, see
`DecisionRule.referral_scores`). A figure that is not defined, because photographs of a grade are
missing, is None in Python and JSON and an empty cell in CSV, never NaN.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.grades import GRADES, N_GRADES, UNKNOWN
from pipeline.metrics import Counts, confusion_counts
from trainer.evaluation.weighted_metrics import Sample, ratio
from trainer.kinds import FELLOWS, PROBABILITIES, SCORE
from trainer.network.decision import DecisionRule, Floats, OrdinalThresholds, p_referable, predicted_grades


@dataclass(frozen=True)
class Metrics:
    """The metrics of a split, 0 to 1; kappa is -1 to 1. `_by_grade`: one grade against all others."""

    photographs: int
    """Graded photographs; others are not measured."""
    grades: tuple[int, ...]
    """Photographs by true grade."""
    accuracy: float
    balanced_accuracy: float
    """Mean of `sensitivity_by_grade` over the grades that occur."""
    kappa: float
    """Quadratic weighted kappa; 0 if only one grade occurs."""
    auc: float | None
    """Mean of `auc_by_grade` over the grades for which it is defined."""
    auc_by_grade: tuple[float | None, ...]
    """None for a grade that no photograph, or every photograph, has."""
    sensitivity: float | None
    """Share of the referable photographs (grade 2 or worse) that are predicted as 2 or worse. None if there are
    none."""
    specificity: float | None
    """Share of the other photographs that are predicted as 0 or 1. None if there are none."""
    sensitivity_by_grade: tuple[float | None, ...]
    """Share of a grade's photographs that are predicted as it (recall)."""
    specificity_by_grade: tuple[float | None, ...]
    """Share of the other photographs that are not predicted as it."""
    precision_by_grade: tuple[float | None, ...]
    """Share of the photographs predicted as a grade that have it. None for a grade that is never predicted."""
    referable_auc: float | None
    """AUC of p2 + p3 + p4 for referable retinopathy. None if all photographs, or none, are referable."""


def referable_scores(predictions: pd.DataFrame) -> Floats:
    """(n,) p2 + p3 + p4 of a table of predictions, 0 to 1."""
    return p_referable(predictions[list(PROBABILITIES)].to_numpy(np.float32))


def referral_scores(predictions: pd.DataFrame) -> Floats:
    """(n,) what is compared with the threshold for referral, 0 to 1: the column SCORE, else p2 + p3 + p4."""
    return predictions[SCORE].to_numpy(np.float64) if SCORE in predictions else referable_scores(predictions)


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


def with_fellows(predictions: pd.DataFrame, rule: DecisionRule, fellows: NDArray[np.int64] | None) -> pd.DataFrame:
    """The table of a network that takes the fellow eye into account. fellows: (n,), the photographs of the other eye
    that were used; None: the network takes one eye, and the table stays."""
    if fellows is None:
        return predictions
    found, paired = predictions[list(PROBABILITIES)].to_numpy(np.float32), fellows > 0
    scores = rule.referral_scores(p_referable(found), paired)
    return predictions.assign(predicted=rule.grades(found, paired), **{FELLOWS: fellows, SCORE: scores})


def graded(predictions: pd.DataFrame) -> pd.DataFrame:
    return predictions[predictions["grade"] != UNKNOWN]


def confusion(predictions: pd.DataFrame) -> Counts:
    """(5, 5) graded photographs by true grade (row) and predicted grade (column)."""
    known = graded(predictions)
    return confusion_counts(known["grade"], known["predicted"])


def row_shares(counts: Counts) -> NDArray[np.float64]:
    """Each row of a confusion matrix divided by its sum. A row without photographs is NaN, and written as empty."""
    return ratio(counts.astype(np.float64), np.broadcast_to(counts.sum(axis=1, keepdims=True), counts.shape))


def measure(sample: Sample) -> Metrics:
    figures = sample.figures(sample.equal_weights)
    plain = {name: plain_value(values[0]) for name, values in figures.items()}
    by_grade = np.bincount(sample.grades, minlength=N_GRADES)
    return Metrics(photographs=len(sample.grades), grades=tuple(by_grade.tolist()), **plain)


def plain_value(value: Any) -> Any:
    """A Python number, or a tuple of them; None for NaN."""
    if np.ndim(value):
        return tuple(plain_value(each) for each in value)
    return None if np.isnan(value) else float(value)


def only_grade(predictions: pd.DataFrame) -> int | None:
    """The grade that is predicted for every photograph; None if there are several."""
    predicted = predictions["predicted"].unique()
    return int(predicted[0]) if len(predicted) == 1 else None


def confusion_table(cells: NDArray[Any]) -> pd.DataFrame:
    """A (5, 5) matrix labelled with the names of the grades, as in confusion_*.csv."""
    return pd.DataFrame(cells, index=pd.Index(GRADES, name="grade"), columns=list(GRADES))
