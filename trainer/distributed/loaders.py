"""Opens the loader of a split, for one process or for this process's part of every batch."""

from collections.abc import Iterator
from typing import Any

import click
import torch
from torch import Tensor

from pipeline.cache.cache import Cache
from pipeline.errors import RunError
from pipeline.loading.batch import Batch, Loader
from pipeline.loading.loaders import open_loader
from pipeline.machine import usable_cores
from trainer.config import FitConfig
from trainer.distributed.process_group import from_all, local_world_size, shard, world_size


def open_share(config: FitConfig, cache: Cache, split: str, batch: int, **settings: Any) -> Loader:
    """`open_loader` by a resolved config, of this process's share of batches of `batch` photographs: of the k-th, its
    part of the photographs that one process would have in the k-th. `settings`: more for `open_loader`."""
    loader = open_loader(
        config.loader,
        cache,
        split=split,
        batch_size=share_of(batch),
        size=config.size,
        device=config.device,
        workers=config.workers or max(1, usable_cores() // local_world_size()),
        shard=shard(),
        shuffle_block=config.together,
        **settings,
    )
    side = config.size or cache.recipe.size
    nothing = torch.empty(0, 3, side, side, dtype=torch.uint8, device=config.device)
    return every_step(loader, len(cache.rows(split)), batch, nothing)


def share_of(batch: int) -> int:
    """Photographs of a whole batch that each process has. Raises RunError where they cannot have equally many."""
    share, rest = divmod(batch, world_size())
    if rest:
        raise RunError(
            f"a batch of {batch} photographs is not to be shared by {world_size()} processes; choose --batch"
        )
    return share


def every_step(share: Loader, photographs: int, batch: int, nothing: Tensor) -> Loader:
    """The share's loader with as many batches as the whole epoch, which has that many photographs.

    nothing: images (0, ...) as the loader has them, on their device.
    """
    return share if world_size() == 1 else EveryStep(share, -(-photographs // batch), nothing)


class EveryStep(Loader):
    """A loader whose epochs end with an empty batch where it has none for the last step, since the others have: each
    step adds up all ranks' gradients."""

    def __init__(self, loader: Loader, steps: int, nothing: Tensor) -> None:
        grades = torch.empty(0, dtype=torch.int64)
        self._loader, self._steps = loader, steps
        self._empty = Batch(nothing, grades.to(nothing.device), grades)

    def __len__(self) -> int:
        return self._steps

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        there = len(self._loader)
        yield from self._loader.epoch(number, min(start, there))
        for _ in range(max(start, there), self._steps):
            yield self._empty

    def close(self) -> None:
        self._loader.close()


def say_shares(config: FitConfig) -> None:
    """One line of what every rank uses; alone, none."""
    if world_size() == 1:
        return
    device = torch.cuda.get_device_name() if config.device == "cuda" else config.device
    threads = torch.get_num_threads()
    users: dict[str, list[str]] = {}
    for rank, uses in enumerate(from_all(f"{device}, {threads} thread{'s' * (threads > 1)}")):
        users.setdefault(uses, []).append(str(rank))
    ranks = "; ".join(f"rank{'s' * (len(those) > 1)} {', '.join(those)}: {uses}" for uses, those in users.items())
    click.echo(f"{world_size()} processes, {share_of(config.batch)} photographs of a batch each; {ranks}")
