"""Paired experiments: what each lever of `trainer fit` gives, over the same splits and seeds.

    python tests/benchmarks/levers.py CACHE OUT plain= 'ema=--ema 0.99' ... [--seeds 3] [--common OPTIONS]

Each variant, NAME=OPTIONS, is trained once a seed; runs that OUT already holds are not trained again. Two run
at a time, a thread each: that trains more in an hour than one with two. Prints a Markdown table: means over the seeds
with their standard deviation, and each variant's differences from the first, seed by seed. Validation is what a variant
may be chosen by; test is printed beside it.
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
import pandas as pd

FIGURES = (
    ("val", "accuracy"),
    ("val", "kappa"),
    ("val", "auc"),
    ("test", "accuracy"),
    ("test", "kappa"),
    ("test", "auc"),
    ("test", "referable_auc"),
)


def train(cache: Path, run: Path, options: list[str]) -> None:
    if (run / "summary.json").exists():
        return
    new = ["--cache", str(cache), "--weights", "none", "--workers", "1", *options]
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "fit", "--run", str(run), *(["--resume"] if run.exists() else new)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise click.ClickException(f"{run}: {done.stderr.strip()}")
    print(f"{run.name}: {figures(run)}", file=sys.stderr, flush=True)


def figures(run: Path) -> list[float]:
    """As FIGURES, then seconds of training."""
    found = [json.loads((run / f"metrics_{split}.json").read_text())[figure] for split, figure in FIGURES]
    return [*found, float(pd.read_csv(run / "accuracy.csv")["seconds"].sum())]


def spread(values: "pd.Series[float]", sign: str = "") -> str:
    return f"{values.mean():{sign}.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


def rows(out: Path, variants: list[str], seeds: int) -> Iterator[list[str]]:
    found = {name: pd.DataFrame([figures(out / f"{name}-{seed}") for seed in range(seeds)]) for name in variants}
    for name, table in found.items():
        *measured, seconds = (table[column] for column in table)
        yield [name, *map(spread, measured), f"{seconds.mean():.0f}"]
    first = variants[0]
    for name in variants[1:]:
        *differences, _ = (found[name][column] - found[first][column] for column in found[first])
        yield [f"{name} - {first}", *(spread(values, "+") for values in differences), ""]


@click.command()
@click.argument("cache", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("variants", nargs=-1)
@click.option("--seeds", default=3)
@click.option("--common", default="", help="options of all variants")
def main(cache: Path, out: Path, variants: tuple[str, ...], seeds: int, common: str) -> None:
    named = dict(variant.split("=", 1) for variant in variants)
    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        done = [
            pool.submit(
                train, cache, out / f"{name}-{seed}", [*shlex.split(f"{common} {options}"), "--seed", str(seed)]
            )
            for name, options in named.items()
            for seed in range(seeds)
        ]
        for each in done:
            each.result()
    table = pd.DataFrame(
        rows(out, list(named), seeds), columns=["variant", *(f"{figure} {split}" for split, figure in FIGURES), "s"]
    )
    print("| " + " | ".join(table.columns) + " |\n|" + "---|" * len(table.columns))
    for row in table.itertuples(index=False):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
