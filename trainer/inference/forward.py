"""The one way from images to logits: what measures, predicts, explains and exports calls it."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.cache.cache import Cache
from pipeline.errors import RunError
from pipeline.loading.batch import Loader
from trainer.config import FitConfig
from trainer.console import track
from trainer.distributed.loaders import open_share
from trainer.distributed.process_group import gather
from trainer.network.decision import DecisionRule
from trainer.network.device import measuring_precision
from trainer.network.metadata import Metadata
from trainer.network.views import logits_of


class Outputs(NamedTuple):
    """What a model says of n photographs."""

    rows: NDArray[np.int64]  # (n,) in the cache's manifest
    grades: Tensor  # int64 (n,), on the CPU
    logits: Tensor  # float32 (n, 5), on the CPU


def run_model(model: nn.Module, loader: Loader, device: torch.device, what: str, *, tta: bool = False) -> Outputs:
    """One pass over a loader's photographs, by row; with `tta` the mean over eight views of each. Of several ranks each
    passes over its share, and gets all of it.

    Raises RunError where a logit is not finite.
    """
    model.eval()
    rows, grades, logits = [], [], []
    with torch.inference_mode(), measuring_precision(device):
        for batch in track(loader.epoch(0), len(loader), what):
            rows.append(batch.rows)
            grades.append(batch.grades)
            logits.append(logits_of(model, batch.images, tta=tta).float())
    shares = (torch.cat(part).cpu() for part in (rows, grades, logits))
    all_rows, all_grades, all_logits = (gather(share) for share in shares)
    order = all_rows.argsort()  # a cache behind a URL may come shard by shard
    outputs = Outputs(all_rows[order].numpy(), all_grades[order], all_logits[order])
    if not outputs.logits.isfinite().all():
        raise RunError(f"the model's output for {what} is not finite; a lower --lr may help")
    return outputs


def run_split(config: FitConfig, model: nn.Module, cache: Cache, split: str) -> Outputs:
    """Outputs for a split, opened as the trainer opens it; `config` is resolved, and says in how many views.

    model: on `config.device`. Batches have twice as many photographs as in training: no gradient needs memory.
    """
    with open_share(config, cache, split, 2 * config.batch) as loader:
        return run_model(model, loader, torch.device(config.device), split, tta=config.tta)


@torch.inference_mode()
def probabilities(model: nn.Module, images: Tensor, metadata: Metadata) -> NDArray[np.float32]:
    """(n, 5), calibrated where the weights are, of images uint8 (n, 3, s, s), on the model's device."""
    model.eval()
    with measuring_precision(images.device):
        logits = logits_of(model, images, tta=metadata.tta)
    return DecisionRule.of(metadata).probabilities(logits.float().cpu().double().numpy())
