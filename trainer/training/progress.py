"""The line that is alive while an epoch trains, on a terminal: step, loss, images a second, time left, GPU memory."""

from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter
from typing import Final, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import Tensor

from trainer.config import FitConfig

Item = TypeVar("Item")

GIB: Final = 2**30
LOOK_EVERY: Final = 0.5
"""Seconds between two looks at the loss."""


class LastLoss:
    """Mean loss of a recent step, without ever waiting for the GPU: its copy is asked for, and read once it is there.

    A look at every step (`loss.item()`) would let the GPU run dry between two of them.
    """

    def __init__(self) -> None:
        self.value: float | None = None
        self._asked: tuple[Tensor, torch.cuda.Event | None] | None = None
        self._when = float("-inf")

    def look(self, step: Tensor) -> None:
        """`step`: float32 (3,), on any device: summed loss, photographs graded right, photographs."""
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
    """The batches, with a line on stderr while they last if that is a terminal; a pipe gets whole lines, an epoch each
    (trainer.console.epoch_line).

    `steps` grows by one a batch: float32 (3,), summed loss, photographs graded right, photographs; `total` is how many
    the epoch, counted from 0, will have had.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from batches
        return
    phase = config.phase(epoch)
    epochs = config.head_epochs if phase == "head" else config.total_epochs
    first, began, loss = len(steps), perf_counter(), LastLoss()
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[said]}"))
    with Progress(*columns, console=console, transient=True) as progress:
        what = f"epoch {epoch + 1}/{config.total_epochs} {phase}"
        task = progress.add_task(what, total=total, completed=first, said="")
        for batch in batches:
            yield batch
            loss.look(steps[-1])
            pace = (perf_counter() - began) / (len(steps) - first)
            left = pace * (total - len(steps))
            said = [] if loss.value is None else [f"loss {loss.value:.4f}"]
            whole = f" ({phase} {clock(left + pace * total * (epochs - epoch - 1))})" if epoch + 1 < epochs else ""
            said += [f"{config.batch / pace:.0f} images/s", f"{clock(left)} left{whole}"]
            if device.type == "cuda":
                used, there = torch.cuda.max_memory_reserved(device), torch.cuda.mem_get_info(device)[1]
                said.append(f"GPU {used / GIB:.1f} of {there / GIB:.0f} GiB")
            progress.update(task, completed=len(steps), said=", ".join(said))


def clock(seconds: float) -> str:
    """
    >>> clock(3725), clock(59.6)
    ('1:02:05', '1:00')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
