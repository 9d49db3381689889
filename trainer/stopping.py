"""Being told to stop: Ctrl-C, or SIGTERM, by which schedulers end a job before they kill it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(BaseException):
    """The process was told to end. Not an Exception: nothing but the training loop may catch it."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)


class Stopper:
    """Turns SIGINT and SIGTERM into Stopped, but never in the middle of a step: the state of a run is only whole
    between steps."""

    def __init__(self) -> None:
        self._stepping = False
        self._came: int | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """What is done within is done whole; a signal that comes meanwhile raises Stopped at its end."""
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False
        if self._came is not None:
            raise Stopped(self._came)

    def _heard(self, number: int, _: object) -> None:
        if not self._stepping:
            raise Stopped(number)
        self._came = number

    @classmethod
    @contextmanager
    def listening(cls) -> Iterator["Stopper"]:
        """Hears the signals within the block; to be called in the main thread."""
        stopper = cls()
        before = {number: signal.signal(number, stopper._heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield stopper
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
