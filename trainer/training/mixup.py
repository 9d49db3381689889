"""Mixup and CutMix: each photograph of a batch is mixed with another one, on their device."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.loading.plan import Stream


class Mix(NamedTuple):
    images: Tensor  # (n, 3, s, s), levels 0-255: float32 after mixup, else uint8
    share: float  # lambda, 0 to 1: how much of each mixed image is the photograph itself; the rest is the one before it


def mix(images: Tensor, previous: Tensor, mixup: float, cutmix: float, seed: int, epoch: int, step: int) -> Mix:
    """Mixes images uint8 (n, 3, s, s) with `previous`, the same batch shifted by one photograph.

    mixup: both parameters of the Beta distribution from which the batch's share is drawn. Each image becomes
    share * itself + (1 - share) * the one before it (Zhang et al., ICLR 2018). 0: never.
    cutmix: the same for CutMix, which pastes a rectangle of the one before it. Its area is 1 - share, its centre is
    random, and the frame cuts it off (Yun et al., ICCV 2019). 0: never.
    If both are above 0, one of them is drawn for each batch. The draws are a function of (seed, epoch, step), so a
    resumed run draws the same.
    """
    key, counter = np.array([seed, epoch], np.uint64), [0, 0, step, Stream.MIX]
    random = np.random.Generator(np.random.Philox(key=key, counter=counter))
    first, centre_x, centre_y = random.random(3)
    with_mixup = mixup > 0 and (cutmix == 0 or first < 0.5)
    alpha = mixup if with_mixup else cutmix
    share = float(random.beta(alpha, alpha)) if alpha else 1.0
    if with_mixup:
        return Mix(torch.lerp(previous.float(), images.float(), share), share)
    side = images.shape[-1]
    half = int(side * (1 - share) ** 0.5 / 2)
    x, y = int(centre_x * side), int(centre_y * side)
    left, right, top, bottom = max(x - half, 0), min(x + half, side), max(y - half, 0), min(y + half, side)
    mixed = images.clone()  # the loader's batch must stay as it is
    mixed[:, :, top:bottom, left:right] = previous[:, :, top:bottom, left:right]
    return Mix(mixed, 1 - (right - left) * (bottom - top) / side**2)
