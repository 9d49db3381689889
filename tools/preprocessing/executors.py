"""Executors that build groups of shards: processes of this machine, or a Dask cluster (dask_executor.py)."""

import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from ctypes import c_bool, c_int64
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.sharedctypes import RawValue, Synchronized
from typing import NamedTuple, Protocol

import cv2

from pipeline.errors import CacheError
from pipeline.machine import ignore_odd_metadata
from pipeline.threads import BLOCKS_SIGNALS, ThreadPool, signals_delayed
from tools.preprocessing.build_shards import BuildStopped, Built, Group, build_group


class GroupExecutor(Protocol):
    """Workers that build groups. A context manager opens an executor, ends its workers and raises one FundusError for
    whatever went wrong."""

    def wanted(self) -> int:
        """Number of groups that should be running or queued, so that no worker idles."""

    def submit(self, group: Group) -> "Future[Built]": ...

    def photographs(self) -> int:
        """Number of photographs done so far. Raises FundusError if the workers are lost."""


class SharedSignals(NamedTuple):
    """Values in shared memory, for the main process and its workers.

    The main process takes no lock: a worker may have been killed while it held it.
    """

    done: "Synchronized[int]"  # number of photographs done
    stop: c_bool  # workers end at their next photograph

    @classmethod
    def make(cls) -> "SharedSignals":
        return cls(get_context("spawn").Value(c_int64, 0), RawValue(c_bool, False))

    @property
    def photographs(self) -> int:
        return self.done.get_obj().value

    def begin(self, source: str) -> None:
        if self.stop.value:
            raise BuildStopped

    def end(self, source: str) -> None:
        with self.done.get_lock():
            self.done.value += 1


@contextmanager
def on_this_machine(workers: int, groups: int) -> Iterator[GroupExecutor]:
    """Processes of this machine. If there are fewer groups than workers, each process has several threads: decoding,
    resizing and encoding release the GIL.

    Raises CacheError if a worker dies.
    """
    processes = min(workers, groups, 61 if sys.platform == "win32" else workers)  # the most that Windows can wait for
    signals = SharedSignals.make()
    try:
        with _executor(processes, signals) as executor:
            try:
                yield _Pool(executor, processes, math.ceil(workers / processes), signals)
            except BaseException:
                for worker in active_children():
                    worker.kill()  # at most a .tmp file stays; waiting for one that is just starting would take long
                raise
            finally:
                signals.stop.value = True
                executor.shutdown(cancel_futures=True)
    except (BrokenProcessPool, MemoryError) as error:
        raise CacheError(
            "a worker was killed, probably because memory ran out; run the same command with fewer --workers"
        ) from error


class _Pool(NamedTuple):
    executor: Executor
    processes: int
    threads: int  # of each process
    signals: SharedSignals

    def wanted(self) -> int:
        return 2 * self.processes

    def submit(self, group: Group) -> "Future[Built]":
        with signals_delayed():  # this may start a process
            return self.executor.submit(_build, group._replace(threads=self.threads))

    def photographs(self) -> int:
        return self.signals.photographs


def _executor(processes: int, signals: SharedSignals) -> Executor:
    if processes == 1:  # another process would only import everything again
        return ThreadPool(1, initializer=_start_worker, initargs=(signals,))
    # Not forked: the main process has threads (the progress bar), and a fork may inherit a lock that a thread holds.
    return ProcessPoolExecutor(processes, get_context("spawn"), _start_process, (signals,))


# --- in a worker, process or thread

_signals: SharedSignals


def _start_worker(signals: SharedSignals) -> None:
    global _signals
    _signals = signals


def _start_process(signals: SharedSignals) -> None:
    _start_worker(signals)
    cv2.setNumThreads(1)  # the processes already use all cores
    ignore_odd_metadata()
    if BLOCKS_SIGNALS:  # Ctrl-C stays blocked: the main process handles it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None, "a worker process has a parent"

    def die_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()


def _build(group: Group) -> Built:
    return build_group(group, _signals)
