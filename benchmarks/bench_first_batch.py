"""How long the first batch is waited for: of the first epoch at most 1.0 s after `open_loader`, of every later one at
most the time of two ordinary batches, after an abandoned epoch too."""

import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from caches import eyepacs
from turns import say_load

from pipeline.loading.batch import Loader
from pipeline.loading.loaders import open_loader
from pipeline.loading.plan import Augment

EPOCHS = 5
BATCH = 32


def first_and_rest(loader: Loader, epoch: int) -> tuple[float, list[float]]:
    """Seconds until the first batch of an epoch, and between the others."""
    marks = [time.perf_counter()]
    for _ in loader.epoch(epoch):
        marks.append(time.perf_counter())
    gaps = [after - before for before, after in pairwise(marks)]
    return gaps[0], gaps[1:-1]  # the last batch is a short one


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        cache = eyepacs(Path(name))
        for loader_name in ("torchvision", "dali"):
            with open_loader(loader_name, cache, split="all", batch_size=BATCH, augment=Augment(), workers=2) as loader:
                next(loader.epoch(0))  # imports
            say_load()
            began = time.perf_counter()
            with open_loader(
                loader_name, cache, split="all", batch_size=BATCH, augment=Augment(), shuffle=True, workers=2
            ) as loader:
                batches = loader.epoch(0)
                next(batches)
                print(f"{loader_name}: first batch {time.perf_counter() - began:.3f} s after open_loader, wanted <= 1")
                batches.close()  # type: ignore[attr-defined]  # an epoch abandoned half-way
                for epoch in range(1, EPOCHS):
                    first, rest = first_and_rest(loader, epoch)
                    ordinary = median(rest)
                    after = "an abandoned one" if epoch == 1 else "a whole one"
                    print(
                        f"{loader_name}: epoch after {after}: first batch after {first:.3f} s = "
                        f"{first / ordinary:.2f} ordinary batches of {ordinary:.3f} s, wanted <= 2"
                    )


if __name__ == "__main__":
    main()
