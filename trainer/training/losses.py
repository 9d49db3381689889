"""Loss functions and class weights."""

from typing import Final

import numpy as np
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pipeline.grades import N_GRADES

BETA: Final = 0.9999
"""Beta of the effective number. Up to about a thousand photographs a grade, "effective" is close to "inverse". The
25,810 healthy photographs of EyePACS count as 9,243, so a proliferative one weighs 14 times as much, not 36 times."""

GAMMA: Final = 2.0
"""Gamma of the focal loss, as its authors chose it."""


def losses(name: str, logits: Tensor, grades: Tensor, weights: Tensor, smoothing: float = 0) -> Tensor:
    """(n,) losses of n photographs, each multiplied by the weight of its true grade.

    name: one of trainer.config.LOSSES, below. logits: float32 (n, 5), from a trainer.network.model.Head with the link
    of the loss. grades: int64 (n,), 0-4. weights: float32 (5,). smoothing: for "ce" and "corn", the fraction of each
    label that is spread evenly over the five grades (Szegedy et al., CVPR 2016).

    "ce": cross entropy.
    "focal": cross entropy times (1 - p)^GAMMA, p the probability of the true grade, so that easy photographs count
    little (Lin et al., ICCV 2017, for several classes).
    "corn": the sum of CORN's four conditional binary cross entropies. It equals the cross entropy of the probabilities
    by the chain rule. It is divided by the number of photographs, where the paper divides by that of binary tasks.
    "mse": (s - grade)^2.
    """
    if name in ("ce", "corn"):
        # Not torch's own weights: they weigh each part of a smoothed label by the grade that it goes to. With EyePACS'
        # inverse weights and a smoothing of 0.1, a healthy eye would be taught to be proliferative by 0.29.
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
    """(5,) weights of the grades, from the numbers of training photographs by grade (5,).

    "none": all 1. "inverse": 1 / n. "effective": 1 / effective number, which is (1 - BETA^n) / (1 - BETA) (Cui et al.,
    CVPR 2019). The weights are scaled to a mean of 1 over the training photographs, so that the learning rate keeps its
    meaning. A grade without photographs gets 0.

    >>> class_weights("inverse", [6, 2, 0, 0, 0]).tolist()
    [0.6666666666666666, 2.0, 0.0, 0.0, 0.0]
    """
    n = np.asarray(photographs, np.float64)
    effective = {"none": np.ones(N_GRADES), "inverse": n, "effective": (1 - BETA**n) / (1 - BETA)}[method]
    weights: NDArray[np.float64] = np.divide(1, effective, out=np.zeros(N_GRADES), where=n > 0)
    weights *= n.sum() / (weights * n).sum()
    return weights
