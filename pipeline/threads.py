"""Pools of threads that Ctrl-C always ends."""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, Final, ParamSpec, TypeVar

from pipeline.machine import END_SIGNALS

T = TypeVar("T")
P = ParamSpec("P")

BLOCKS_SIGNALS: Final = hasattr(signal, "pthread_sigmask")
"""Whether the system can block signals. Windows cannot."""
_LONGEST_DELAY: Final = 0.1
"""Longest wait for a result with signals delayed, seconds."""
_delayed = False


class ThreadPool(ThreadPoolExecutor):
    """Python's pool of threads, with an end that one can rely on. Use it as a context manager.

    If an exception ends the block, as Ctrl-C does, work that has not begun is dropped. Python's pool does all of it
    first, which may take minutes.

    Ctrl-C is delayed while work is submitted and results are fetched. Python raises KeyboardInterrupt between any two
    steps, also after the main thread has taken a lock of the pool and before it can release it. The threads would then
    wait for that lock, and the end of the block for the threads, for ever. Fetch results by `map` or by `result_of`,
    not by `Future.result`, which takes such a lock too.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        with signals_delayed():
            return super().submit(fn, *args, **kwargs)

    def map(self, fn: Callable[..., T], *iterables: Iterable[Any]) -> Iterator[T]:  # type: ignore[override]
        """Results in order. All work is submitted at once. `timeout` and `chunksize` of Python's pools are missing."""
        with signals_delayed():
            futures = deque(self.submit(fn, *arguments) for arguments in zip(*iterables, strict=False))
        return (result_of(futures.popleft()) for _ in range(len(futures)))  # each result is kept no longer than needed

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.shutdown(cancel_futures=kind is not None)


def result_of(future: Future[T]) -> T:
    """The result of work in a pool, once it is done. Raises what the work raised."""
    return results_of([future])[0]


def results_of(futures: Sequence[Future[T]]) -> list[T]:
    """The results of several tasks, once all are done. Raises the error of the first that failed, in their order."""
    while True:
        with signals_delayed():
            if not wait(futures, _LONGEST_DELAY).not_done:
                return [future.result() for future in futures]


@contextmanager
def signals_delayed() -> Iterator[None]:
    """Delays SIGINT and SIGTERM to the end of the block, or of the outermost of such blocks. In other threads than the
    main thread it does nothing, because Python handles signals in the main thread.

    It takes 0.1 ms, so a block for many tasks is better than many blocks.

    Threads and processes that start in the block have both signals blocked. Ctrl-C goes to the whole process group, and
    would end each worker with a traceback. Windows cannot block signals: Ctrl-C in the second in which a worker starts
    may print a traceback.
    """
    global _delayed
    if _delayed or threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *END_SIGNALS)}
    handlers = {number: handler for number, handler in handlers.items() if handler is not None}  # None: not Python's
    received: list[int] = []  # a signal blocked here goes to another thread (numpy has some), and Python handles it
    delaying, mask = True, None

    def handle(number: int, _: object) -> None:
        if delaying:
            received.append(number)
        else:  # the end of the block was interrupted, and this handler stayed
            signal.signal(number, handlers[signal.Signals(number)])
            signal.raise_signal(number)

    try:
        for number in handlers:
            signal.signal(number, handle)
        if BLOCKS_SIGNALS:
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, handlers)
        _delayed = True
        yield
    finally:
        _delayed = False
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            for number, handler in reversed(handlers.items()):  # SIGINT last: it may raise as soon as it is back
                signal.signal(number, handler)
        finally:
            delaying = False
        for came in received:
            signal.raise_signal(came)
