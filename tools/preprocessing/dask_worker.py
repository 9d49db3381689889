"""The code that a Dask worker runs for `tools preprocess --scheduler`; tools.preprocessing.dask_executor sends it."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, NamedTuple
from uuid import uuid4

import cv2
from distributed import get_worker

from pipeline.cache.shards import shard_name
from pipeline.errors import ClusterError, SourceError, StoreError
from pipeline.storage.atomic import TMP_SUFFIX
from pipeline.storage.url import Url
from tools.preprocessing.build_shards import BuildStopped, Built, Group, build_group
from tools.sources.archives import read_source

PACKAGES: Final = ("fundus-grading", "numpy", "opencv-python-headless", "pillow", "simplejpeg")
"""Distributions whose version may change the bytes of a cache."""
REPORT_SECONDS: Final = 0.5
"""Least time between two reports of a group's progress to the client."""


@dataclass(frozen=True)
class BuildTask:
    """A group to build. It is not a tuple: Dask would search its items for futures."""

    run: str  # unique id of the run, and the topic of its events: (number, photographs done)
    number: int  # of the task in the run
    fingerprint: str  # the client's `code_fingerprint`
    group: Group


class Environment(NamedTuple):
    """What must be the same for the client and all workers."""

    fingerprint: str
    photograph: str  # sha256 of its bytes, or why it cannot be read
    sees_marker: bool  # whether it sees the client's marker file in the folder of the cache, and may write there


def version_of(package: str) -> str | None:
    """The installed version of a distribution, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def code_fingerprint() -> str:
    """sha256 of the versions of PACKAGES and of our own code: if it is equal, shards have equal bytes."""
    digest = sha256(repr([version_of(package) for package in PACKAGES]).encode())
    here = Path(__file__).resolve().parents[2]
    paths = [path for package in ("pipeline", "tools") for path in (here / package).rglob("*.py")]
    for name in sorted(path.relative_to(here).as_posix() for path in paths):
        digest.update(name.encode() + (here / name).read_bytes())
    return digest.hexdigest()


def environment(root: Path | Url, source: str, marker: Path) -> Environment:
    """The environment of this process: its code, a photograph below `root`, and a marker file in the cache's folder."""
    try:
        photograph = sha256(read_source(root, source)).hexdigest()
    except OSError as error:
        photograph = error.strerror or str(error)
    except (SourceError, StoreError) as error:
        photograph = error.message
    return Environment(code_fingerprint(), photograph, marker.exists() and os.access(marker.parent, os.W_OK))


def build_task(task: BuildTask) -> Built:
    """Builds a group. Raises ClusterError if this worker has another code fingerprint than the client."""
    if code_fingerprint() != task.fingerprint:
        raise ClusterError(f"worker {get_worker().address} joined with other versions than the client has")
    with _opencv_in_our_threads(), ClusterSignals(task) as signals:
        return build_group(task.group, signals)


_building = 0
_threads_before = 0
_counting = threading.Lock()


@contextmanager
def _opencv_in_our_threads() -> Iterator[None]:
    """OpenCV uses one thread while tasks run here, because Dask has a thread a core already. After the last task OpenCV
    has its threads back: the process belongs to the cluster, and other work may follow."""
    global _building, _threads_before
    with _counting:
        if not _building:
            _threads_before = cv2.getNumThreads()
            cv2.setNumThreads(1)
        _building += 1
    try:
        yield
    finally:
        with _counting:
            _building -= 1
            if not _building:
                cv2.setNumThreads(_threads_before)


_stopped: set[str] = set()


def stop_run(run: str) -> None:
    """Ends the groups of that run at their next photograph."""
    _stopped.add(run)


class ClusterSignals:
    """The signals of a worker for one group.

    Progress goes to the client as events. A trail file beside the shards lists the photographs begun and ended. If a
    photograph kills its worker, the file stays and names it: the kernel keeps what a killed process has written.
    """

    def __init__(self, task: BuildTask) -> None:
        self.task, self.worker = task, get_worker()
        self.path = task.group.folder / trail_pattern(task).replace("*", uuid4().hex[:12])
        self.lock, self.done, self.reported = threading.Lock(), 0, 0.0

    def __enter__(self) -> "ClusterSignals":
        self.file = open(self.path, "ab", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)

    def begin(self, source: str) -> None:
        if self.task.run in _stopped:
            raise BuildStopped
        self._write("+", source)

    def end(self, source: str) -> None:
        self._write("-", source)
        with self.lock:
            self.done += 1
            now = time.monotonic()
            if now - self.reported < REPORT_SECONDS:
                return
            self.reported = now
        self.worker.log_event(self.task.run, (self.task.number, self.done))

    def _write(self, sign: str, source: str) -> None:
        self.file.write(f"{sign}{source}\0".encode("utf-8", "surrogateescape"))


def trail_pattern(task: BuildTask) -> str:
    """The glob pattern of the trail files of all attempts at a task."""
    return f"{shard_name(next(iter(task.group.shards)))}.{task.run}.*.trail{TMP_SUFFIX}"


def unfinished(trail: Path) -> set[str]:
    """The sources of the photographs that were begun and not ended."""
    steps = trail.read_bytes().decode("utf-8", "surrogateescape").split("\0")[:-1]
    return {step[1:] for step in steps if step[0] == "+"} - {step[1:] for step in steps if step[0] == "-"}
