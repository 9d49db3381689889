"""Agreement of grades: confusion counts and quadratic weighted kappa, for baselines and for the trainer."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.grades import N_GRADES

Counts = NDArray[np.int64]
_QUADRATIC: Final = np.subtract.outer(np.arange(N_GRADES), np.arange(N_GRADES)) ** 2


def confusion_counts(grades: ArrayLike, predicted: ArrayLike) -> Counts:
    """(5, 5) photographs by true grade (row) and predicted grade (column); a grade without any keeps its place.

    >>> confusion_counts([0, 4, 4], [0, 4, 2]).tolist()[4]
    [0, 0, 1, 0, 1]
    """
    cells = np.asarray(grades, np.int64) * N_GRADES + np.asarray(predicted, np.int64)
    return np.bincount(cells, minlength=N_GRADES**2).reshape(N_GRADES, N_GRADES).astype(np.int64)


def quadratic_kappa(counts: Counts) -> float:
    """Cohen's kappa with quadratic weights (Cohen, Psychological Bulletin 1968), -1 to 1, from (5, 5) counts.

    0 is agreement by chance. Where all photographs have one grade and all get it, chance agrees as well and the formula
    is 0/0: that is 0 here, as any other prediction for such photographs gives.
    """
    return float(quadratic_kappas(counts.astype(np.float64)))


def quadratic_kappas(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """`quadratic_kappa` of each of many matrices: (..., 5, 5) counts make (...) kappas."""
    n = counts.sum(axis=(-2, -1))
    disagreement = (_QUADRATIC * counts).sum(axis=(-2, -1))
    margins = counts.sum(axis=-1)[..., :, None] * counts.sum(axis=-2)[..., None, :]
    by_chance = (_QUADRATIC * margins).sum(axis=(-2, -1))
    ratio: NDArray[np.float64] = np.divide(n * disagreement, by_chance, out=np.ones_like(n), where=by_chance > 0)
    return 1.0 - ratio
