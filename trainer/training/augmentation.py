"""The user's own augmentation: a function that changes the images of each training batch, on their device."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import RunError
from pipeline.loading.batch import Batch, Loader
from pipeline.loading.plan import Shard, Stream
from trainer.config import FitConfig
from trainer.distributed.process_group import shard
from trainer.plugs import failing, load_function


class Draws:
    """Random numbers for the photographs of a batch.

    Those of a photograph are a function of (seed, epoch, position in the epoch). So neither the batch size, nor the
    number of processes, nor a resumed run changes them.
    """

    def __init__(self, seed: int, epoch: int, positions: range, device: torch.device) -> None:
        key = np.array([seed, epoch], np.uint64)
        self._streams = [np.random.Philox(key=key, counter=[0, 0, each, Stream.FUNCTION]) for each in positions]
        self._device = device

    def __call__(self, *shape: int) -> Tensor:
        """float32 (n, *shape), uniform in [0, 1), on the images' device. The next call gives the next numbers."""
        count = int(np.prod(shape, dtype=np.int64))
        words = [np.asarray(stream.random_raw(count), np.uint64) for stream in self._streams]
        uniform = [(each >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24) for each in words]
        numbers = np.stack(uniform) if uniform else np.empty((0, count), np.float32)
        return torch.from_numpy(numbers).to(self._device).view(len(self._streams), *shape)


class AugmentFunction(Protocol):
    """Changes images uint8 (n, 3, s, s), RGB, 0 to 255, and returns images of the same shape, type and device. n may be
    0. All chance is drawn from `random`."""

    def __call__(self, images: Tensor, random: Draws) -> Tensor: ...


def augmented(name: str, images: Tensor, random: Draws) -> Tensor:
    """The images after a function, `package.module:function`. Raises RunError if it gives anything else than images."""
    function: AugmentFunction = load_function(name)
    with failing(name):
        given = function(images, random)
    if not isinstance(given, Tensor):
        raise RunError(f"{name} gives {type(given).__name__}; it must give a tensor, {_words(images)}")
    if (given.shape, given.dtype, given.device) != (images.shape, images.dtype, images.device):
        raise RunError(f"{name} gives {_words(given)}; it must give {_words(images)}, as it got")
    return given


def _words(images: Tensor) -> str:
    return f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)} on {images.device}"


def seed_torch(*key: int) -> None:
    """Sets torch's random generators by a key. Dropout and the like then draw the same in a resumed run."""
    words = np.random.SeedSequence(key).generate_state(2, np.uint32).tolist()
    torch.manual_seed(words[0] << 32 | words[1])


class AugmentedLoader(Loader):
    """A loader whose images a function of the user's changes."""

    def __init__(self, loader: Loader, name: str, *, seed: int, batch: int, shard: Shard) -> None:
        """loader: of this process's part, `shard`. batch: photographs of all processes in a batch."""
        self._loader, self._name, self._seed, self._batch, self._shard = loader, name, seed, batch, shard

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        rank, ranks = self._shard
        for step, batch in enumerate(self._loader.epoch(number, start), start):
            first = step * self._batch + rank
            positions = range(first, first + ranks * len(batch.rows), ranks)
            seed_torch(self._seed, number, step, rank, 1)  # for functions that draw from torch's own generator
            draws = Draws(self._seed, number, positions, batch.images.device)
            yield batch._replace(images=augmented(self._name, batch.images, draws))

    def close(self) -> None:
        self._loader.close()


def with_function(loader: Loader, config: FitConfig, *, batch: int | None = None) -> Loader:
    """The loader of training photographs, with the function of --augment, if there is one.

    batch: photographs of all processes in a batch; None: --batch.
    """
    if not config.augment:
        return loader
    return AugmentedLoader(loader, config.augment, seed=config.seed, batch=batch or config.batch, shard=shard())
