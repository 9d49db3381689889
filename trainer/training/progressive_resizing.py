"""Progressive resizing: training images grow from epoch to epoch, all from one cache."""

from collections.abc import Callable, Iterator

from pipeline.limits import SMALLEST
from pipeline.loading.batch import Batch, Loader
from trainer.config import FitConfig

FULL_AFTER = 2 / 3
"""Fraction of the fine-tuning epochs after which images have their full size."""
STEP = 16
"""Images grow in steps of this many pixels."""
ROUND = 8


def start_pixels(start: float | None, size: int) -> int | None:
    """The image size of the first epoch, pixels; None if images do not grow.

    start: pixels, or a fraction of `size` (0 to 1), which is rounded to a multiple of 8, at least 32.
    size: the full image size, pixels.
    """
    if start is None or start == 1:
        return None
    if start > 1:
        return int(start)
    pixels = max(SMALLEST, round(start * size / ROUND) * ROUND)
    return pixels if pixels < size else None


def training_size(start: int, config: FitConfig, epoch: int) -> int:
    """The image size of an epoch, pixels. It grows linearly from `start` to the size of `config`, which is resolved."""
    assert config.size is not None
    grown = (epoch - config.head_epochs) / (FULL_AFTER * config.epochs)
    if grown >= 1:
        return config.size
    return start + int(max(0.0, grown) * (config.size - start)) // STEP * STEP


class GrowingLoader(Loader):
    """A Loader whose epochs have different image sizes. It keeps one loader open, of the present size."""

    def __init__(self, opened: Callable[[int], Loader], size_of: Callable[[int], int]) -> None:
        """opened: opens a loader for an image size, pixels. size_of: the image size of an epoch."""
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
