import time
from concurrent.futures import Future
from threading import Event

import pytest

from pipeline.threads import thread_pool


def test_a_block_that_fails_drops_what_has_not_begun() -> None:
    began, done = Event(), []
    futures: list[Future[None]] = []

    def work(n: int) -> None:
        began.set()
        until = time.monotonic() + 10
        while not (len(futures) == 100 and futures[-1].done()) and time.monotonic() < until:
            time.sleep(0.001)
        done.append(n)

    def interrupted() -> None:
        with thread_pool(1) as pool:
            futures.extend(pool.submit(work, n) for n in range(100))
            began.wait()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [0]


def test_a_block_that_ends_does_it_all() -> None:
    done: list[int] = []
    with thread_pool(2) as pool:
        for n in range(100):
            pool.submit(done.append, n)
    assert sorted(done) == list(range(100))
