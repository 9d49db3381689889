"""Progressive resizing: training images that grow from epoch to epoch, all out of one cache."""

from collections.abc import Callable, Iterator

from pipeline.limits import SMALLEST
from pipeline.loading.batch import Batch, Loader
from trainer.config import FitConfig

FULL_AFTER = 2 / 3
"""Of the epochs of fine-tuning: from there on images have the size that the run is measured at."""
STEP = 16
"""Pixels by which they grow at least."""
ROUND = 8


def start_pixels(start: float | None, size: int) -> int | None:
    """The first side, pixels, of images that grow to `size` from `start`, pixels or a share of the size (0 to 1).

    A share gives a multiple of 8, at least 32; None where that is no smaller than the size, or the share is 1.
    """
    if start is None or start == 1:
        return None
    if start > 1:
        return int(start)
    pixels = max(SMALLEST, round(start * size / ROUND) * ROUND)
    return pixels if pixels < size else None


def training_size(start: int, config: FitConfig, epoch: int) -> int:
    """The side of an epoch's training images, pixels: from `start`, along a line, to the resolved config's size."""
    assert config.size is not None
    share = (epoch - config.head_epochs) / (FULL_AFTER * config.epochs)
    if share >= 1:
        return config.size
    return start + int(max(0.0, share) * (config.size - start)) // STEP * STEP


class GrowingLoader(Loader):
    """A Loader whose epochs differ in size; one loader at a time is open below it."""

    def __init__(self, opened: Callable[[int], Loader], size_of: Callable[[int], int]) -> None:
        """opened: a loader of images of so many pixels. size_of: an epoch's."""
        self._opened, self._size_of = opened, size_of
        self._size = size_of(0)
        self._loader = opened(self._size)

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        size = self._size_of(number)
        if size != self._size:
            self._loader.close()
            self._size, self._loader = size, self._opened(size)
        return self._loader.epoch(number, start)

    def close(self) -> None:
        self._loader.close()
