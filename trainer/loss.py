"""Class weights: how much a photograph of each grade counts in the loss."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.grades import N_GRADES

BETA: Final = 0.9999
"""Of the effective number. Up to about a thousand photographs a grade it acts like "inverse"; of the 25,810 of EyePACS
without disease it sees 9,243, so that a proliferative photograph counts 14 times as much, not 36 times."""


def class_weights(method: str, photographs: ArrayLike) -> NDArray[np.float64]:
    """(5,) weights for the numbers of training photographs by grade, (5,).

    "none": all 1. "inverse": one over the number. "effective": one over the effective number of photographs,
    (1 - BETA^n) / (1 - BETA) (Cui et al., CVPR 2019). They are scaled so that the mean over the training photographs is
    1, which keeps the learning rate's meaning. A grade without photographs gets 0.

    >>> class_weights("inverse", [6, 2, 0, 0, 0]).tolist()
    [0.6666666666666666, 2.0, 0.0, 0.0, 0.0]
    """
    n = np.asarray(photographs, np.float64)
    effective = {"none": np.ones(N_GRADES), "inverse": n, "effective": (1 - BETA**n) / (1 - BETA)}[method]
    weights: NDArray[np.float64] = np.divide(1, effective, out=np.zeros(N_GRADES), where=n > 0)
    weights *= n.sum() / (weights * n).sum()
    return weights
