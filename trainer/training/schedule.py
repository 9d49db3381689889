"""The learning rate, as a function of the step's number, so that a resumed run needs no state. Imports no torch."""

from math import cos, pi
from typing import Final

from trainer.config import FitConfig

WARM_UP: Final = 0.1
"""Fraction of a phase's steps over which the learning rate rises."""


def phase_step(config: FitConfig, epoch: int, step: int, steps: int) -> tuple[int, int]:
    """The number of a step in its phase, from 0, and the number of steps of the phase.

    epoch: from 0 over both phases. step: number in its epoch, from 0. steps: steps per epoch.
    """
    first, epochs = (0, config.head_epochs) if config.phase(epoch) == "head" else (config.head_epochs, config.epochs)
    return (epoch - first) * steps + step, epochs * steps


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up to `peak`, then half a cosine to 0. step: 0 to steps - 1. steps: of the phase."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * (1 + cos(pi * (step - warm_up) / (steps - warm_up))) / 2


def scheduled_lr(config: FitConfig, epoch: int, step: int, steps: int) -> float:
    """The learning rate of a step; see `phase_step` for the arguments. Each phase has its own schedule."""
    if config.schedule == "constant":
        return config.lr
    return learning_rate(*phase_step(config, epoch, step, steps), config.lr)


def averaging_decay(config: FitConfig, epoch: int, step: int, steps: int) -> float:
    """The decay d of the moving average after this step: average = d * average + (1 - d) * weights.

    It has Adam's correction (Kingma and Ba, ICLR 2015, section 3): the average does not depend on its value before the
    phase, and after n steps the newest weights count (1 - ema) / (1 - ema^n).
    """
    n = phase_step(config, epoch, step, steps)[0] + 1
    return config.ema * (1 - config.ema ** (n - 1)) / (1 - config.ema**n)
