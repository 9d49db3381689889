"""Agreement of grades: confusion counts and quadratic weighted kappa. Baselines and the trainer use them."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.grades import N_GRADES

Counts = NDArray[np.int64]
_QUADRATIC: Final = np.subtract.outer(np.arange(N_GRADES), np.arange(N_GRADES)) ** 2


def confusion_counts(grades: ArrayLike, predicted: ArrayLike) -> Counts:
    """(5, 5) number of photographs by true grade (row) and predicted grade (column).

    grades, predicted: (n,) 0 to 4.

    >>> confusion_counts([0, 4, 4], [0, 4, 2]).tolist()[4]
    [0, 0, 1, 0, 1]
    """
    cells = np.asarray(grades, np.int64) * N_GRADES + np.asarray(predicted, np.int64)
    return np.bincount(cells, minlength=N_GRADES**2).reshape(N_GRADES, N_GRADES).astype(np.int64)


def quadratic_kappa(counts: Counts) -> float:
    """Cohen's kappa with quadratic weights (Cohen, Psychological Bulletin 1968), -1 to 1, from (5, 5) counts.

    0 is agreement by chance. If all photographs have one grade and all are predicted to have it, the formula is 0/0.
    The result is 0 then, as for any other prediction of such photographs.
    """
    return float(quadratic_kappas(counts.astype(np.float64)))


def quadratic_kappas(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """(...) `quadratic_kappa` of each matrix of (..., 5, 5) counts, which may be weighted."""
    n = counts.sum(axis=(-2, -1))
    disagreement = (_QUADRATIC * counts).sum(axis=(-2, -1))
    margins = counts.sum(axis=-1)[..., :, None] * counts.sum(axis=-2)[..., None, :]
    by_chance = (_QUADRATIC * margins).sum(axis=(-2, -1))
    ratio: NDArray[np.float64] = np.divide(n * disagreement, by_chance, out=np.ones_like(n), where=by_chance > 0)
    return 1.0 - ratio
