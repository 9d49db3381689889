"""Renders a plan without DALI: a pool of threads decodes and, on the CPU, warps; a GPU warps whole batches.

Threads, not processes: decoding and warping release the GIL, and no picture is pickled or sent through shared memory.
These give equal pixels, in one thread at 512 px: OpenCV's decoder in 1.5 ms and Pillow's in 1.8 ms (both are
libjpeg-turbo; torchvision's own is deprecated); OpenCV's warp in 1.8 ms with three channels and 0.9 ms with four.
The process sets the number of OpenCV's own threads. Commands give it none: on two cores at 512 px two more change
nothing (462 images/s, 461 without).
Needs OpenCV 5: older versions round coordinates to 1/32 pixel, which differs from DALI and torch by 4 grey levels.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from typing import Final, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from pipeline.cache.cache import Cache
from pipeline.errors import CacheError
from pipeline.loading.batch import Batch, Loader, prefetch, to_batch
from pipeline.loading.plan import EpochPlan, Schedule, halvings
from pipeline.threads import ThreadPool, results_of, signals_delayed

Picture = NDArray[np.uint8]


def decode_jpeg(jpeg: bytes | memoryview) -> Picture | None:
    """(size, size, 3), RGB, of a cached JPEG; None if it is no JPEG."""
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if picture is None else picture.astype(np.uint8, copy=False)


class Rendering(NamedTuple):
    """A batch that is being made: each task fills its photograph's part of `pixels`."""

    pixels: Tensor  # uint8 (n, side, side, 3)
    matrices: NDArray[np.float32]  # (n, 2, 3) from output pixels to the reduced picture, not to the cached one
    colours: NDArray[np.float32] | None  # (n, 3, 4)
    tasks: list[Future[None]]


class Renderer(AbstractContextManager["Renderer"]):
    """Threads that make batches of pictures on a device: for the loader, and for predict.

    source_size, size: sides of the encoded and of the rendered pictures, pixels. workers: threads, at least 1.
    """

    def __init__(self, source_size: int, size: int, *, device: str | torch.device, workers: int) -> None:
        self._device = torch.device(device)
        self._size = size
        self._halvings = halvings(source_size, size)
        self.reduced: Final = source_size >> self._halvings
        """Side of the pictures that are warped."""
        self._scratch = Scratch(self.reduced, size)
        self._pool = ThreadPool(workers, thread_name_prefix="loader")

    def decode(self, jpeg: bytes | memoryview) -> Picture | None:
        """(reduced, reduced, 3), RGB; None if it is no JPEG. Called in the pool's threads."""
        picture = decode_jpeg(jpeg)
        if picture is not None and self._halvings:
            halved = cv2.resize(picture, (self.reduced, self.reduced), interpolation=cv2.INTER_AREA)
            return halved.astype(np.uint8, copy=False)
        return picture

    def begin(self, pictures: Sequence[Callable[[], Picture]], plan: EpochPlan, over: threading.Event) -> Rendering:
        """Starts the threads on a plan's pictures. pictures: each returns one, as `decode` does. Once `over` is set, no
        more are called.
        """
        on_cpu = self._device.type == "cpu"
        side = self._size if on_cpu else self.reduced
        shape = (len(pictures), side, side, 3)
        if self._device.type == "cuda":
            pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        else:
            # numpy asks the kernel for huge pages. torch does not: first writes to its memory cost 0.5 ms a picture.
            pixels = torch.from_numpy(np.empty(shape, np.uint8))
        to_reduced = plan.matrices / np.float32(2**self._halvings)

        def render(number: int, picture: Callable[[], Picture], place: Picture) -> None:
            if over.is_set():
                return  # the epoch was left half-way: the batch is not wanted
            if on_cpu:
                warp(picture(), to_reduced[number], place, self._scratch)
                if plan.colours is not None:
                    cv2.transform(place, plan.colours[number], dst=place)
            else:
                place[:] = picture()

        places = zip(range(len(pictures)), pictures, pixels.numpy(), strict=True)
        with signals_delayed():
            tasks = [self._pool.submit(render, *place) for place in places]
        return Rendering(pixels, to_reduced, plan.colours, tasks)

    def finish(self, rendering: Rendering) -> Tensor:
        """uint8 (n, 3, size, size) on the device. Raises the error of the first picture that failed."""
        results_of(rendering.tasks)
        images = rendering.pixels.to(self._device, non_blocking=True).permute(0, 3, 1, 2)
        if self._device.type == "cpu":
            return images
        matrices = torch.from_numpy(rendering.matrices).to(self._device, non_blocking=True)
        images = warp_batch(images, matrices, self._size)
        if rendering.colours is None:
            return images
        return recolour_batch(images, torch.from_numpy(rendering.colours).to(self._device, non_blocking=True))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __exit__(self, *_: object) -> None:
        self.close()


class TorchvisionLoader(Loader):
    """workers: threads, at least 1. See pipeline.loading.batch.Loader."""

    def __init__(self, cache: Cache, schedule: Schedule, *, device: str | torch.device, workers: int) -> None:
        self._cache = cache
        self._schedule = schedule
        self._grades = cache.grades
        self._renderer = Renderer(schedule.source_size, schedule.size, device=device, workers=workers)

    def __len__(self) -> int:
        return len(self._schedule)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        over = threading.Event()

        def begin(plan: EpochPlan) -> tuple[EpochPlan, Rendering]:
            pictures = [partial(decoded, self._renderer.decode, self._cache, row) for row in plan.rows.tolist()]
            return plan, self._renderer.begin(pictures, plan, over)

        batches = self._schedule.batches(number, start)
        self._cache.prefetch(plan.rows for plan in batches)
        try:
            for plan, rendering in prefetch(begin, batches):
                yield to_batch(self._renderer.finish(rendering), plan.rows, self._grades)
        finally:
            over.set()

    def close(self) -> None:
        self._renderer.close()


def decoded(decode: Callable[[memoryview], Picture | None], cache: Cache, row: int) -> Picture:
    """A photograph of a cache. decode: `decode_jpeg`, or a renderer's own. Raises CacheError if it is damaged."""
    picture = decode(cache.read(row))
    if picture is None:
        raise CacheError(f"{cache.path}: {cache.manifest['id'].iloc[row]} does not decode as a JPEG")
    return picture


class Scratch(threading.local):
    """Two pictures with four channels for each thread. To allocate them for every warp would cost what they save."""

    def __init__(self, source_size: int, size: int) -> None:
        self.source = np.empty((source_size, source_size, 4), np.uint8)
        self.target = np.empty((size, size, 4), np.uint8)


def warp(picture: NDArray[np.uint8], matrix: NDArray[np.float32], out: NDArray[np.uint8], scratch: Scratch) -> None:
    """Fills `out`, (size, size, 3): bilinear, black outside. The matrix is a plan's."""
    from_indices = matrix.astype(np.float64)
    from_indices[:, 2] += from_indices[:, :2].sum(1) * 0.5 - 0.5  # OpenCV's pixel centres lie at whole numbers
    size = (out.shape[1], out.shape[0])
    cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA, dst=scratch.source)
    cv2.warpAffine(scratch.source, from_indices, size, scratch.target, cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    cv2.cvtColor(scratch.target, cv2.COLOR_RGBA2RGB, dst=out)


def warp_batch(images: Tensor, matrices: Tensor, size: int) -> Tensor:
    """The same for uint8 (n, 3, source, source) and float32 (n, 2, 3), on their device: uint8 (n, 3, size, size).

    Within one grey level of `warp`. Written out and not by `affine_grid`, whose matrix product runs in TF32 where that
    is allowed, with errors of a quarter of a pixel.
    """
    centres = torch.arange(size, device=images.device) + 0.5
    column, row, shift = (matrices[:, None, None, :, i] for i in range(3))  # each (n, 1, 1, 2)
    source = column * centres[None, None, :, None] + row * centres[None, :, None, None] + shift  # (n, size, size, 2)
    grid = source * (2 / images.shape[-1]) - 1
    warped = grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return warped.round_().to(torch.uint8, memory_format=torch.channels_last)


def recolour_batch(images: Tensor, colours: Tensor) -> Tensor:
    """uint8 (n, 3, s, s) by float32 (n, 3, 4), on their device, within one grey level of OpenCV's and DALI's result."""
    red, green, blue, one = colours[:, :, :, None, None].unbind(2)  # each (n, 3, 1, 1)
    pixels = images.float()
    mixed = red * pixels[:, :1] + green * pixels[:, 1:2] + blue * pixels[:, 2:] + one
    return mixed.round_().clamp_(0, 255).to(torch.uint8, memory_format=torch.channels_last)
