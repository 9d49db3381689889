"""Test-time augmentation: the mean over the eight flips and turns of a photograph."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from trainer.network.ensemble import Ensemble, mean_of_softmax


def logits_of(model: nn.Module, images: Tensor, *, tta: bool) -> Tensor:
    """(n, 5) logits from images uint8 (n, 3, s, s), RGB.

    tta: of the mean over the eight symmetries of the square. A retina has no up or down, and left eyes mirror right
    ones. Each member of an ensemble takes its own mean, because its temperature was fitted to that.
    """
    if isinstance(model, Ensemble):
        return model.mean([logits_of(member, images, tta=tta) for member in model.members])
    logits: Tensor = mean_logits(model, images) if tta else model(images)
    return logits


def mean_logits(model: nn.Module, images: Tensor) -> Tensor:
    """(n, 5) logits whose softmax is the mean of the eight views' probabilities, from images uint8 (n, 3, s, s)."""
    return mean_of_softmax(torch.stack([model(view).float() for view in symmetries(images)]))


def symmetries(images: Tensor) -> Iterator[Tensor]:
    """The images (n, 3, s, s) turned by 0, 90, 180 and 270 degrees, each also mirrored. The first view is unchanged."""
    for turns in range(4):
        turned = images.rot90(turns, (2, 3))
        for view in (turned, turned.flip(3)):
            yield view.contiguous(memory_format=torch.channels_last)
