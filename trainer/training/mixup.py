"""Mixup and CutMix: a batch's photographs mixed with one another, on their device."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Mix(NamedTuple):
    images: Tensor  # (n, 3, s, s), grey levels 0-255: float32 after mixup, else uint8
    share: float  # of each photograph itself, 0 to 1; the rest is of the one before it in the batch


def mix(images: Tensor, before: Tensor, mixup: float, cutmix: float, seed: int, epoch: int, step: int) -> Mix:
    """Images uint8 (n, 3, s, s), each mixed with the one that comes before it in the batch, and of which `before` has
    its pixels, in one of two ways, taken by turns at random where both are asked for.

    mixup: both parameters of the Beta distribution that the share is drawn from, one for the batch; each image becomes
    share * itself + (1 - share) * the one before it (Zhang et al., ICLR 2018). 0: never.
    cutmix: the same for a rectangle of the one before it, of that much of the area, pasted at a random place and cut
    off at the frame (Yun et al., ICCV 2019). 0: never.
    The draws are a function of (seed, epoch, step): a resumed run draws the same.
    """
    # pipeline.loading.plan has streams of this key too: that the first step's words also order its shards harms none.
    random = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=[0, 0, step, 3]))
    first, place_x, place_y = random.random(3)
    with_mixup = mixup > 0 and (cutmix == 0 or first < 0.5)
    alpha = mixup if with_mixup else cutmix
    share = float(random.beta(alpha, alpha)) if alpha else 1.0
    if with_mixup:
        return Mix(torch.lerp(before.float(), images.float(), share), share)
    side = images.shape[-1]
    half = int(side * (1 - share) ** 0.5 / 2)
    x, y = int(place_x * side), int(place_y * side)
    left, right, top, bottom = max(x - half, 0), min(x + half, side), max(y - half, 0), min(y + half, side)
    mixed = images.clone()  # a batch may be kept by whoever gave it
    mixed[:, :, top:bottom, left:right] = before[:, :, top:bottom, left:right]
    return Mix(mixed, 1 - (right - left) * (bottom - top) / side**2)
