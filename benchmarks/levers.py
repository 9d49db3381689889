"""Paired experiments: what each lever of `trainer fit` gives, over the same splits and seeds.

    python benchmarks/levers.py CACHE OUT plain= 'ema=--ema 0.99' ... [--seeds 3] [--common OPTIONS]

Each variant, NAME=OPTIONS, is trained once a seed; runs that OUT already holds are not trained again. Two run
at a time, a thread each: that trains more in an hour than one with two. Prints a Markdown table: means over the seeds
with their standard deviation, and each variant's differences from the first, seed by seed. Validation is what a variant
may be chosen by; test is printed beside it, with the 95 % intervals of the seeds' mean and of the differences' mean by
a bootstrap over patients.

Where CACHE has {seed} in it, each seed has a cache of its own: with those of folds.py a variant may be chosen by their
test.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np
import pandas as pd

from pipeline.cache.cache import open_cache
from pipeline.cache.splits import patients_of
from pipeline.command_line import Guarded
from trainer.evaluation.bootstrap import Figures, Floats, Resamples, interval
from trainer.evaluation.weighted_metrics import Sample
from trainer.run_folder import RunFolder

SEED = "{seed}"
FIGURES = (
    ("val", "accuracy"),
    ("val", "kappa"),
    ("val", "auc"),
    ("test", "accuracy"),
    ("test", "kappa"),
    ("test", "auc"),
    ("test", "referable_auc"),
)


def train(cache: str, run: Path, options: list[str]) -> None:
    if (run / "summary.json").exists():
        return
    new = ["--cache", cache, "--weights", "none", "--workers", "1", *options]
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "fit", "--run", str(run), *(["--resume"] if run.exists() else new)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise click.ClickException(f"{run}: {done.stderr.strip()}")
    measured = (run / "metrics_test.json").exists()  # painted lesions have no test part
    print(f"{run.name}: {figures(run) if measured else 'trained'}", file=sys.stderr, flush=True)


def figures(run: Path) -> list[float]:
    """As FIGURES, then photographs a second in half the epochs or more, on one thread."""
    found = [json.loads((run / f"metrics_{split}.json").read_text())[figure] for split, figure in FIGURES]
    return [*found, float(pd.read_csv(run / "accuracy.csv")["images_per_second"].median())]


def spread(values: "pd.Series[float]", sign: str = "") -> str:
    return f"{values.mean():{sign}.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


def means(cache: str, runs: list[Path], split: str = "test") -> tuple[Figures, Figures]:
    """The runs' mean figures on `split`, and those of resamples. Patients are drawn alike for all runs, or in each fold
    anew, so two variants' resamples show the same."""
    values, resampled = [], []
    for seed, run in enumerate(runs):
        table = RunFolder(run).read_predictions(split)
        with open_cache(Path(cache.replace(SEED, str(seed)))) as opened:
            sample = Sample.of(table, patients_of(opened.manifest, table["id"]))
        values.append(sample.figures(sample.equal_weights))
        resampled.append(Resamples(sample.n_patients, seed=seed if SEED in cache else 0).figures(sample.figures))

    def mean(of: list[Figures]) -> Figures:
        return {figure: np.mean([each[figure] for each in of], axis=0) for part, figure in FIGURES if part == "test"}

    return mean(values), mean(resampled)


def gains(of: tuple[Figures, Figures], base: tuple[Figures, Figures]) -> tuple[Figures, Figures]:
    """What the first of two variants has more than the second: both as `means` gives them."""
    value, resampled = (
        {figure: its[figure] - others[figure] for figure in its} for its, others in zip(of, base, strict=True)
    )
    return value, resampled


def limits(value: Floats, resampled: Floats, sign: str = "") -> str:
    """The 95 % interval in brackets, with a space before it."""
    bounds = interval(value.item(), resampled)
    return f" ({bounds[0]:{sign}.3f} to {bounds[1]:{sign}.3f})" if bounds else ""


def with_limits(cells: list[str], value: Figures, resampled: Figures, sign: str = "") -> list[str]:
    """`cells`, as FIGURES, those of test with their 95 % intervals."""
    return [
        cell + (limits(value[figure], resampled[figure], sign) if split == "test" else "")
        for cell, (split, figure) in zip(cells, FIGURES, strict=True)
    ]


def rows(cache: str, out: Path, variants: list[str], seeds: int) -> Iterator[list[str]]:
    runs = {name: [out / f"{name}-{seed}" for seed in range(seeds)] for name in variants}
    found = {name: pd.DataFrame([figures(run) for run in its]) for name, its in runs.items()}
    test = {name: means(cache, its) for name, its in runs.items()}
    for name, table in found.items():
        *measured, rates = (table[column] for column in table)
        yield [name, *with_limits(list(map(spread, measured)), *test[name]), f"{rates.median():.0f}"]
    first = variants[0]
    for name in variants[1:]:
        *differences, _ = (found[name][column] - found[first][column] for column in found[first])
        cells = with_limits([spread(values, "+") for values in differences], *gains(test[name], test[first]), sign="+")
        yield [f"{name} - {first}", *cells, ""]


@click.command(cls=Guarded)
@click.argument("cache")
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("variants", nargs=-1)
@click.option("--seeds", default=3)
@click.option("--common", default="", help="options of all variants")
def main(cache: str, out: Path, variants: tuple[str, ...], seeds: int, common: str) -> None:
    named = dict(variant.split("=", 1) for variant in variants)
    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        done = [
            pool.submit(
                train,
                cache.replace(SEED, str(seed)),
                out / f"{name}-{seed}",
                [*shlex.split(f"{common} {options}"), "--seed", str(seed)],
            )
            for name, options in named.items()
            for seed in range(seeds)
        ]
        for each in done:
            each.result()
    table = pd.DataFrame(
        rows(cache, out, list(named), seeds),
        columns=["variant", *(f"{figure} {split}" for split, figure in FIGURES), "images/s"],
    )
    print("| " + " | ".join(table.columns) + " |\n|" + "---|" * len(table.columns))
    for row in table.itertuples(index=False):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
