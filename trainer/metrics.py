"""How good predictions are, measured on all of them at once.

A table of predictions has a row a photograph: id, grade (int64, 0-4, -1 where nobody graded), predicted (int64, the
likeliest grade) and p0..p4 (float32, summing to 1). What a split cannot define, for want of photographs of a grade, is
None in Python and JSON and an empty cell in CSV, never NaN.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.baselines import Counts, confusion_counts, quadratic_kappa
from pipeline.grades import GRADES, N_GRADES, REFERABLE, UNKNOWN

PROBABILITIES: Final = tuple(f"p{grade}" for grade in range(N_GRADES))


@dataclass(frozen=True)
class Metrics:
    """All but kappa (-1 to 1) lie between 0 and 1."""

    photographs: int
    """Graded ones; the others are not measured."""
    grades: tuple[int, ...]
    """Photographs by true grade."""
    accuracy: float
    balanced_accuracy: float
    """Mean recall over the grades that occur."""
    kappa: float
    """Quadratic weighted; 0 where only one grade occurs."""
    auc: float | None
    """Mean of `auc_by_grade` over the grades that have one."""
    auc_by_grade: tuple[float | None, ...]
    """One against the rest; None for a grade that no photograph, or every photograph, has."""
    sensitivity: float | None
    """For referable retinopathy (grade 2 or worse): how much of it is predicted as 2 or worse. None without any."""
    specificity: float | None
    """How many of the others are predicted as 0 or 1. None without any."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def predictions_table(
    ids: "pd.Series[str]", grades: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> pd.DataFrame:
    """The table from n ids, n grades and (n, 5) probabilities. Of equally likely grades the lowest is predicted."""
    columns = dict(zip(PROBABILITIES, probabilities.T, strict=True))
    return pd.DataFrame({"id": ids.to_numpy(), "grade": grades, "predicted": probabilities.argmax(axis=1), **columns})


def graded(predictions: pd.DataFrame) -> pd.DataFrame:
    return predictions[predictions["grade"] != UNKNOWN]


def confusion(predictions: pd.DataFrame) -> Counts:
    """(5, 5) graded photographs by true grade (row) and predicted grade (column)."""
    known = graded(predictions)
    return confusion_counts(known["grade"], known["predicted"])


def row_shares(counts: Counts) -> NDArray[np.float64]:
    """Each row of a confusion matrix divided by its sum; a row without photographs is NaN, to be written as empty."""
    totals = counts.sum(axis=1, keepdims=True)
    shares: NDArray[np.float64] = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    return shares


def measure(predictions: pd.DataFrame) -> Metrics:
    """Raises ValueError where no photograph is graded."""
    known = graded(predictions)
    if known.empty:
        raise ValueError("none of the photographs has a grade to measure against")
    counts = confusion(known)
    by_grade = counts.sum(axis=1)
    recalls = np.diag(row_shares(counts))
    grade_aucs = _auc_by_grade(known)
    aucs = [auc for auc in grade_aucs if auc is not None]
    return Metrics(
        photographs=len(known),
        grades=tuple(by_grade.tolist()),
        accuracy=float(np.trace(counts) / len(known)),
        balanced_accuracy=float(recalls[by_grade > 0].mean()),
        kappa=quadratic_kappa(counts),
        auc=sum(aucs) / len(aucs) if aucs else None,
        auc_by_grade=grade_aucs,
        sensitivity=_share(counts[REFERABLE:, REFERABLE:], counts[REFERABLE:]),
        specificity=_share(counts[:REFERABLE, :REFERABLE], counts[:REFERABLE]),
    )


def only_grade(predictions: pd.DataFrame) -> int | None:
    """The grade that every photograph was given, where it is one and the same."""
    predicted = predictions["predicted"].unique()
    return int(predicted[0]) if len(predicted) == 1 else None


def confusion_table(cells: NDArray[Any]) -> pd.DataFrame:
    """A (5, 5) matrix with the grades' names as labels, as confusion_*.csv has it."""
    return pd.DataFrame(cells, index=pd.Index(GRADES, name="grade"), columns=list(GRADES))


def _auc_by_grade(known: pd.DataFrame) -> tuple[float | None, ...]:
    from sklearn.metrics import roc_auc_score

    def auc(grade: int) -> float | None:
        hits = known["grade"] == grade
        return float(roc_auc_score(hits, known[f"p{grade}"])) if 0 < hits.sum() < len(hits) else None

    return tuple(auc(grade) for grade in range(N_GRADES))


def _share(part: Counts, whole: Counts) -> float | None:
    return float(part.sum() / whole.sum()) if whole.any() else None
