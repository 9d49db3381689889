"""What a photograph costs on one core of this machine: the figures of docs/scaling.md."""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from caches import repeated
from turns import SHARED, full_size, say_load

from pipeline.cache.cache import Cache, open_cache
from pipeline.cache.index import MANIFEST
from pipeline.loading.loaders import open_loader
from pipeline.loading.plan import Augment, plan_epoch
from pipeline.photos.preparation import Recipe
from tools.benchmark.bench import hardware
from tools.benchmark.workloads import Step
from tools.preprocessing.preprocess import PreprocessSettings, preprocess
from tools.sources.layouts import list_source

COPIES = 10  # of each of the 4 full-size photographs
ROUNDS = 5
BATCH = 16
MILLIONS = 10


def typical(measure: Callable[[], float]) -> float:
    """The median of some rounds."""
    return median(measure() for _ in range(ROUNDS))


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def say(what: str, value: float, unit: str) -> None:
    print(f"{what:58} {value:10.4g} {unit}", flush=True)


def prepare_all(source: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    preprocess(list_source(source), out, Recipe(), PreprocessSettings(workers=1), lambda *_: None)


def loading(cache: Cache, size: int) -> float:
    """CPU seconds a photograph: read, decoded, flipped and turned at that size."""
    with open_loader(
        "torchvision", cache, split="all", batch_size=BATCH, augment=Augment(), shuffle=True, size=size, workers=1
    ) as loader:
        return cpu_seconds(lambda: [None for _ in loader.epoch(0)]) / len(cache.manifest)


def training(size: int) -> float:
    images = torch.zeros(BATCH, 3, size, size, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    grades = torch.zeros(BATCH, dtype=torch.int64)
    step = Step(torch.device("cpu"))
    step(images, grades)
    return cpu_seconds(lambda: step(images, grades)) / BATCH


def main() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(", ".join(f"{name} {value}" for name, value in hardware().items()))
    say_load()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        full = full_size(folder / "full", COPIES)
        nbytes = sum(path.stat().st_size for path in full) / len(full)
        say("a full-size photograph, 10 to 15 megapixels", nbytes, "bytes")
        cost = typical(lambda: cpu_seconds(lambda: prepare_all(folder / "full", folder / "a")) / len(full))
        say("preparing it", cost, "CPU s")
        prepare_all(SHARED / "data/eyepacs", folder / "b")
        with open_cache(folder / "b") as cache:
            count = len(cache.manifest)
            say("cached at 512 px", sum(record.nbytes for record in cache.index.shards) / count, "bytes")
            say("its row in the manifest", (folder / "b" / MANIFEST).stat().st_size / count, "bytes")

            def decode() -> None:
                for row in range(count):
                    cv2.imdecode(np.frombuffer(cache.read(row), np.uint8), cv2.IMREAD_COLOR_RGB)

            say("decoding it", 1e3 * typical(lambda: cpu_seconds(decode) / count), "CPU ms")
            many = repeated(cache, 2 * count)
            for size in (224, 512):
                say(f"loading it at {size} px", 1e3 * typical(lambda size=size: loading(many, size)), "CPU ms")
    for size in (224, 512):
        cost = typical(lambda size=size: training(size))
        say(f"a training step of ResNet-18 at {size} px", 1e3 * cost, "CPU ms")
    rows = np.arange(MILLIONS * 1_000_000)
    plan = typical(
        lambda: cpu_seconds(
            lambda: plan_epoch(rows, Augment(), source_size=512, size=512, shuffle=True, seed=0, epoch=0)
        )
    )
    say(f"planning an epoch of {MILLIONS} million", plan, "CPU s")
    say_load()


if __name__ == "__main__":
    main()
