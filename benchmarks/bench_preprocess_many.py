"""100,000 tiny photographs: the last 10,000 go as fast as the first, and memory does not grow on the way."""

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from pipeline.photos.preparation import Recipe
from tools.preprocessing.preprocess import PreprocessSettings, preprocess
from tools.sources.layouts import list_source

PHOTOGRAPHS = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
TENTH = PHOTOGRAPHS // 10


def draw(number: int) -> bytes:
    rng = np.random.default_rng(number)
    picture = np.zeros((64, 64, 3), np.uint8)
    cv2.circle(picture, (32, 32), 29, tuple(int(level) for level in rng.integers(60, 220, 3)), -1)
    picture[rng.integers(12, 52, 20), rng.integers(12, 52, 20)] //= 2
    return cv2.imencode(".jpeg", picture)[1].tobytes()


def memory() -> dict[str, float]:
    """MB by kind of process: this one, and the largest of its children."""
    sizes = {"main": 0.0, "worker": 0.0}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        except OSError:
            continue
        kind = {str(os.getpid()): "main"}.get(folder.name) or {str(os.getpid()): "worker"}.get(fields["PPid"].strip())
        if kind and "VmRSS" in fields:
            sizes[kind] = max(sizes[kind], int(fields["VmRSS"].split()[0]) / 1024)
    return sizes


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "src").mkdir()

        def write(number: int) -> None:
            eye = "left" if number % 2 else "right"
            (folder / "src" / f"{number // 2}_{eye}.jpeg").write_bytes(draw(number))

        with ThreadPoolExecutor() as pool:
            list(pool.map(write, range(PHOTOGRAPHS)))
        began = time.perf_counter()
        listing = list_source(folder / "src")
        print(f"listing: {time.perf_counter() - began:.1f} s", flush=True)
        marks = [(time.perf_counter(), 0)]

        def progress(done: int, total: int) -> None:
            then, counted = marks[-1]
            if done - counted >= TENTH or (done == total and done > counted):
                now = time.perf_counter()
                sizes = ", ".join(f"{kind} {size:.0f} MB" for kind, size in memory().items())
                print(
                    f"{done:7,} of {total:,}: {(done - counted) / (now - then):7.0f} photographs/s, {sizes}", flush=True
                )
                marks.append((now, done))

        began = time.perf_counter()
        outcome = preprocess(listing, folder / "cache", Recipe(64), PreprocessSettings(workers=2), progress)
        print(
            f"{outcome.encoded:,} in {time.perf_counter() - began:.1f} s; after the last shard {outcome.seconds:.1f} s"
        )
        rates = [(b - a) / (t - s) for (s, a), (t, b) in pairwise(marks[1:])]
        print(f"last tenth / second tenth (the first starts the workers): {rates[-1] / rates[0]:.2f}, wanted >= 1")


if __name__ == "__main__":
    main()
