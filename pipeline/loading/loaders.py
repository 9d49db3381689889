"""Opens a loader by its name. Torch and DALI are imported only then."""

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from pipeline.cache.cache import Cache
from pipeline.errors import CacheError, LoaderMissing, UsageError
from pipeline.loading.plan import NO_AUGMENT, UNSHARDED, Augment, Blocks, Schedule, Shard
from pipeline.machine import usable_cores

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from pipeline.loading.batch import Loader

LOADERS: Final = ("auto", "dali", "torchvision")


def open_loader(
    name: str,
    cache: Cache,
    *,
    split: str,
    batch_size: int,
    augment: Augment = NO_AUGMENT,
    shuffle: bool = False,
    size: int | None = None,
    seed: int = 0,
    device: "str | torch.device" = "cpu",
    workers: int | None = None,
    shard: tuple[int, int] = UNSHARDED,
    balanced: bool = False,
    fading: int | None = None,
    shuffle_block: int | None = None,
    rows: "NDArray[np.int64] | None" = None,
) -> "Loader":
    """A loader of a split's photographs. All loaders give the same batches.

    name: "dali", "torchvision", or "auto": DALI on a CUDA device where it is installed, else torchvision.
    split: "train", "val", "test", or "all".
    batch_size: photographs a batch, at least 1. The last batch of an epoch may have fewer.
    augment: how photographs are flipped, rotated, zoomed and coloured, at random in each epoch.
    shuffle: whether each epoch has its own random order. Otherwise rows are in the order of the manifest.
    size: side of the images, pixels, 1 to the cache's own. None: the cache's own.
    seed: of order and augmentation, 0 to 2**64 - 1.
    device: of the batches, as torch names it: "cpu", "cuda", "cuda:1".
    workers: number of threads, at least 1. None: one for each core that this process may use.
    shard: (rank, world), this process's part of an epoch (see `plan_epoch`).
    balanced: whether each grade has the same number of positions in an epoch. Photographs of rare grades then repeat.
    fading: if balanced, the number of epochs in which that changes to natural numbers (see `plan_epoch`). None: never.
    shuffle_block: how many shards a shuffle mixes at a time (see `Blocks`), at least 1. Without a shuffle, rows are
        then sorted by shard. None: a shuffle mixes all shards. `Cache.shuffle_block` is the number for this machine.
    rows: of the manifest, (n,), ascending, in place of those of the split. None: those of the split.

    Raises LoaderMissing if DALI is asked for and not installed, CacheError if the split is unknown or empty, UsageError
    (a ValueError too) for any other value that is not allowed, and what torch raises for a device it does not know.
    """
    check_loader(name, cache, size=size, device=device)
    if workers is not None and workers < 1:
        raise UsageError(f"workers must be at least 1, got {workers}")
    rows = cache.rows(split) if rows is None else rows
    if not len(rows):
        raise CacheError(f"{cache.path}: no photograph is in the split {split!r}")
    if shuffle_block is not None and not shuffle:
        rows = cache.by_shard(rows)
    source_size = cache.recipe.size
    size = source_size if size is None else size
    try:
        labels = cache.grades[rows] if balanced else None
        blocks = None if shuffle_block is None else Blocks.in_lanes(cache.shards, shuffle_block)
        schedule = Schedule(
            rows,
            augment,
            source_size=source_size,
            size=size,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            shard=Shard(*shard),
            labels=labels,
            fading=fading,
            blocks=blocks,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    workers = workers or usable_cores()
    if choose_loader(name, device) == "torchvision":
        from pipeline.loading.torchvision_loader import TorchvisionLoader

        return TorchvisionLoader(cache, schedule, device=device, workers=workers)
    from pipeline.loading.dali_loader import DaliLoader

    return DaliLoader(cache, schedule, device=device, workers=workers)


def check_loader(name: str, cache: Cache, *, size: int | None, device: "str | torch.device") -> None:
    """Raises what `open_loader` raises for a loader's name, a size in pixels (None: the cache's own) or a device that
    is not allowed. Opens nothing."""
    if name not in LOADERS:
        raise UsageError(f"loader {name!r}: choose one of {', '.join(LOADERS)}")
    if size is not None and not 1 <= size <= cache.recipe.size:
        raise UsageError(f"size must be 1 to {cache.recipe.size}, the cache's own, got {size}")
    if choose_loader(name, device) == "torchvision":
        return
    if _kind(device) not in ("cpu", "cuda"):
        raise UsageError(f"DALI knows no device {device}; the torchvision loader does")
    try:
        import pipeline.loading.dali_loader  # noqa: F401
    except ImportError as error:
        if sys.platform != "linux":
            raise LoaderMissing(
                "DALI is there for Linux only; `--loader torchvision` does the same here. On Linux: pip install "
                "'fundus-grading[dali]'"
            ) from error
        raise LoaderMissing(f"DALI is not installed ({error}): pip install 'fundus-grading[dali]'") from error


def choose_loader(name: str, device: "str | torch.device") -> str:
    """The name of the loader that "auto" stands for: "dali" on a CUDA device where it is installed, else "torchvision".
    Other names stay."""
    if name != "auto":
        return name
    return "dali" if _kind(device) == "cuda" and dali_installed() else "torchvision"


def dali_installed() -> bool:
    """Whether DALI is installed. It is not imported."""
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


def _kind(device: "str | torch.device") -> str:
    """Of "cuda:1": cuda."""
    return str(device).partition(":")[0]
