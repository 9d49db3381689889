"""What each lever of `trainer fit` costs: photographs a second of an epoch with it, by those without it, in turn.

    python benchmarks/bench_levers.py CACHE [--rounds 3]

The epoch is the second of two, for in the first memory is touched and libraries choose their kernels.
"""

import subprocess
import sys
import tempfile
from functools import partial
from itertools import count
from pathlib import Path

import click
import pandas as pd
from turns import in_turn, say_load, say_ratio

LEVERS = {
    "plain": "",
    "ema": "--ema 0.99",
    "zoom and colour": "--zoom 1.2 --colour 0.2",
    "mixup": "--mixup 0.2",
    "cutmix": "--cutmix 1",
    "corn": "--loss corn",
    "balanced": "--sampling balanced",
}


@click.command()
@click.argument("cache", type=click.Path(path_type=Path))
@click.option("--rounds", default=3)
def main(cache: Path, rounds: int) -> None:
    numbers = count()
    with tempfile.TemporaryDirectory() as name:

        def rate(options: str) -> float:
            run = Path(name) / f"run{next(numbers)}"
            command = [sys.executable, "-m", "trainer", "fit", "--cache", str(cache), "--run", str(run)]
            command += ["--weights", "none", "--epochs", "2", *options.split()]
            subprocess.run(command, check=True, capture_output=True)
            return float(pd.read_csv(run / "accuracy.csv")["images_per_second"].iloc[-1])

        say_load()
        rates = in_turn({lever: partial(rate, options) for lever, options in LEVERS.items()}, rounds)
        say_load()
    for lever in LEVERS:
        say_ratio(f"{lever} / plain", rates[lever], rates["plain"], "for comparison")


if __name__ == "__main__":
    main()
