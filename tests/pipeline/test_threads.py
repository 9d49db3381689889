import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from threading import Event

import pytest

from pipeline.threads import ThreadPool, result_of, signals_delayed

ROOT = Path(__file__).resolve().parents[2]


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
        with ThreadPool(1) as pool:
            futures.extend(pool.submit(work, n) for n in range(100))
            began.wait()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [0]


def test_a_block_that_ends_does_it_all() -> None:
    done: list[int] = []
    with ThreadPool(2) as pool:
        for n in range(100):
            pool.submit(done.append, n)
    assert sorted(done) == list(range(100))


def test_results_come_in_order_and_errors_are_raised() -> None:
    def late(n: int) -> int:
        time.sleep(0.15 * (n == 0))  # longer than one wait for a result
        return 60 // (2 - n)

    with ThreadPool(2) as pool:
        results = pool.map(late, range(3))
        assert [next(results), next(results)] == [30, 60]
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert result_of(pool.submit(late, 0)) == 30


INTERRUPTED = """
import signal, sys, threading, time
from pipeline.threads import ThreadPool

taken = 0

def at_return(frame, event, _):
    global taken
    if event == "return" and frame.f_code is threading.Condition.__enter__.__code__:
        taken += 1
        if taken == int(sys.argv[1]):
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)

try:
    with ThreadPool(2) as pool:
        sys.setprofile(at_return)
        for _ in pool.map(time.sleep, [0.005] * 50):
            pass
except KeyboardInterrupt:
    print("interrupted,", threading.active_count(), "thread left")
"""


@pytest.mark.parametrize("number", [1, 3, 10, 51, 53, 56, 74, 75])
def test_ctrl_c_leaves_no_lock_behind(number: int) -> None:
    """SIGINT at the worst moment: the main thread has taken the lock of a condition, its `number`-th, and does not know
    yet that it must release it. To submit 50 tasks takes 52 such locks, to wait for each result three. A pool with a
    lost lock never ends, hence the process. Without the delay of signals, all but the first and the last number hang.
    """
    command = [sys.executable, "-c", INTERRUPTED, str(number)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "interrupted, 1 thread left\n", "")


def test_a_signal_is_handled_at_the_end_of_the_block() -> None:
    seen = []

    def interrupted() -> None:
        with signals_delayed():
            signal.raise_signal(signal.SIGINT)
            seen.append("the rest of the block")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert seen == ["the rest of the block"]


def test_signals_at_any_moment_leave_handlers_and_mask_as_they_were() -> None:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    rng = random.Random(0)
    came = 0
    for _ in range(300):
        sender = threading.Timer(rng.uniform(0, 0.002), os.kill, (os.getpid(), signal.SIGINT))
        try:
            sender.start()
            while True:
                with signals_delayed():
                    pass
        except KeyboardInterrupt:
            came += 1
        sender.join()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    assert came == 300


def test_another_thread_may_delay_signals_too() -> None:
    def delayed() -> str:
        with signals_delayed():
            return "done"

    with ThreadPool(1) as pool:
        assert result_of(pool.submit(delayed)) == "done"
