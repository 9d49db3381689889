"""Stopping on Ctrl-C, or on SIGTERM, which schedulers send before they kill a job."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.machine import END_SIGNALS
from trainer.distributed.process_group import highest, world_size


class Stopped(BaseException):
    """The process was told to end. It is no Exception, because only the training loop may catch it."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)


class Stopper:
    """Turns SIGINT and SIGTERM into Stopped, but only between steps, where the state of a run is consistent.

    Later signals are ignored: the checkpoint is being written, and torchrun repeats the signal that a terminal or a
    scheduler has sent to each process already.
    """

    def __init__(self) -> None:
        self._stepping = self._collective = self._stopped = False
        self._came = 0

    @contextmanager
    def step(self) -> Iterator[None]:
        """A block that is not interrupted. A signal that arrives in it raises Stopped at its end."""
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False
        self._stop(highest(self._came) if self._collective else self._came)

    @contextmanager
    def collective(self) -> Iterator[None]:
        """A block of steps that all ranks do. If one rank gets a signal, all stop after the same step."""
        self._collective = world_size() > 1
        try:
            yield
        finally:
            self._collective = False
        self._stop(self._came)

    def _stop(self, number: int) -> None:
        if number and not self._stopped:
            self._stopped = True
            raise Stopped(number)

    def _heard(self, number: int, _: object) -> None:
        if self._stepping or self._collective:
            self._came = self._came or number
        else:
            self._stop(number)

    @classmethod
    @contextmanager
    def listening(cls) -> Iterator["Stopper"]:
        """Handles the signals for the duration of the block. Call it in the main thread."""
        stopper = cls()
        before = {number: signal.signal(number, stopper._heard) for number in (signal.SIGINT, *END_SIGNALS)}
        try:
            yield stopper
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
