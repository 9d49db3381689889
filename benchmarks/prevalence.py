"""A copy of a cache in which as large a part of the photographs is healthy as in screening.

    python benchmarks/prevalence.py CACHE OUT [--healthy 0.73]

Of each split all photographs of grade 0 are kept, and so many of the others that grade 0 has this share. Which ones is
drawn by a hash of their ids, so the shares of the other grades stay about as they are. OUT is an ordinary cache. In
EyePACS 73.5 % of the photographs have grade 0.
"""

from pathlib import Path

import click
import numpy as np
from transfer import hashes

from pipeline.cache.cache import open_cache
from pipeline.cache.folds import write_fold
from pipeline.command_line import Guarded


@click.command(cls=Guarded)
@click.argument("source", type=click.Path(exists=True, path_type=Path), metavar="CACHE")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--healthy", type=click.FloatRange(0, 1, min_open=True), default=0.73, show_default=True)
def main(source: Path, out: Path, healthy: float) -> None:
    with open_cache(source) as cache:
        manifest = cache.manifest
        splits, grades = manifest["split"].copy(), manifest["grade"]
        order = hashes(manifest["id"])
        for split in ("train", "val", "test"):
            number = int((splits.eq(split) & grades.eq(0)).sum())
            diseased = order[splits.eq(split) & grades.gt(0)].sort_values().index
            splits[diseased[round(number / healthy * (1 - healthy)) :]] = ""
            kept = np.bincount(grades[splits.eq(split) & grades.ge(0)], minlength=5)
            click.echo(f"{split}: {' / '.join(map(str, kept))}, grade 0: {kept[0] / max(kept.sum(), 1):.1%}")
        write_fold(cache, out, splits, f"grade 0 has a share of {healthy:g}")


if __name__ == "__main__":
    main()
