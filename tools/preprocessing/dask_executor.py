"""The executor that builds groups of shards on a Dask cluster. Dask's own launchers start one on SLURM, Kubernetes,
SSH.

SRC and the cache lie on a file system that this process and all workers see under the same paths: photographs and
shards never pass through Dask. If a worker dies, Dask gives its group to another one. If a group has killed more
workers than `distributed.scheduler.allowed-failures`, Dask gives it up.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Final
from uuid import uuid4

from distributed import Client, KilledWorker
from distributed.comm import CommClosedError

from pipeline.errors import ClusterError
from pipeline.storage.atomic import TMP_SUFFIX
from tools.preprocessing.build_shards import Built, Group
from tools.preprocessing.dask_worker import (
    PACKAGES,
    BuildTask,
    Environment,
    build_task,
    code_fingerprint,
    environment,
    stop_run,
    trail_pattern,
    unfinished,
    version_of,
)
from tools.preprocessing.executors import GroupExecutor

CONNECT_SECONDS: Final = 10
NO_WORKER_SECONDS: Final = 60
"""After this time without any worker the run ends: Dask restarts a worker that died sooner."""
ASK_SECONDS: Final = 2
"""Least time between two questions to the scheduler."""


@contextmanager
def on_cluster(scheduler: str, groups: list[Group]) -> Iterator[GroupExecutor]:
    """The workers of the Dask scheduler at that address.

    Raises ClusterError if no scheduler answers, if a worker has other versions or does not see the same files, if the
    scheduler ends, and if a photograph kills several workers.
    """
    for name in ("distributed", "distributed.client"):  # errors are printed once, by us
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(f"{scheduler}: no Dask scheduler answers there; `dask scheduler` starts one") from error
    cluster = _Cluster(client, scheduler)
    try:
        cluster.open(groups)
        yield cluster
    except BaseException as error:
        explained = cluster.explain(error)
        cluster.stop()
        if explained is error:
            raise
        raise explained from error
    finally:
        client.close(timeout=1)


class _Cluster:
    """The executor, while it is open."""

    def __init__(self, client: Client, scheduler: str) -> None:
        self.client, self.scheduler, self.run = client, scheduler, uuid4().hex
        self.executor = client.get_executor()
        self.tasks: list[BuildTask] = []
        self.done: dict[int, int] = {}  # number of a task -> photographs done
        self.workers, self.threads = 0, 1
        self.asked_at = self.had_workers_at = time.monotonic()

    def open(self, groups: list[Group]) -> None:
        """Counts the workers and checks that their results would be the same as here."""
        try:
            self.client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise ClusterError(f"{self.scheduler} has no workers; {self._advice()}") from error
        _check_workers(self.client, groups[0])
        threads = self.client.nthreads().values()
        self.workers = sum(threads)
        # If there are fewer groups than threads, each group gets several threads, but no more than a worker has.
        self.threads = min(math.ceil(self.workers / len(groups)), *threads)
        self.client.subscribe_topic(self.run, self._on_progress)

    def wanted(self) -> int:
        now = time.monotonic()
        if now - self.asked_at > ASK_SECONDS:
            self.asked_at = now
            self.workers = sum(self.client.nthreads().values())
            if self.workers:
                self.had_workers_at = now
            elif now - self.had_workers_at > NO_WORKER_SECONDS:
                raise ClusterError(f"{self.scheduler} has had no workers for {NO_WORKER_SECONDS} s; {self._advice()}")
        return 2 * max(1, self.workers)

    def submit(self, group: Group) -> "Future[Built]":
        number = len(self.tasks)
        self.tasks.append(BuildTask(self.run, number, code_fingerprint(), group._replace(threads=self.threads)))
        self.done[number] = 0
        future: Future[Built] = self.executor.submit(build_task, self.tasks[-1], key=f"preprocess-{self.run}-{number}")
        future.add_done_callback(partial(self._on_finished, number))
        return future

    def photographs(self) -> int:
        if self.client.status != "running":
            raise self._gone()
        return sum(self.done.values())

    def _on_progress(self, event: tuple[float, tuple[int, int]]) -> None:
        number, done = event[1]
        self.done[number] = max(done, self.done[number])  # a second attempt counts from 0 again

    def _on_finished(self, number: int, future: "Future[Built]") -> None:
        if not future.cancelled() and not future.exception():
            self.done[number] = sum(map(len, self.tasks[number].group.shards.values()))

    def stop(self) -> None:
        """Tells the workers to stop. A worker that cannot be reached stops after its group."""

        def tell() -> None:
            with suppress(Exception):  # the run ends anyway
                self.client.run(stop_run, self.run, on_error="ignore")

        if self.client.status == "running":
            thread = threading.Thread(target=tell, daemon=True)
            thread.start()
            thread.join(1)

    def explain(self, error: BaseException) -> BaseException:
        """The ClusterError that explains an error of Dask to the user; any other error unchanged."""
        if not isinstance(error, Exception):
            return error
        if isinstance(error, KilledWorker):
            return self._killed(self.tasks[int(error.task.rpartition("-")[2])])
        if self.client.status != "running" or isinstance(error, CancelledError | CommClosedError):
            return self._gone()
        if isinstance(error, MemoryError):
            return ClusterError(f"{self.scheduler}: a worker has too little memory; {_MORE_MEMORY}")
        return error

    def _killed(self, task: BuildTask) -> ClusterError:
        group = task.group
        trails = [unfinished(trail) for trail in group.folder.glob(trail_pattern(task))]
        if not trails:  # Dask ends a worker that cannot unpickle its task
            return ClusterError(f"{self.scheduler}: workers end at their first photograph; do they lack {PACKAGES[0]}?")
        suspects = sorted(set.intersection(*trails))
        what = " or ".join(str(group.root / source) for source in suspects) or f"a photograph of {group.root}"
        return ClusterError(f"{what} has killed {len(trails)} workers, probably because memory ran out; {_MORE_MEMORY}")

    def _gone(self) -> ClusterError:
        return ClusterError(f"{self.scheduler}: the Dask scheduler is gone; run the same command to continue")

    def _advice(self) -> str:
        return f"`dask worker {self.scheduler} --nthreads 1` starts one; then run the same command to continue"


_MORE_MEMORY: Final = (
    "give workers more (`dask worker --memory-limit`) or remove the photograph, then run the same command to continue"
)


def _check_workers(client: Client, group: Group) -> None:
    """Raises ClusterError, with a worker's name, if one has other versions or does not see the same files."""

    def ask(function: Callable[..., object], *arguments: object) -> dict[str, object]:
        answers: dict[str, object] = client.run(function, *arguments, on_error="return")
        return answers

    def refuse(workers: list[str], what: str) -> ClusterError:
        more = f" (and {len(workers) - 1} more)" if len(workers) > 1 else ""
        return ClusterError(f"worker {workers[0]}{more} {what}")

    for package in PACKAGES:
        here = version_of(package)
        # A function of the standard library: a worker without our package can answer too.
        versions = {
            worker: None if isinstance(there, PackageNotFoundError) else str(there)
            for worker, there in ask(version, package).items()
        }
        if different := [worker for worker, there in versions.items() if there != here]:
            has = f"has {package} {versions[different[0]]}" if versions[different[0]] else f"lacks {package}"
            raise refuse(
                different, f"{has}, this machine has {here}; both must make the same bytes: install the same version"
            )
    source = next(iter(group.shards.values()))[0].file.source
    out = group.folder.parent
    marker = out / f"{uuid4().hex}{TMP_SUFFIX}"
    marker.touch()
    try:
        own, theirs = environment(group.root, source, marker), ask(environment, group.root, source, marker)
    finally:
        marker.unlink()
    for worker, there in theirs.items():
        if not isinstance(there, Environment):
            raise refuse([worker], f"cannot run fundus-grading ({there})")
        if there.fingerprint != own.fingerprint:
            raise refuse([worker], "has other code of fundus-grading than this machine; install the same version")
        if there.photograph != own.photograph:
            raise refuse([worker], f"cannot read {group.root / source} ({there.photograph}); {_SHARED}")
        if not there.sees_marker:
            raise refuse([worker], f"cannot write to {out}; {_SHARED}")


_SHARED: Final = "SRC and --out must lie where this machine and all workers see them under the same paths"
