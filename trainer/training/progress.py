"""The progress line of an epoch: step, time left, images per second, loss, GPU memory."""

from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter
from typing import Final, TypeVar

import torch
from torch import Tensor

from pipeline.progress import as_clock, progress_of
from trainer.config import FitConfig

Item = TypeVar("Item")

GIB: Final = 2**30
LOOK_EVERY: Final = 0.5
"""Seconds between two readings of the loss."""


class LastLoss:
    """The mean loss of a recent step, without waiting for the GPU: it is copied to the host, and read when it is there.

    Reading it at every step (`loss.item()`) would leave the GPU without work between two steps.
    """

    def __init__(self) -> None:
        self.value: float | None = None
        self._asked: tuple[Tensor, torch.cuda.Event | None] | None = None
        self._when = float("-inf")

    def look(self, step: Tensor) -> None:
        """step: float32 (3,), on any device: summed loss, photographs graded right, photographs."""
        if self._asked:
            copy, arrived = self._asked
            if arrived is None or arrived.query():  # type: ignore[no-untyped-call]
                self.value = float(copy[0] / copy[2])
                self._asked = None
        elif perf_counter() - self._when >= LOOK_EVERY:
            self._when = perf_counter()
            copy, arrived = step.to("cpu", non_blocking=step.is_cuda), None  # into pinned memory
            if step.is_cuda:
                arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
                arrived.record()
            self._asked = copy, arrived


def watch(
    batches: Iterable[Item], steps: Sequence[Tensor], total: int, config: FitConfig, epoch: int, device: torch.device
) -> Iterator[Item]:
    """The batches, with a line on stderr while they last: a bar on a terminal, else a line every 30 s.

    `steps` grows by one a batch: float32 (3,), summed loss, photographs graded right, photographs; `total` is how many
    the epoch, counted from 0, will have had.
    """
    phase = config.phase(epoch)
    first, began, loss = len(steps), perf_counter(), LastLoss()
    last = config.head_epochs if phase == "head" else config.total_epochs

    def more() -> str:
        said = [] if loss.value is None else [f"loss {loss.value:.4f}"]
        if epoch + 1 < last and len(steps) > first:
            pace = (perf_counter() - began) / (len(steps) - first)
            said.append(f"{phase} {as_clock(pace * (total * (last - epoch) - len(steps)))} left")
        if device.type == "cuda":
            used, there = torch.cuda.max_memory_reserved(device), torch.cuda.mem_get_info(device)[1]
            said.append(f"GPU {used / GIB:.1f} of {there / GIB:.0f} GiB")
        return ", ".join(said)

    what = f"epoch {epoch + 1}/{config.total_epochs} {phase}"
    with progress_of(what, "images", each=config.batch) as update:
        update(first, total)
        for batch in batches:
            yield batch
            loss.look(steps[-1])
            update(len(steps), total, more)
