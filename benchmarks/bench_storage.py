"""An epoch of the torchvision loader over a cache in a bucket, 50 ms away, beside the same over the disk, in turn.

The first epoch fetches the shards while it goes; it is measured with an empty folder each time, and beside it what it
waits for its first batch. Later ones find everything here.
"""

import os
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from caches import eyepacs
from turns import in_turn, say_load, say_ratio

from pipeline.cache.cache import Cache, open_cache
from pipeline.loading.loaders import open_loader
from pipeline.loading.plan import Augment
from pipeline.storage import object_store
from pipeline.storage.local_cache import local_root
from pipeline.storage.url import Url

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.loopback import s3_server  # the tests' own server

ROUNDS = 5
LATENCY = 0.05  # seconds a request


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, s3_server("eyes") as weather:
        folder, there = Path(name), Url("s3://eyes/cache")
        os.environ["FUNDUS_LOCAL_CACHE"] = str(folder / "local")
        here = eyepacs(folder)
        for path in (folder / "cache").rglob("*.*"):
            object_store.send(path, there / str(path.relative_to(folder / "cache")))
        weather.latency = LATENCY
        away = open_cache(there)
        waits: list[float] = []

        def epoch(cache: Cache) -> float:
            loading = open_loader("torchvision", cache, split="all", batch_size=64, augment=Augment(), shuffle=True)
            with loading as loader:
                began = time.perf_counter()
                for number, _ in enumerate(loader.epoch(0)):
                    if number == 0:
                        waits.append(time.perf_counter() - began)
                return time.perf_counter() - began

        def first() -> float:
            shutil.rmtree(local_root())
            with open_cache(there) as cache:
                return epoch(cache)

        say_load()
        epoch(here), epoch(away)
        waits.clear()
        seconds = in_turn({"disk": partial(epoch, here), "bucket": partial(epoch, away)}, ROUNDS)
        weather.requests.clear()
        epoch(away)
        print(f"requests of a later epoch: {len(weather.requests)}")
        waits.clear()
        firsts = in_turn({"disk": partial(epoch, here), "first": first}, ROUNDS)
        print(f"until its first batch: disk {min(waits[::2]):.2f} s, bucket {min(waits[1::2]):.2f} s")
        say_load()
    print(f"{len(here.manifest)} photographs in {len(here.index.shards)} shards, {LATENCY * 1000:.0f} ms a request")
    say_ratio("later epoch, bucket / disk", seconds["bucket"], seconds["disk"], "wanted <= 1.10")
    say_ratio("first epoch, bucket / disk", firsts["first"], firsts["disk"], "for comparison")


if __name__ == "__main__":
    main()
