"""Finished runs of several seeds, paired on the same photographs: the mean over the seeds, and differences from the
first variant.

    python benchmarks/paired.py CACHE 'one=runs/one-0,runs/one-1' 'both=runs/both-0,runs/both-1' [--split test]

Prints a Markdown table with 95 % intervals: patients are resampled, and in each resample the mean over the seeds is
taken. All runs must have measured the same photographs, or the command ends. An ensemble may stand where a run may.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from levers import gains, limits, means

from pipeline.command_line import Guarded
from trainer.evaluation.bootstrap import Figures
from trainer.run_folder import RunFolder

SHOWN: Final = ("accuracy", "kappa", "auc", "referable_auc")


def cells(value: Figures, resampled: Figures, sign: str = "") -> Iterator[str]:
    for figure in SHOWN:
        yield f"{value[figure].item():{sign}.3f}" + limits(value[figure], resampled[figure], sign)


@click.command(cls=Guarded)
@click.argument("cache")
@click.argument("variants", nargs=-1, required=True)
@click.option("--split", type=click.Choice(["val", "test"]), default="test", show_default=True)
def main(cache: str, variants: tuple[str, ...], split: str) -> None:
    print("| variant | runs | " + " | ".join(SHOWN) + " |\n" + "|---" * (2 + len(SHOWN)) + "|")
    base: tuple[str, tuple[Figures, Figures]] | None = None
    photographs: list[str] = []
    for name, folders in (variant.split("=", 1) for variant in variants):
        runs = [Path(folder) for folder in folders.split(",")]
        for run in runs:
            measured = RunFolder(run).read_predictions(split)["id"].tolist()
            if measured != (photographs := photographs or measured):
                raise click.ClickException(f"{run}: its {split} photographs are not those of the first run")
        found = means(cache, runs, split)
        print(f"| {name} | {len(runs)} | " + " | ".join(cells(*found)) + " |")
        if base is None:
            base = name, found
            continue
        print(f"| {name} - {base[0]} | | " + " | ".join(cells(*gains(found, base[1]), sign="+")) + " |")


if __name__ == "__main__":
    main()
