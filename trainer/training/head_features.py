"""Features of the frozen backbone for the head phase. They are computed once per photograph and stored.

Training photographs have features of a few augmented views. The files lie beside the cache, in CACHE.features/; their
names depend on everything that the features depend on. The folder may be deleted at any time.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from pipeline.cache.cache import Cache
from pipeline.cache.eyes import fellow_eyes
from pipeline.errors import RunError
from pipeline.loading.batch import Batch, Loader
from pipeline.loading.plan import NO_AUGMENT, Augment, Blocks, Schedule, Stream, random_words, uniform
from pipeline.progress import track
from pipeline.storage.atomic import write_atomically
from trainer.config import FitConfig
from trainer.distributed.loaders import batch_per_rank, every_step, open_sharded
from trainer.distributed.process_group import from_main, is_main, shard, total_on_cpu
from trainer.network.device import measuring_precision
from trainer.network.fellow import mean_over_fellows
from trainer.network.model import Grader, read_tensors
from trainer.plugs import is_plug
from trainer.training.augmentation import with_function

logger = logging.getLogger(__name__)

DROPPED: Final = 0.5
"""Fraction of the training photographs, in each epoch, whose fellow eye is left out."""


class FeatureLoader(Loader):
    """A pipeline.loading.batch.Loader whose images are features: float32 (n, d), on their device.

    Epoch e has the order of the photographs' own loader, and view e modulo the number of views.
    """

    def __init__(self, features: Tensor, grades: Tensor, schedule: Schedule) -> None:
        """features: (views, rows of the schedule, d); grades: int64 (rows of the schedule,), on the same device."""
        self._features, self._grades, self._schedule = features, grades, schedule

    def __len__(self) -> int:
        return len(self._schedule)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        for plan in self._schedule.batches(number, start):
            at = torch.from_numpy(np.searchsorted(self._schedule.rows, plan.rows)).to(self._features.device)
            yield Batch(self._of(number, at, plan.rows), self._grades[at], torch.from_numpy(plan.rows))

    def _of(self, epoch: int, at: Tensor, rows: np.ndarray) -> Tensor:
        """The features of photographs in an epoch. at: int64 (n,), their places among the rows of the schedule."""
        return self._features[epoch % len(self._features)][at]

    def close(self) -> None:
        """Nothing to end."""


class PairedFeatureLoader(FeatureLoader):
    """As FeatureLoader, for both eyes of a patient: the images are float32 (n, 2 d + 1), see `PairedHead`.

    drops: leave out fellows at random, drawn by seed, epoch and row, so that the network learns to grade one eye too.
    """

    def __init__(
        self, own: Tensor, fellow: Tensor, paired: Tensor, grades: Tensor, schedule: Schedule, *, drops: bool
    ) -> None:
        """own, fellow: (views, rows of the schedule, d); paired: bool (rows,), whether there is a fellow. The others
        as in FeatureLoader."""
        super().__init__(own, grades, schedule)
        self._fellow, self._paired, self._drops = fellow, paired, drops

    def _of(self, epoch: int, at: Tensor, rows: np.ndarray) -> Tensor:
        own, paired, views = super()._of(epoch, at, rows), self._paired[at], len(self._fellow)
        if self._drops:
            words = random_words(rows, self._schedule.seed, epoch, Stream.FELLOW)[:, 0]
            paired = paired & torch.from_numpy(uniform(words) >= DROPPED).to(own.device)
        fellow = self._fellow[(epoch + epoch // views) % views]  # in time every combination of two views
        return torch.cat([own, fellow[at], paired[:, None].to(own)], dim=1)


def feature_loaders(
    config: FitConfig,
    cache: Cache,
    splits: Iterable[str],
    model: Grader,
    augment: Augment,
    device: torch.device,
) -> dict[str, Loader]:
    """Loaders of features by split; "train" has `config.views` augmented views, the others one."""
    backbone = nn.Sequential(model.normalise, model.backbone).eval()
    weights = _digest(model.state_dict())
    stored = not is_plug(config.model) and not config.augment  # code may change, and its name does not
    found: dict[str, Loader] = {}
    for split in splits:
        train = split == "train"
        rows = cache.rows(split)
        pairs = fellow_eyes(cache, split) if config.fellow_eye else None
        needed = np.union1d(rows, pairs.fellows) if pairs else rows
        views = min(config.views, config.head_epochs) if train else 1
        metadata: dict[str, Any] = {
            "weights": weights,
            "cache": cache.digest,
            "split": split,
            "size": config.size,
            "loader": config.loader,
            "views": [config.seed, views, asdict(augment)] if train else None,
        }
        if len(needed) > len(rows):  # fellows that are in no split
            metadata["rows"] = hashlib.sha256(needed.tobytes()).hexdigest()
        key = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()[:16]
        path = cache.home.with_name(f"{cache.home.name}.features") / f"{split}-{key}.safetensors"
        features = from_main(partial(_read, path)) if stored else None
        if features is None:
            varied = augment if train else NO_AUGMENT
            with open_sharded(
                config, cache, split, 2 * config.batch, rows=needed, augment=varied, seed=config.seed
            ) as photographs:
                if train:
                    photographs = with_function(photographs, config, batch=2 * config.batch)
                seen = [_view(backbone, photographs, needed, view, device, split) for view in range(views)]
            features = torch.stack(seen)
            if is_main() and stored:
                _write(path, features)
        grades = torch.from_numpy(cache.grades[rows]).to(device)
        batch = config.batch if train else 2 * config.batch
        size = cache.recipe.size
        labels = cache.grades[rows] if train and config.balanced else None
        blocks = Blocks.in_lanes(cache.shards, config.together) if config.together else None
        schedule = Schedule(
            rows,
            augment,
            source_size=size,
            size=size,
            batch_size=batch_per_rank(batch),
            shuffle=train,
            seed=config.seed,
            shard=shard(),
            labels=labels,
            fading=config.fading,
            blocks=blocks,
        )
        own = (features[:, np.searchsorted(needed, rows)] if pairs else features).to(device)
        loader: Loader
        if pairs:
            fellow, counts = mean_over_fellows(features, needed, rows, pairs)
            paired = torch.from_numpy(counts > 0).to(device)
            loader = PairedFeatureLoader(own, fellow.to(device), paired, grades, schedule, drops=train)
        else:
            loader = FeatureLoader(own, grades, schedule)
        found[split] = every_step(loader, len(rows), batch, _empty(own, paired=pairs is not None))
    return found


def _empty(own: Tensor, *, paired: bool) -> Tensor:
    """Features of no photograph. own: (views, n, d)."""
    return own.new_empty(0, (2 * own.shape[2] + 1) if paired else own.shape[2])


@torch.inference_mode()
def _view(backbone: nn.Module, loader: Loader, rows: np.ndarray, view: int, device: torch.device, split: str) -> Tensor:
    """The features (n, d) of an epoch's photographs, in the order of `rows`, float32 on the CPU."""
    features: Tensor | None = None
    for batch in track(loader.epoch(view), len(loader), f"features of {split}, view {view + 1}"):
        with measuring_precision(device):
            found = backbone(batch.images).float().cpu()
        if features is None:
            features = torch.zeros(len(rows), found.shape[1])
        features[torch.from_numpy(np.searchsorted(rows, batch.rows.numpy()))] = found
    assert features is not None, "a loader has at least one batch"
    return total_on_cpu(features)


def _digest(state: Mapping[str, Tensor]) -> str:
    """A digest of the weights of all layers but the last."""
    sha256 = hashlib.sha256()
    for name, tensor in state.items():
        if not name.startswith("head."):
            sha256.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            sha256.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()


def _read(path: Path) -> Tensor | None:
    if not path.exists():
        return None
    try:
        return read_tensors(path)["features"]
    except (RunError, KeyError) as error:
        logger.warning(f"{error}; the features are computed again")
        return None


def _write(path: Path, features: Tensor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as file:
            file.write(save({"features": features}))
    except OSError as error:  # the cache's folder may be read-only
        logger.warning(
            f"{path.parent}: features cannot be stored ({error.strerror}); another run will compute them again"
        )
