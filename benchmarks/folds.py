"""Folds of a data set, to choose between variants by more photographs than its validation has.

    python benchmarks/folds.py SOURCE OUT [--seed 0]
    for fold in 0 1 2; do tools preprocess OUT/$fold --out folds-$fold --size 56; done
    python benchmarks/levers.py 'folds-{seed}' RUNS VARIANT...

SOURCE is a file in MedMNIST's layout, whose train and val are taken together and whose test is left alone, or a folder
of photographs with grades, of which all are taken. In each of three folds another third is test, of every grade or, of
patients, of every worst grade; a tenth of what remains is val, to choose the epoch by, and the rest is train. Another
seed draws other folds: what was found in these can be asked of those.
"""

import re
import shutil
from pathlib import Path

import click
import numpy as np
import pandas as pd

from pipeline.cache.splits import PATIENT_PATTERN, draw_sides, parse_patient
from pipeline.grades import N_GRADES, UNKNOWN
from pipeline.photos.discovery import split_suffix
from tools.sources.layouts import list_source

FOLDS = 3
VAL = 10
"""One photograph in so many of those that are not test."""


def fold_archive(file: Path, out: Path, seed: int) -> None:
    with np.load(file) as arrays:
        known = {
            kind: np.concatenate([arrays[f"{split}_{kind}"] for split in ("train", "val")])
            for kind in ("images", "labels")
        }
    grades = known["labels"][:, 0]
    random = np.random.default_rng(seed)
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


def fold_photographs(folder: Path, out: Path, seed: int) -> None:
    """Into folders of splits and of grades below them."""
    samples = [sample for sample in list_source(folder).samples if sample.grade != UNKNOWN]
    patients = [parse_patient(sample.id, re.compile(PATIENT_PATTERN))[0] for sample in samples]
    worst: dict[str, int] = pd.Series([sample.grade for sample in samples]).groupby(patients).max().to_dict()
    fold_of = draw_sides(worst, {str(fold): 1 / FOLDS for fold in range(FOLDS)}, seed, {})
    for fold in range(FOLDS):
        others = {patient: grade for patient, grade in worst.items() if fold_of[patient] != str(fold)}
        sides = draw_sides(others, {"train": 1 - 1 / VAL, "val": 1 / VAL}, seed + fold, {})
        for patient, sample in zip(patients, samples, strict=True):
            into = out / str(fold) / sides.get(patient, "test") / str(sample.grade)
            into.mkdir(parents=True, exist_ok=True)
            name = sample.id.replace("/", "_") + split_suffix(sample.found.source)[1]
            shutil.copy2(folder / sample.found.source, into / name)


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", default=0, help="of the draw")
def main(source: Path, out: Path, seed: int) -> None:
    (fold_photographs if source.is_dir() else fold_archive)(source, out, seed)


if __name__ == "__main__":
    main()
