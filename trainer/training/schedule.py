"""The learning rate as a function of the step's number; a resumed run needs no scheduler state. Imports no torch."""

from math import cos, pi
from typing import Final

from trainer.config import FitConfig

WARM_UP: Final = 0.1
"""Share of a phase's steps over which the learning rate rises."""


def phase_step(config: FitConfig, epoch: int, step: int, steps: int) -> tuple[int, int]:
    """Which step of its phase, from 0, a step of an epoch with `steps` of them is, and how many the phase has."""
    first, epochs = (0, config.head_epochs) if config.phase(epoch) == "head" else (config.head_epochs, config.epochs)
    return (epoch - first) * steps + step, epochs * steps


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up to `peak`, then half a cosine towards 0, for a step counted from 0 of a phase of `steps`."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * (1 + cos(pi * (step - warm_up) / (steps - warm_up))) / 2


def scheduled_lr(config: FitConfig, epoch: int, step: int, steps: int) -> float:
    """The learning rate of a step of an epoch that has `steps` of them; each phase has a schedule of its own."""
    if config.schedule == "constant":
        return config.lr
    return learning_rate(*phase_step(config, epoch, step, steps), config.lr)


def averaging_decay(config: FitConfig, epoch: int, step: int, steps: int) -> float:
    """The decay d by which the average of a phase's weights, including those after this step, becomes
    d * average + (1 - d) * weights.

    Adam's correction of its moments (Kingma and Ba, ICLR 2015, section 3): no trace is left of what the average was
    before the phase, and the newest weights count (1 - ema) / (1 - ema^n) after n steps.
    """
    n = phase_step(config, epoch, step, steps)[0] + 1
    return config.ema * (1 - config.ema ** (n - 1)) / (1 - config.ema**n)
