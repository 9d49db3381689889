"""The loss, and class weights: how much a photograph of each grade counts in it."""

from typing import Final

import numpy as np
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pipeline.grades import N_GRADES

BETA: Final = 0.9999
"""Of the effective number. Up to about a thousand photographs a grade it acts like "inverse"; of the 25,810 of EyePACS
without disease it sees 9,243, so that a proliferative photograph counts 14 times as much, not 36 times."""

GAMMA: Final = 2.0
"""Of the focal loss; its authors' choice."""


def losses(name: str, logits: Tensor, grades: Tensor, weights: Tensor, smoothing: float = 0) -> Tensor:
    """(n,) losses of n photographs, each times the weight of its true grade.

    name: one of trainer.config.LOSSES. logits: float32 (n, 5), from a trainer.network.model.Head with the link that
    the loss asks for. grades: int64 (n,), 0-4. weights: float32 (5,). smoothing: for "ce" and "corn", the share of
    each label that is spread evenly over the five grades (Szegedy et al., CVPR 2016). "ce": cross entropy. "focal":
    the same times (1 - p)^GAMMA, p the true grade's probability, so that photographs graded right with ease count
    little (Lin et al., ICCV 2017, for several classes). "corn": the four conditional binary cross entropies of
    CORN, summed; they are the cross entropy of the probabilities that the chain rule makes of them, here divided by
    the number of photographs and not, as in the paper, of binary tasks. "mse": (s - grade)^2.
    """
    if name in ("ce", "corn"):
        # Not torch's own weights: they would count each share of a smoothed label by the grade that it goes to, and
        # teach that a healthy eye is proliferative by 0.29, with the inverse weights of EyePACS and a share of 0.1.
        found = F.cross_entropy(logits, grades, reduction="none", label_smoothing=smoothing)
    elif name == "focal":
        log_p = F.log_softmax(logits, dim=1).gather(1, grades[:, None])[:, 0]
        found = -((1 - log_p.exp()) ** GAMMA) * log_p
    elif name == "mse":
        score = (logits[:, 1] - logits[:, 0] + 1) / 2  # of the logits -(s - k)^2
        found = (score - grades) ** 2
    else:
        raise ValueError(f"no formula for the loss {name!r}")
    return weights[grades] * found


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
