"""Sharded loaders: each process loads its part of every batch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cache.cache import Cache
from pipeline.errors import RunError
from pipeline.loading.batch import Batch, Loader
from pipeline.loading.loaders import open_loader
from pipeline.machine import usable_cores
from trainer.config import FitConfig
from trainer.distributed.process_group import from_all, local_world_size, shard, world_size


def open_sharded(
    config: FitConfig,
    cache: Cache,
    split: str,
    batch: int,
    *,
    rows: NDArray[np.int64] | None = None,
    **settings: Any,
) -> Loader:
    """The loader of this process's part of every batch, by a resolved config.

    The parts of all processes in step k are the photographs that one process alone would have in step k.
    batch: photographs of all processes together. rows: of the manifest, in place of those of the split. settings:
    further arguments of `open_loader`.
    """
    rows = cache.rows(split) if rows is None else rows
    loader = open_loader(
        config.loader,
        cache,
        split=split,
        batch_size=batch_per_rank(batch),
        size=config.size,
        device=config.device,
        workers=config.workers or max(1, usable_cores() // local_world_size()),
        shard=shard(),
        shuffle_block=config.together,
        rows=rows,
        **settings,
    )
    size = config.size or cache.recipe.size
    empty = torch.empty(0, 3, size, size, dtype=torch.uint8, device=config.device)
    return every_step(loader, len(rows), batch, empty)


def batch_per_rank(batch: int) -> int:
    """The batch of each process, if all together have `batch` photographs. Raises RunError if they cannot be equal."""
    per_process, rest = divmod(batch, world_size())
    if rest:
        raise RunError(
            f"a batch of {batch} photographs cannot be divided among {world_size()} processes; choose a multiple of "
            f"{world_size()} with --batch"
        )
    return per_process


def every_step(loader: Loader, photographs: int, batch: int, empty: Tensor) -> Loader:
    """The loader of this process, with a batch for every step of an epoch; empty batches are added at its end.

    photographs, batch: of all processes together. empty: images (0, ...), as the loader's, on their device.
    """
    return loader if world_size() == 1 else EveryStep(loader, -(-photographs // batch), empty)


class EveryStep(Loader):
    """A loader with a batch for every step. Each step adds up the gradients of all ranks, so a rank without photographs
    for the last step gets an empty batch."""

    def __init__(self, loader: Loader, steps: int, empty: Tensor) -> None:
        grades = torch.empty(0, dtype=torch.int64)
        self._loader, self._steps = loader, steps
        self._empty = Batch(empty, grades.to(empty.device), grades)

    def __len__(self) -> int:
        return self._steps

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        batches = len(self._loader)
        yield from self._loader.epoch(number, min(start, batches))
        for _ in range(max(start, batches), self._steps):
            yield self._empty

    def close(self) -> None:
        self._loader.close()


def ranks_line(config: FitConfig) -> str:
    """The device and threads of every rank; "" if there is only one. All ranks call it."""
    if world_size() == 1:
        return ""
    device = torch.cuda.get_device_name() if config.device == "cuda" else config.device
    threads = torch.get_num_threads()
    users: dict[str, list[str]] = {}
    for rank, uses in enumerate(from_all(f"{device}, {threads} thread{'s' * (threads > 1)}")):
        users.setdefault(uses, []).append(str(rank))
    ranks = "; ".join(f"rank{'s' * (len(those) > 1)} {', '.join(those)}: {uses}" for uses, those in users.items())
    return f"{world_size()} processes, {batch_per_rank(config.batch)} photographs of a batch each; {ranks}"
