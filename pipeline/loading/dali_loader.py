"""Renders a plan with NVIDIA DALI, on the CPU or on one GPU.

DALI only decodes and warps: the plan decides the order and the geometry. JPEGs are fed batch by batch, so the loader
always knows which batches are in the pipeline. One pipeline, built once, is used for all epochs.
"""

import ctypes
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from pipeline.cache.cache import Cache
from pipeline.errors import CacheError
from pipeline.loading.batch import Batch, Loader, prefetch, to_batch
from pipeline.loading.plan import EpochPlan, Schedule, halvings
from pipeline.threads import ThreadPool, result_of

Jpegs = list[NDArray[np.uint8]]


class _Job(NamedTuple):
    """A batch that is being read, then decoded and warped."""

    plan: EpochPlan
    jpegs: Future[Jpegs]


class DaliLoader(Loader):
    """workers: threads that decode and, on the CPU, warp; at least 1. See pipeline.loading.batch.Loader."""

    def __init__(self, cache: Cache, schedule: Schedule, *, device: str | torch.device, workers: int) -> None:
        self._cache = cache
        self._schedule = schedule
        self._device = torch.device(device)
        self._workers = workers
        self._grades = cache.grades
        self._halvings = halvings(schedule.source_size, schedule.size)
        self._fed: deque[Jpegs] = deque()  # DALI reads them in place until their batch has come out
        self._current = object()  # stands for the epoch that the fed batches belong to
        self._pipe = self._build()
        # Checksums and page faults take 3 ms for 64 photographs, so they are not left to the training thread.
        self._reader = ThreadPool(1, thread_name_prefix="loader")

    def __len__(self) -> int:
        return len(self._schedule)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        batches = self._schedule.batches(number, start)
        self._cache.prefetch(plan.rows for plan in batches)
        # With one batch fed ahead DALI never waits; two are no faster (0.98 times). An epoch that is left half-way then
        # leaves only one batch in the pipeline, and the first batch of the next epoch waits for that one.
        jobs = prefetch(self._feed, prefetch(self._read, batches), 1)
        self._drain()
        self._current = this = object()
        for done in range(len(batches)):
            if self._current is not this:  # another epoch has begun and emptied the pipeline
                yield from self.epoch(number, start + done)
                return
            yield self._finish(next(jobs))
        _give_back_memory()

    def _read(self, plan: EpochPlan) -> _Job:
        def read() -> Jpegs:
            return [np.frombuffer(self._cache.read(row), np.uint8) for row in plan.rows.tolist()]

        return _Job(plan, self._reader.submit(read))

    def _feed(self, job: _Job) -> _Job:
        try:
            jpegs = result_of(job.jpegs)
        except Exception:  # `_finish` raises it
            return job
        self._start(jpegs, job.plan)
        return job

    def _start(self, jpegs: Jpegs, plan: EpochPlan) -> None:
        self._pipe.feed_input("jpegs", jpegs)
        reduced = plan.matrices / np.float32(2**self._halvings)
        reduced[:, :, 2] += 1  # the black border
        self._pipe.feed_input("matrices", reduced)
        if plan.colours is not None:
            self._pipe.feed_input("colours", plan.colours)
        self._pipe.schedule_run()
        self._fed.append(jpegs)

    def _finish(self, job: _Job) -> Batch:
        jpegs = result_of(job.jpegs)
        try:
            images = self._outputs()
        except RuntimeError as error:
            self._rebuild()
            row = self._first_damaged(job.plan, jpegs)
            if row is None:
                raise
            id = self._cache.manifest["id"].iloc[row]
            raise CacheError(f"{self._cache.path}: {id} does not decode as a JPEG") from error
        return to_batch(images, job.plan.rows, self._grades)

    def _outputs(self) -> Tensor:
        """uint8 (n, 3, size, size), the oldest batch in the pipeline. It is not copied: DALI has other memory."""
        (images,) = self._pipe.outputs()
        self._fed.popleft()
        return from_dlpack(images.as_tensor()).permute(0, 3, 1, 2)

    def _drain(self) -> None:
        """Empties the pipeline of batches that are no longer wanted."""
        try:
            while self._fed:
                self._outputs()
        except RuntimeError:  # a photograph of an unwanted batch is damaged
            self._rebuild()

    def _first_damaged(self, plan: EpochPlan, jpegs: Jpegs) -> int | None:
        """The first row whose JPEG cannot be decoded by itself; None if all can. DALI's message seldom names it."""
        for number, jpeg in enumerate(jpegs):
            try:
                self._start([jpeg], plan.part(slice(number, number + 1)))
                self._outputs()
            except RuntimeError:
                self._rebuild()
                return int(plan.rows[number])
        return None

    def _rebuild(self) -> None:
        """Replaces the pipeline: after an error it cannot be used again."""
        self._fed.clear()
        self._pipe = self._build()

    def _build(self) -> Any:
        on_gpu = self._device.type == "cuda"
        index = torch.cuda.current_device() if on_gpu and self._device.index is None else self._device.index
        size, reduced = self._schedule.size, self._schedule.source_size
        pipe = Pipeline(
            batch_size=self._schedule.batch_size,
            num_threads=self._workers,
            device_id=index if on_gpu else None,
            prefetch_queue_depth=1,  # batches of the first schedule_run(); later calls add one each
        )
        with pipe:
            jpegs = fn.external_source(name="jpegs", dtype=types.UINT8, ndim=1, no_copy=True)
            matrices = fn.external_source(name="matrices", dtype=types.FLOAT, ndim=2)
            images = fn.decoders.image(
                jpegs, device="mixed" if on_gpu else "cpu", output_type=types.RGB, adjust_orientation=False
            )
            for _ in range(self._halvings):
                reduced //= 2
                # Halfway between two pixels each way, bilinear interpolation is the mean of 2 x 2.
                images = fn.resize(images, size=(reduced, reduced), interp_type=types.INTERP_LINEAR, antialias=False)
            # A black border, which the warp repeats outside: the same as fill_value=0, but on a CPU a photograph of
            # 512 px takes 10 ms in all instead of 14.
            images = fn.crop(images, crop=(reduced + 2, reduced + 2), out_of_bounds_policy="pad", fill_values=0)
            images = fn.warp_affine(images, matrix=matrices, size=(size, size), interp_type=types.INTERP_LINEAR)
            if self._schedule.augment.colour > 0:
                colours = fn.external_source(name="colours", dtype=types.FLOAT, ndim=2)
                images = fn.coord_transform(images, MT=colours, dtype=types.UINT8)
            pipe.set_outputs(images)
        pipe.build()
        return pipe

    def close(self) -> None:
        self._reader.shutdown(cancel_futures=True)
        self._drain()
        self._pipe = None


def _give_back_memory() -> None:
    """Returns freed pages to the system. The C library keeps pages between used buffers: with batches of 32 photographs
    of 512 px a process of 1.1 GB grew by 250 MB within 60 epochs."""
    ctypes.CDLL(None).malloc_trim(0)  # DALI needs glibc anyway
