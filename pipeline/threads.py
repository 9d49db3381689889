"""Threads that end when their work is no longer wanted."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def thread_pool(workers: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads for the duration of the block. workers: how many; None: Python's own choice.

    If an exception ends the block, as Ctrl-C does, work that has not begun is dropped. Python's pool does all of it
    first, which may take minutes.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()
