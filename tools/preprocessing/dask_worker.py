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
"""Distributions of which another version may make other bytes."""
SAY_SECONDS: Final = 0.5
"""Between two words to the client of how far a group has come."""


@dataclass(frozen=True)
class Order:
    """A group, for a worker that may have joined only now. No tuple: Dask would look through its items for futures."""

    run: str  # unlike any other; the topic of its events: (number, photographs looked at)
    number: int
    makes: str  # what `fingerprint` has to be
    group: Group


class Sight(NamedTuple):
    """What must be the same for the client and all workers."""

    makes: str
    photograph: str  # sha256 of its bytes, or why it cannot be read
    mark: bool  # whether the file is there that the client put into the cache's folder


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def fingerprint() -> str:
    """Differs where the bytes of a shard might: sha256 of the packages' versions and of our own code."""
    digest = sha256(repr([version_of(package) for package in PACKAGES]).encode())
    here = Path(__file__).resolve().parents[2]
    paths = [path for package in ("pipeline", "tools") for path in (here / package).rglob("*.py")]
    for name in sorted(path.relative_to(here).as_posix() for path in paths):
        digest.update(name.encode() + (here / name).read_bytes())
    return digest.hexdigest()


def look(root: Path | Url, source: str, mark: Path) -> Sight:
    """What this process sees of a photograph below `root`, and of a mark in the folder of the cache."""
    try:
        photograph = sha256(read_source(root, source)).hexdigest()
    except OSError as error:
        photograph = error.strerror or str(error)
    except (SourceError, StoreError) as error:
        photograph = error.message
    return Sight(fingerprint(), photograph, mark.exists() and os.access(mark.parent, os.W_OK))


def build_order(order: Order) -> Built:
    """Builds a group. Raises ClusterError where this worker would make other bytes than the client."""
    if fingerprint() != order.makes:
        raise ClusterError(f"worker {get_worker().address} joined with other versions than the client has")
    with _opencv_in_our_threads(), Trail(order) as trail:
        return build_group(order.group, trail)


_building = 0
_threads_before = 0
_counting = threading.Lock()


@contextmanager
def _opencv_in_our_threads() -> Iterator[None]:
    """OpenCV starts no threads while any order is built here, for Dask's are one a core already. After the last one it
    is as it was: the process is the cluster's, and others may work in it next."""
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
    """Groups of that run end at their next photograph."""
    _stopped.add(run)


class Trail:
    """A worker's signals for one group.

    How far it has come goes to the client as events. What is under way goes into a file beside the shards: one that
    kills its worker leaves it there, for the kernel writes out what a killed process wrote.
    """

    def __init__(self, order: Order) -> None:
        self.order, self.worker = order, get_worker()
        self.path = order.group.folder / trail_pattern(order).replace("*", uuid4().hex[:12])
        self.lock, self.done, self.said = threading.Lock(), 0, 0.0

    def __enter__(self) -> "Trail":
        self.file = open(self.path, "ab", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)

    def begin(self, source: str) -> None:
        if self.order.run in _stopped:
            raise BuildStopped
        self._write("+", source)

    def end(self, source: str) -> None:
        self._write("-", source)
        with self.lock:
            self.done += 1
            now = time.monotonic()
            if now - self.said < SAY_SECONDS:
                return
            self.said = now
        self.worker.log_event(self.order.run, (self.order.number, self.done))

    def _write(self, sign: str, source: str) -> None:
        self.file.write(f"{sign}{source}\0".encode("utf-8", "surrogateescape"))


def trail_pattern(order: Order) -> str:
    """What the trails of all attempts at an order are called."""
    return f"{shard_name(next(iter(order.group.shards)))}.{order.run}.*.trail{TMP_SUFFIX}"


def under_way(trail: Path) -> set[str]:
    """The photographs that were begun and not ended."""
    steps = trail.read_bytes().decode("utf-8", "surrogateescape").split("\0")[:-1]
    return {step[1:] for step in steps if step[0] == "+"} - {step[1:] for step in steps if step[0] == "-"}
