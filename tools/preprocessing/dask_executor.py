"""Groups of shards built on a Dask cluster; those on SLURM, Kubernetes and SSH come by Dask's own launchers.

SRC and the cache lie on a file system that this process and all workers see under the same paths: photographs and
shards never pass through Dask. Its own rules hold: a group whose worker dies goes to another, and one that has killed
more workers than `distributed.scheduler.allowed-failures` says is given up.
"""

import logging
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final
from uuid import uuid4

from distributed import Client, KilledWorker
from distributed.comm import CommClosedError

from pipeline.errors import ClusterError
from pipeline.storage.atomic import TMP_SUFFIX
from tools.preprocessing.build_shards import Built, Group
from tools.preprocessing.dask_worker import (
    PACKAGES,
    Order,
    Sight,
    build_order,
    fingerprint,
    look,
    stop_run,
    trail_pattern,
    under_way,
    version_of,
)
from tools.preprocessing.executors import GroupExecutor

CONNECT_SECONDS: Final = 10
ALONE_SECONDS: Final = 60
"""Where there has been no worker for so long nobody is expected: one that died is started again in less."""
ASK_SECONDS: Final = 2


@contextmanager
def on_cluster(scheduler: str, groups: list[Group]) -> Iterator[GroupExecutor]:
    """The workers of the Dask scheduler at that address.

    Raises ClusterError where nobody answers there, where a worker would make other bytes than this process or does not
    see its files, where the scheduler goes away, and where a photograph kills one worker after the other.
    """
    for name in ("distributed", "distributed.client"):  # what goes wrong is said once, and by us
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
    def __init__(self, client: Client, scheduler: str) -> None:
        self.client, self.scheduler, self.run = client, scheduler, uuid4().hex
        self.executor = client.get_executor()
        self.orders: list[Order] = []
        self.looked_at: dict[int, int] = {}  # number of an order -> photographs
        self.workers, self.threads = 0, 1
        self.asked = self.seen = time.monotonic()

    def open(self, groups: list[Group]) -> None:
        """Looks at who is there."""
        try:
            self.client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise ClusterError(f"{self.scheduler} has no workers; {self._advice()}") from error
        _refuse_unlike(self.client, groups[0])
        each = self.client.nthreads().values()
        self.workers = sum(each)
        # Where there are fewer groups than threads each group gets several, but no more than a worker has.
        self.threads = min(math.ceil(self.workers / len(groups)), *each)
        self.client.subscribe_topic(self.run, self._hear)

    def wanted(self) -> int:
        now = time.monotonic()
        if now - self.asked > ASK_SECONDS:
            self.asked = now
            self.workers = sum(self.client.nthreads().values())
            if self.workers:
                self.seen = now
            elif now - self.seen > ALONE_SECONDS:
                raise ClusterError(f"{self.scheduler} has had no workers for {ALONE_SECONDS} s; {self._advice()}")
        return 2 * max(1, self.workers)

    def submit(self, group: Group) -> "Future[Built]":
        number = len(self.orders)
        self.orders.append(Order(self.run, number, fingerprint(), group._replace(threads=self.threads)))
        self.looked_at[number] = 0
        future: Future[Built] = self.executor.submit(
            build_order, self.orders[-1], key=f"preprocess-{self.run}-{number}"
        )
        future.add_done_callback(partial(self._count, number))
        return future

    def photographs(self) -> int:
        if self.client.status != "running":
            raise self._gone()
        return sum(self.looked_at.values())

    def _hear(self, event: tuple[float, tuple[int, int]]) -> None:
        number, looked_at = event[1]
        self.looked_at[number] = max(looked_at, self.looked_at[number])  # a second attempt begins anew

    def _count(self, number: int, future: "Future[Built]") -> None:
        if not future.cancelled() and not future.exception():
            self.looked_at[number] = sum(map(len, self.orders[number].group.shards.values()))

    def stop(self) -> None:
        """Tells the workers that nobody waits for them any more; who does not hear it ends with its group."""

        def tell() -> None:
            with suppress(Exception):  # whatever it is, there is nobody left to tell
                self.client.run(stop_run, self.run, on_error="ignore")

        if self.client.status == "running":
            teller = threading.Thread(target=tell, daemon=True)
            teller.start()
            teller.join(1)

    def explain(self, error: BaseException) -> BaseException:
        """What a user has to know, where that is something else."""
        if not isinstance(error, Exception):
            return error
        if isinstance(error, KilledWorker):
            return self._killed(self.orders[int(error.task.rpartition("-")[2])])
        if self.client.status != "running" or isinstance(error, CancelledError | CommClosedError):
            return self._gone()
        if isinstance(error, MemoryError):
            return ClusterError(f"{self.scheduler}: a worker has not memory enough; {_MORE_MEMORY}")
        return error

    def _killed(self, order: Order) -> ClusterError:
        group = order.group
        trails = [under_way(trail) for trail in group.folder.glob(trail_pattern(order))]
        if not trails:  # Dask ends a worker that does not know what its order is made of
            return ClusterError(
                f"{self.scheduler}: workers leave at their first photograph; do they lack {PACKAGES[0]}?"
            )
        suspects = sorted(set.intersection(*trails))
        what = " or ".join(str(group.root / source) for source in suspects) or f"a photograph of {group.root}"
        return ClusterError(f"{what} has killed {len(trails)} workers, most likely for want of memory; {_MORE_MEMORY}")

    def _gone(self) -> ClusterError:
        return ClusterError(f"{self.scheduler}: the Dask scheduler is gone; the same command goes on from there")

    def _advice(self) -> str:
        return f"`dask worker {self.scheduler} --nthreads 1` starts one, and the same command goes on"


_MORE_MEMORY: Final = "give workers more (`dask worker --memory-limit`) or take it away, and the same command goes on"


def _refuse_unlike(client: Client, group: Group) -> None:
    """Raises ClusterError, with a worker's name, where one would make other bytes or does not see the same files."""

    def ask(function: Any, *arguments: object) -> dict[str, Any]:
        answers: dict[str, Any] = client.run(function, *arguments, on_error="return")
        return answers

    def refuse(workers: list[str], what: str) -> ClusterError:
        more = f" (and {len(workers) - 1} more)" if len(workers) > 1 else ""
        return ClusterError(f"worker {workers[0]}{more} {what}")

    for package in PACKAGES:
        here = version_of(package)
        # A function of the standard library: who has nothing of ours can answer too.
        versions = {
            worker: None if isinstance(there, PackageNotFoundError) else str(there)
            for worker, there in ask(version, package).items()
        }
        if unlike := [worker for worker, there in versions.items() if there != here]:
            has = f"has {package} {versions[unlike[0]]}" if versions[unlike[0]] else f"lacks {package}"
            raise refuse(unlike, f"{has}, this machine has {here}; both must make the same bytes: install the same")
    source = next(iter(group.shards.values()))[0].found.source
    out = group.folder.parent
    mark = out / f"{uuid4().hex}{TMP_SUFFIX}"
    mark.touch()
    try:
        own, sights = look(group.root, source, mark), ask(look, group.root, source, mark)
    finally:
        mark.unlink()
    for worker, there in sights.items():
        if not isinstance(there, Sight):
            raise refuse([worker], f"cannot run fundus-grading ({there})")
        if there.makes != own.makes:
            raise refuse([worker], "has other code of fundus-grading than this machine; install the same")
        if there.photograph != own.photograph:
            raise refuse([worker], f"cannot read {group.root / source} ({there.photograph}); {_SHARED}")
        if not there.mark:
            raise refuse([worker], f"cannot write to {out}; {_SHARED}")


_SHARED: Final = "SRC and --out must lie where this machine and all workers see them under the same paths"
