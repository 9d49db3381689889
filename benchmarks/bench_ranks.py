"""Two processes of one thread, which torchrun starts, against one process of two threads: training, in images a second
of an epoch that is not the first, when memory is being touched and libraries choose their kernels.

    python benchmarks/bench_ranks.py [--size 96] [--batch 32] [--rounds 3]
"""

import os
import subprocess
import sys
import tempfile
from functools import partial
from itertools import count
from pathlib import Path

import click
import pandas as pd
from caches import eyepacs
from turns import in_turn, say_load, say_ratio

ROOT = Path(__file__).resolve().parents[1]
PLAIN = ["-m", "trainer"]
RANKS = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "trainer"]


@click.command()
@click.option("--size", default=96)
@click.option("--batch", default=32)
@click.option("--rounds", default=3)
def main(size: int, batch: int, rounds: int) -> None:
    numbers = count()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = eyepacs(folder, size)

        def rate(launcher: list[str], threads: int) -> float:
            run = folder / f"run{next(numbers)}"
            options = ["--cache", cache.path, "--run", run, "--weights", "none", "--epochs", 3, "--batch", batch]
            command = [sys.executable, *launcher, "fit", *map(str, options), "--device", "cpu"]
            environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
            subprocess.run(command, check=True, capture_output=True, env=environment)
            return float(pd.read_csv(run / "accuracy.csv")["images_per_second"].iloc[1:].mean())

        say_load()
        rates = in_turn({"one": partial(rate, PLAIN, 2), "two": partial(rate, RANKS, 1)}, rounds)
        say_load()
    say_ratio("two processes of one thread / one process of two", rates["two"], rates["one"], "wanted >= 0.9")


if __name__ == "__main__":
    main()
