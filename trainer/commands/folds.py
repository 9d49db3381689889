"""`trainer folds`: a run for each fold, and what all of them say together of photographs that none had seen."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from pipeline.cache.cache import Cache, open_cache
from pipeline.cache.folds import fold_splits, write_fold
from pipeline.errors import RunError
from trainer.commands import fit
from trainer.config import FitConfig
from trainer.distributed.process_group import first, from_first
from trainer.evaluation.out_of_fold import OutOfFold
from trainer.reporting.folds import read_fold, say_out_of_fold, write_out_of_fold
from trainer.run_folder import RunFolder, write_json


def folds(asked: FitConfig, given: Mapping[str, Any], count: int, folder: Path, *, whole: bool) -> None:
    """Trains what is missing of `count` runs below `folder`, and measures them together.

    given: the settings of this time, for runs that are resumed. whole: whether test is folded in.
    Raises RunError where the folder has other folds.
    """
    cache = open_cache(asked.cache)
    from_first(lambda: _claim(folder, cache, count, asked.seed, whole))
    columns = fold_splits(cache.manifest, count, asked.seed, whole=whole)
    runs = []
    for number, splits in enumerate(columns):
        place, run = folder / "caches" / f"fold{number}", RunFolder(folder / f"fold{number}")
        if first():
            click.echo(f"fold {number + 1} of {count}: {run.path}")
            write_fold(cache, place, splits, f"fold {number} of {count}")
        if from_first(partial(getattr, run, "started")):
            fit.resume(run.path, {**given, "cache": str(place)})
        else:
            fit.start(replace(asked, cache=str(place)), run.path)
        runs.append(run)
    if first():
        together = OutOfFold([read_fold(run, open_cache(run.read_config().cache)) for run in runs])
        write_out_of_fold(folder, together)
        say_out_of_fold(folder, together)


def _claim(folder: Path, cache: Cache, count: int, seed: int, whole: bool) -> None:
    """Marks a folder as that of these folds. Raises RunError where it is another's."""
    mark, wanted = folder / "folds.json", {"cache": cache.digest, "folds": count, "seed": seed, "test": whole}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not mark.exists():
            if any(folder.iterdir()):
                raise RunError(f"{folder} holds something else; choose another --run")
            write_json(mark, wanted)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); choose another --run") from error
    if RunFolder(folder).read_json(mark) != wanted:
        raise RunError(f"{folder} has other folds (another cache, number, seed or --split); choose another --run")
