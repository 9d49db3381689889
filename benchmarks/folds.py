"""Folds of a cache, to choose between variants by more photographs than its validation has.

    tools preprocess SOURCE --out cache --size 56
    python benchmarks/folds.py cache OUT [--seed 0] [--whole]
    python benchmarks/levers.py 'OUT/fold{seed}' RUNS VARIANT...

Each of three folds is a cache of its own, as `trainer folds` makes them: another third of the patients is test, an
eighth of the others val, and patients who share a photograph stay together. The photographs of test take no part
unless --whole. Another seed draws other folds: what was found in these can be asked of those.
"""

from pathlib import Path

import click

from pipeline.cache.cache import open_cache
from pipeline.cache.copies import joined_patients, shared_photos
from pipeline.cache.folds import fold_splits, folded_rows, write_fold
from pipeline.command_line import Guarded

FOLDS = 3


@click.command(cls=Guarded)
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", default=0, help="of the draw")
@click.option("--whole", is_flag=True, help="fold test in too")
def main(source: Path, out: Path, seed: int, whole: bool) -> None:
    with open_cache(source) as cache:
        joined = joined_patients(shared_photos(cache, folded_rows(cache.manifest, with_test=whole)))
        for fold, splits in enumerate(fold_splits(cache.manifest, FOLDS, seed, with_test=whole, joined=joined)):
            click.echo(write_fold(cache, out / f"fold{fold}", splits, f"fold {fold} of {FOLDS}"))


if __name__ == "__main__":
    main()
