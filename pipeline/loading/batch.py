"""Batches, and the protocol of a loader. The trainer depends on nothing else."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")


class Batch(NamedTuple):
    images: Tensor  # uint8 (n, 3, size, size), RGB 0-255, on the loader's device, channels-last strides
    grades: Tensor  # int64 (n,), 0-4, -1 where unknown, on the loader's device
    rows: Tensor  # int64 (n,), row in the manifest, on the CPU


class Loader(Protocol):
    """Renders the plan of an epoch into batches: `for batch in loader` is epoch 0, `loader.epoch(n)` any other.

    Epochs may be begun, left half-way and taken up again in any order; none changes another. A batch may be kept after
    the next is asked for. A photograph that cannot be read raises CacheError with its id when its batch's turn comes;
    the loader stays usable. For one consumer: not to be iterated from several threads at once.
    """

    def __len__(self) -> int:
        """Batches in an epoch, the short last one included."""
        ...

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from batch `start` on. Same number, same batches."""
        ...

    def close(self) -> None:
        """Ends the loader's threads; may be called twice. Leaving a `with` block does it too."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """The batches of epoch 0, each time the same: the n-th epoch of a training is `epoch(n)`."""
        return self.epoch(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def to_batch(images: Tensor, rows: NDArray[np.int64], grades: NDArray[np.int64]) -> Batch:
    """images: uint8 (n, 3, size, size); rows: (n,); grades: of the whole manifest."""
    return Batch(images, torch.from_numpy(grades[rows]).to(images.device, non_blocking=True), torch.from_numpy(rows))


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(images - mean) / std as float32 (n, 3, s, s), channels-last, of images uint8 (n, 3, s, s), a Batch's.

    mean, std: (3,), in grey levels, on the images' device.
    """
    width = images.shape[-1]
    rows = images.permute(0, 2, 3, 1).flatten(2)
    # Whole rows of pixels, because SIMD width is not divisible by 3 channels; in place; and on a CPU in numpy's memory,
    # for which it asks huge pages: 2.1 ms for a photograph of 512 px become 0.55.
    if images.device.type == "cpu" and not torch.compiler.is_compiling():
        floats = torch.from_numpy(np.empty(rows.shape, np.float32))
    else:
        floats = torch.empty(rows.shape, device=images.device)
    floats.copy_(rows).sub_(mean.repeat(width)).div_(std.repeat(width))
    return floats.view(*rows.shape[:2], width, 3).permute(0, 3, 1, 2)


PREFETCH: Final = 2
"""Batches that are prepared before they are asked for. A batch of 64 photographs of 512 px takes 50 MB."""


def prefetch(start: Callable[[T], R], items: Iterable[T], depth: int = PREFETCH) -> Iterator[R]:
    """Yields start(item) for every item, in order. Each is started `depth` items before it is yielded.

    >>> results = prefetch(lambda item: print(f"start {item}") or item, "abcd", depth=1)
    >>> next(results)
    start a
    start b
    'a'
    """
    started: deque[R] = deque()
    for item in items:
        started.append(start(item))
        if len(started) > depth:
            yield started.popleft()
    while started:
        yield started.popleft()
