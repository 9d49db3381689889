"""Networks that take the patient's other eye into account, the fellow eye.

The last layer adds what it reads in the fellow eye's features to the scores of the photograph's own eye. Nothing is
added where there is no fellow, so one eye alone gets a grade too. The same layer serves left and right eyes.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.cache.eyes import EyePairs
from trainer.network.ensemble import Ensemble, mean_of_softmax
from trainer.network.model import Grader, Head, Network, graders
from trainer.network.views import symmetries


class EyeScores(NamedTuple):
    """What a network reads in n photographs, each by itself. Both eyes are put together from it by `joined_logits`.

    k: scores of the last layer; of an ensemble, those of all members, one after the other.
    """

    own: Tensor  # float32 (n, views, k), scores of the photograph's grade, for each view
    fellow: Tensor  # float32 (n, k), what is added to the scores of the other eye: the mean over the views

    def flat(self) -> Tensor:
        """As one table, float32 (n, (views + 1) k)."""
        return torch.cat([self.own.flatten(1), self.fellow], dim=1)

    @classmethod
    def from_flat(cls, table: Tensor, model: Network) -> "EyeScores":
        """The inverse of `flat`, for scores of that model."""
        k = sum(each.head.out_features for each in graders(model))
        return cls(table[:, :-k].reshape(len(table), -1, k), table[:, -k:])


class PairedHead(nn.Module):
    """The last layer over stored features of both eyes."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        """(n, 5) logits from features (n, 2 d + 1): the photograph's own, the mean over those of its fellow eye, and 1
        where there is a fellow or 0."""
        own, fellow = features[:, :-1].chunk(2, dim=1)
        assert self.head.fellow is not None
        logits: Tensor = self.head(own, features[:, -1:] * self.head.fellow(fellow))
        return logits


def phase_head(model: Grader) -> nn.Module:
    """The module that is trained in the head phase, over stored features."""
    return PairedHead(model.head) if model.head.fellow else model.head


def takes_fellow(model: Network) -> bool:
    """Whether the network takes the fellow eye into account."""
    return all(each.head.fellow is not None for each in graders(model))


def eye_scores(model: Network, images: Tensor, *, tta: bool) -> EyeScores:
    """The scores of images uint8 (n, 3, s, s), RGB, each for itself. tta: of eight views, else of one."""
    views = list(symmetries(images)) if tta else [images]
    own, fellow = [], []
    for each in graders(model):
        features = [each.backbone(each.normalise(view)) for view in views]
        assert each.head.fellow is not None
        own.append(torch.stack([each.head.scores(found).float() for found in features], dim=1))
        fellow.append(torch.stack([each.head.fellow(found).float() for found in features]).mean(dim=0))
    return EyeScores(torch.cat(own, dim=2), torch.cat(fellow, dim=1))


def joined_logits(model: Network, own: Tensor, added: Tensor, paired: Tensor) -> Tensor:
    """(n, 5) logits from the own scores (n, views, k) of n photographs and what their fellow eyes add, (n, k).

    paired: bool (n,), whether there is a fellow; nothing is added to the others.
    """
    members, added = graders(model), torch.where(paired[:, None], added, 0)
    sizes = [each.head.out_features for each in members]
    parts = zip(members, torch.split(own, sizes, dim=2), torch.split(added, sizes, dim=1), strict=True)
    logits = [_over_views(each.head.link.logits(scores + extra[:, None])) for each, scores, extra in parts]
    return model.mean(logits, paired) if isinstance(model, Ensemble) else logits[0]


def mean_over_fellows(
    values: Tensor, of: NDArray[np.int64], rows: NDArray[np.int64], pairs: EyePairs
) -> tuple[Tensor, NDArray[np.int64]]:
    """For each of `rows` (n,): the mean of the values over its fellows, (..., n, d), 0 where there is none; and the
    number of fellows, (n,).

    values: (..., m, d), of photographs whose rows in the manifest are `of` (m,), ascending. rows: ascending.
    """
    at = torch.from_numpy(np.searchsorted(rows, pairs.rows))
    fellows = values.index_select(-2, torch.from_numpy(np.searchsorted(of, pairs.fellows)).to(values.device))
    counts = np.bincount(at.numpy(), minlength=len(rows))
    sums = values.new_zeros(*values.shape[:-2], len(rows), values.shape[-1])
    sums.index_add_(-2, at.to(values.device), fellows)
    return sums / torch.from_numpy(counts.clip(1)).to(values)[:, None], counts.astype(np.int64)


def _over_views(logits: Tensor) -> Tensor:
    """(n, 5) logits of the mean probabilities over views, from (n, views, 5)."""
    return logits[:, 0] if logits.shape[1] == 1 else mean_of_softmax(logits.transpose(0, 1))
