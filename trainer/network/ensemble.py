"""Ensembles: several networks whose calibrated probabilities are averaged."""

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Networks that are used as one. Its logits are the logarithms of the mean of the members' calibrated
    probabilities, so a softmax gives that mean, and everything that takes the logits of one network takes these."""

    architecture = "an ensemble"

    def __init__(
        self,
        members: Sequence[nn.Module],
        temperatures: Sequence[float],
        fellow_temperatures: Sequence[float | None] | None = None,
    ) -> None:
        """members: networks from images to logits (n, 5). temperatures: one for each, as fitted on its validation.
        fellow_temperatures: those of photographs whose other eye is known; None: the members take one eye."""
        super().__init__()
        self.members = nn.ModuleList(members)
        self.temperatures = tuple(temperatures)
        paired = fellow_temperatures or [None] * len(self.temperatures)
        self.fellow_temperatures = tuple(
            own if each is None else each for own, each in zip(temperatures, paired, strict=True)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(n, 5) logits from images uint8 (n, 3, s, s), RGB."""
        return self.mean([member(images) for member in self.members])

    def mean(self, logits: Sequence[Tensor], paired: Tensor | None = None) -> Tensor:
        """(n, 5) logits of the ensemble from those of each member, (n, 5).

        paired: bool (n,), whether the other eye is in them; None: in none.
        """
        calibrated = [
            each.float() / (alone if paired is None else torch.where(paired[:, None], fellow, alone))
            for each, alone, fellow in zip(logits, self.temperatures, self.fellow_temperatures, strict=True)
        ]
        return mean_of_softmax(torch.stack(calibrated))


def mean_of_softmax(logits: Tensor) -> Tensor:
    """(n, 5) logits whose softmax is the mean of the softmax of (m, n, 5) logits over the first dimension."""
    return logits.log_softmax(dim=-1).logsumexp(dim=0) - log(len(logits))
