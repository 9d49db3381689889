"""Folds of a data set in MedMNIST's layout, to choose between variants by more photographs than its validation has.

    python tests/benchmarks/folds.py FILE.npz OUT
    for fold in 0 1 2; do tools preprocess OUT/$fold --out folds-$fold --size 56; done
    python tests/benchmarks/levers.py 'folds-{seed}' RUNS VARIANT...

Its train and val are taken together, its test is left alone. In each of three folds another third of every grade is
test; a tenth of what remains is val, which chooses the epoch, and the rest is train.
"""

from pathlib import Path

import click
import numpy as np

from pipeline.grades import N_GRADES

FOLDS = 3
VAL = 10
"""One photograph in so many of those that are not test."""


@click.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(file: Path, out: Path) -> None:
    with np.load(file) as arrays:
        known = {
            kind: np.concatenate([arrays[f"{split}_{kind}"] for split in ("train", "val")])
            for kind in ("images", "labels")
        }
    grades = known["labels"][:, 0]
    random = np.random.default_rng(0)
    places = np.empty(len(grades), int)  # of each photograph among those of its grade
    for grade in range(N_GRADES):
        places[random.permutation(np.flatnonzero(grades == grade))] = np.arange((grades == grade).sum())
    rounds, turns = np.divmod(places, FOLDS)
    for fold in range(FOLDS):
        turn = (turns - fold) % FOLDS
        others = rounds * (FOLDS - 1) + turn - 1
        test = turn == 0
        val = ~test & (others % VAL == 0)
        splits = {"train": ~test & ~val, "val": val, "test": test}
        (out / str(fold)).mkdir(parents=True)
        np.savez(
            out / str(fold) / file.name,
            **{f"{split}_{kind}": array[rows] for split, rows in splits.items() for kind, array in known.items()},
        )


if __name__ == "__main__":
    main()
