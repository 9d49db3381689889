"""Loss functions and class weights."""

from functools import partial
from typing import Final, Protocol

import numpy as np
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pipeline.errors import RunError
from pipeline.grades import N_GRADES
from trainer.plugs import failing, load_function

BETA: Final = 0.9999
"""Beta of the effective number. Up to about a thousand photographs a grade, "effective" is close to "inverse". The
25,810 healthy photographs of EyePACS count as 9,243, so a proliferative one weighs 14 times as much, not 36 times."""

GAMMA: Final = 2.0
"""Gamma of the focal loss, as its authors chose it."""


class LossFunction(Protocol):
    """Losses (n,) of n photographs, from logits float32 (n, 5) and grades int64 (n,), 0-4. A function of the user's may
    give their mean instead. The softmax of its logits gives the probabilities."""

    def __call__(self, logits: Tensor, grades: Tensor) -> Tensor: ...


def find_loss(name: str, smoothing: float = 0) -> LossFunction:
    """One of trainer.config.LOSSES, or a function of the user's, `package.module:function`. For smoothing see
    `losses`."""
    smoothed = partial(cross_entropy, smoothing=smoothing)
    ours: dict[str, LossFunction] = {"ce": smoothed, "focal": focal, "corn": smoothed, "mse": squared_error}
    return ours[name] if name in ours else partial(_checked, name)


def losses(name: str, logits: Tensor, grades: Tensor, weights: Tensor, smoothing: float = 0) -> Tensor:
    """(n,) losses of n photographs, each multiplied by the weight of its true grade.

    name: one of trainer.config.LOSSES, below, or a function. logits: float32 (n, 5), from a trainer.network.model.Head
    with the link of the loss. grades: int64 (n,), 0-4. weights: float32 (5,). smoothing: for "ce" and "corn", the
    fraction of each label that is spread evenly over the five grades (Szegedy et al., CVPR 2016).

    "ce": cross entropy.
    "focal": cross entropy times (1 - p)^GAMMA, p the probability of the true grade, so that easy photographs count
    little (Lin et al., ICCV 2017, for several classes).
    "corn": the sum of CORN's four conditional binary cross entropies. It equals the cross entropy of the probabilities
    by the chain rule. It is divided by the number of photographs, where the paper divides by that of binary tasks.
    "mse": (s - grade)^2.
    """
    return weights[grades] * find_loss(name, smoothing)(logits, grades)


def cross_entropy(logits: Tensor, grades: Tensor, *, smoothing: float) -> Tensor:
    # Not torch's own weights: they weigh each part of a smoothed label by the grade that it goes to. With EyePACS'
    # inverse weights and a smoothing of 0.1, a healthy eye would be taught to be proliferative by 0.29.
    return F.cross_entropy(logits, grades, reduction="none", label_smoothing=smoothing)


def focal(logits: Tensor, grades: Tensor) -> Tensor:
    log_p = F.log_softmax(logits, dim=1).gather(1, grades[:, None])[:, 0]
    return -((1 - log_p.exp()) ** GAMMA) * log_p


def squared_error(logits: Tensor, grades: Tensor) -> Tensor:
    score = (logits[:, 1] - logits[:, 0] + 1) / 2  # of the logits -(s - k)^2
    return (score - grades) ** 2


def _checked(name: str, logits: Tensor, grades: Tensor) -> Tensor:
    """(n,) what a function of the user's gives, a mean as n equal losses. Raises RunError for anything else."""
    if not len(grades):
        return logits.sum(dim=1)  # a mean of none is no number
    given = call_loss(name, logits, grades)
    return given.float().expand(len(grades))


def call_loss(name: str, logits: Tensor, grades: Tensor) -> Tensor:
    """(n,) losses or () their mean, as a function of the user's gives it. Raises RunError for anything else."""
    with failing(name):
        given = load_function(name)(logits, grades)
    n = len(grades)
    said = f"a tensor {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
    if not isinstance(given, Tensor) or given.shape not in ((), (n,)) or not given.is_floating_point():
        raise RunError(f"{name} gives {said} for {n} photographs; it must give {n} losses, or one number, their mean")
    return given


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
