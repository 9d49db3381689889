"""The learning rate range test (Smith, WACV 2017): the loss while the learning rate rises from step to step."""

from collections.abc import Iterator
from itertools import count
from math import isfinite
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError
from pipeline.loading.batch import Batch
from pipeline.progress import track
from trainer.training.learner import Learner

RATES: Final[NDArray[np.float64]] = np.geomspace(1e-5, 10, 121)
"""One for each step; 20 per factor of ten."""
SMOOTHING: Final = 0.9
"""Decay of the moving average of the losses, which is corrected for its start as Adam's moments are."""
GIVE_UP: Final = 2.0
"""The test ends when the smoothed loss is above this many times its lowest value."""


class RangeTest(NamedTuple):
    """Learning rates (n,), the losses there (n,), these smoothed (n,), and the proposed learning rate."""

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    proposal: float


def range_test(learner: Learner) -> RangeTest:
    """Trains the whole network for at most 121 steps. Raises RunError if the first losses are not finite."""
    learner.open("finetune")
    learner.set_training()
    found: list[float] = []
    for rate, (epoch, step, batch) in zip(RATES, track(_batches(learner), len(RATES), "learning rates"), strict=False):
        loss, _, photographs = learner.step(batch, epoch, step, float(rate)).tolist()
        found.append(loss / photographs)
        if not isfinite(found[-1]) or smooth(found)[-1] > GIVE_UP * smooth(found).min():
            break
    losses = np.array(found)[np.isfinite(found)]
    if len(losses) < 2:
        raise RunError(f"the loss is not finite at a learning rate of {RATES[0]:g}; check the photographs")
    rates, smoothed = RATES[: len(losses)], smooth(losses)
    proposal = propose(rates, smoothed, learner.config.schedule)
    return RangeTest(rates, losses, smoothed, proposal)


def _batches(learner: Learner) -> Iterator[tuple[int, int, Batch]]:
    """Batches without end: the number of the epoch, the number of the step in it, and the batch."""
    for epoch in count():
        for step, batch in enumerate(learner.batches["train"].epoch(epoch)):
            if step == 0 or len(batch.rows) == learner.config.batch:  # the loss of a short last batch is noisy
                yield epoch, step, batch


def smooth(losses: "list[float] | NDArray[np.float64]") -> NDArray[np.float64]:
    """(n,) moving averages of n losses."""
    averages, average = [], 0.0
    for n, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        averages.append(average / (1 - SMOOTHING**n))
    return np.array(averages)


def propose(rates: NDArray[np.float64], smoothed: NDArray[np.float64], schedule: str) -> float:
    """The proposed learning rate, from rates (n,) and smoothed losses (n,).

    "cosine": the rate with the lowest smoothed loss. The schedule has a warm-up, and gradients are clipped, so training
    does not diverge there yet. "constant": a tenth of it, because training begins with it (Howard and Gugger, Deep
    Learning for Coders, 2020, chapter 5).

    >>> propose(np.array([0.01, 0.1, 1.0]), np.array([2.0, 1.0, 3.0]), "cosine")
    0.1
    """
    lowest = float(rates[smoothed.argmin()])
    return lowest / 10 if schedule == "constant" else lowest
