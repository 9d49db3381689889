"""Forward passes: from images to logits. All commands that measure, predict, explain or export use these functions."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.cache.cache import Cache
from pipeline.cache.eyes import EyePairs, fellow_eyes
from pipeline.errors import RunError
from pipeline.grades import UNKNOWN
from pipeline.loading.batch import Loader
from pipeline.progress import track
from trainer.config import FitConfig
from trainer.distributed.loaders import open_sharded
from trainer.distributed.process_group import gather
from trainer.network.decision import DecisionRule, Paired
from trainer.network.device import measuring_precision
from trainer.network.fellow import EyeScores, eye_scores, joined_logits, mean_over_fellows, takes_fellow
from trainer.network.metadata import Metadata
from trainer.network.model import Network
from trainer.network.views import logits_of


class Outputs(NamedTuple):
    """A model's outputs for n photographs."""

    rows: NDArray[np.int64]  # (n,) in the cache's manifest
    grades: Tensor  # int64 (n,), on the CPU
    logits: Tensor  # float32 (n, 5), on the CPU
    alone: Tensor | None = None  # float32 (n, 5), without the fellow eye; None: the network takes one eye
    fellows: NDArray[np.int64] | None = None  # (n,) photographs of the fellow eye that are in `logits`
    fellow_grades: NDArray[np.int64] | None = None  # (n,) their worst true grade, -1 if unknown; no network sees it

    @property
    def paired(self) -> Paired:
        """(n,) whether the fellow eye is in the logits; None: the network takes one eye."""
        return None if self.fellows is None else self.fellows > 0


def run_model(model: nn.Module, loader: Loader, device: torch.device, what: str, *, tta: bool = False) -> Outputs:
    """Outputs for all photographs of a loader, in the order of their rows.

    tta: take the mean over eight views of each photograph. With several ranks each computes its shard, and all get the
    outputs of all shards. Raises RunError if a logit is not finite.
    """
    model.eval()
    rows, grades, logits = [], [], []
    with torch.inference_mode(), measuring_precision(device):
        for batch in track(loader.epoch(0), len(loader), what):
            rows.append(batch.rows)
            grades.append(batch.grades)
            logits.append(logits_of(model, batch.images, tta=tta).float())
    of_this_rank = (torch.cat(part).cpu() for part in (rows, grades, logits))
    all_rows, all_grades, all_logits = (gather(part) for part in of_this_rank)
    order = all_rows.argsort()  # photographs of a cache at a URL may come shard by shard
    return _finite(Outputs(all_rows[order].numpy(), all_grades[order], all_logits[order]), what)


def _finite(outputs: Outputs, what: str) -> Outputs:
    """The outputs. Raises RunError if a logit is not finite."""
    if not outputs.logits.isfinite().all():
        raise RunError(f"the model's output for {what} is not finite; a lower --lr may help")
    return outputs


def run_split(config: FitConfig, model: Network, cache: Cache, split: str, *, any_split: bool = False) -> Outputs:
    """Outputs for one split, with the loader, the batch and the views of `config`, which is resolved.

    model: on `config.device`. any_split: of fellow eyes, see `fellow_eyes`. Batches have twice as many photographs as
    in training, because gradients need no memory.
    """
    if takes_fellow(model):
        return run_pairs(config, model, cache, split, any_split=any_split)
    with open_sharded(config, cache, split, 2 * config.batch) as loader:
        return run_model(model, loader, torch.device(config.device), split, tta=config.tta)


def run_pairs(config: FitConfig, model: Network, cache: Cache, split: str, *, any_split: bool = False) -> Outputs:
    """As `run_split`, for a network that takes the fellow eye into account. Each photograph passes through it once."""
    rows, pairs = cache.rows(split), fellow_eyes(cache, split, any_split=any_split)
    needed, device = np.union1d(rows, pairs.fellows), torch.device(config.device)
    model.eval()
    found: list[Tensor] = []
    with (
        torch.inference_mode(),
        measuring_precision(device),
        open_sharded(config, cache, split, 2 * config.batch, rows=needed) as loader,
    ):
        for batch in track(loader.epoch(0), len(loader), split):
            scores = eye_scores(model, batch.images, tta=config.tta)
            found.append(torch.cat([batch.rows[:, None], scores.flat().cpu().double()], dim=1))
    table = gather(torch.cat(found))
    table = table[table[:, 0].argsort()]
    scores = EyeScores.from_flat(table[:, 1:].float(), model)
    own = scores.own[np.searchsorted(needed, rows)]
    added, fellows = mean_over_fellows(scores.fellow, needed, rows, pairs)
    paired = torch.from_numpy(fellows > 0)
    outputs = Outputs(
        rows,
        torch.from_numpy(cache.grades[rows]),
        joined_logits(model, own, added, paired),
        joined_logits(model, own, added, torch.zeros_like(paired)),
        fellows,
        worst_grades(cache, rows, pairs),
    )
    return _finite(outputs, split)


def worst_grades(cache: Cache, rows: NDArray[np.int64], pairs: EyePairs) -> NDArray[np.int64]:
    """(n,) the worst grade of the fellows of each row (n,), ascending; -1 where none is known."""
    worst = np.full(len(rows), UNKNOWN, np.int64)
    np.maximum.at(worst, np.searchsorted(rows, pairs.rows), cache.grades[pairs.fellows])
    return worst


@torch.inference_mode()
def pair_probabilities(
    model: Network, images: Tensor, fellow_images: Tensor, metadata: Metadata
) -> NDArray[np.float32]:
    """(n, 5) calibrated probabilities of images of both eyes. fellow_images: uint8 (n, 3, s, s); a black one stands for
    no fellow."""
    model.eval()
    with measuring_precision(images.device):
        own, _ = eye_scores(model, images, tta=metadata.tta)
        _, added = eye_scores(model, fellow_images, tta=metadata.tta)
    paired = fellow_images.amax(dim=(1, 2, 3)) > 0
    logits = joined_logits(model, own, added, paired).double().cpu().numpy()
    return DecisionRule.of(metadata).probabilities(logits, paired.cpu().numpy())


@torch.inference_mode()
def probabilities(model: nn.Module, images: Tensor, metadata: Metadata) -> NDArray[np.float32]:
    """(n, 5) probabilities, calibrated if the weights carry a temperature.

    images: uint8 (n, 3, s, s), RGB, on the model's device.
    """
    model.eval()
    with measuring_precision(images.device):
        logits = logits_of(model, images, tta=metadata.tta)
    return DecisionRule.of(metadata).probabilities(logits.float().cpu().double().numpy())
