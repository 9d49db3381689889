"""`trainer folds`: trains a run for each fold and measures all runs together, out of fold."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from pipeline.cache.cache import Cache, open_cache
from pipeline.cache.copies import SharedPhoto, joined_patients, shared_photos
from pipeline.cache.folds import check_foldable, fold_splits, folded_rows, has_other_splits, write_fold
from pipeline.errors import RunError
from trainer.commands import fit
from trainer.config import FitConfig
from trainer.console import warn
from trainer.distributed.process_group import from_main, is_main
from trainer.evaluation.out_of_fold import CrossValidation, OutOfFold
from trainer.evaluation.second_look import second_look
from trainer.reporting.folds import (
    begin_folds,
    by_chance_line,
    joined_line,
    not_compared_line,
    out_of_fold_lines,
    read_fold,
    read_shared_photos,
    second_look_line,
    write_out_of_fold,
    write_second_look,
)
from trainer.run_folder import FOLDED, FoldsFolder, FoldsMark, RunFolder


def folds(
    asked: FitConfig, given: Mapping[str, Any], count: int, path: Path, *, seeds: Sequence[int], with_test: bool
) -> None:
    """Trains the runs below `path` that are missing, `count` for each seed, and measures all together.

    given: the settings of this command, for runs that are resumed. seeds: of the trainings; empty: that of `asked`,
    which also draws the folds. with_test: whether the photographs of test are folded too.
    Raises RunError if the folder has other folds, or runs with other settings.
    """
    cache, folder = open_cache(asked.cache), FoldsFolder(path)
    if asked.fellow_eye:  # each fold has its own run and weights
        given = {name: value for name, value in given.items() if name not in ("fellow_eye", "weights")}
    seeds = list(seeds) or [asked.seed]
    mark = FoldsMark(cache.digest, count, asked.seed, with_test, None if seeds == [asked.seed] else seeds)
    if asked.fellow_eye:
        from_main(partial(_check_first, FoldsFolder(Path(asked.fellow_eye)), cache, mark))
    shared = from_main(partial(_begin, folder, cache, mark))
    asked = from_main(partial(_as_begun, folder, count, seeds, asked, given))
    columns = fold_splits(cache.manifest, count, asked.seed, with_test=with_test, joined=joined_patients(shared))
    for seed in seeds:
        for number, splits in enumerate(columns):
            run, cache_path = _run(folder, number, seed, seeds), folder.cache(number)
            if is_main():
                click.echo(f"fold {number + 1} of {count}{f', seed {seed}' if len(seeds) > 1 else ''}: {run.path}")
                write_fold(cache, cache_path, splits, f"fold {number} of {count}")
            if from_main(partial(getattr, run, "started")):
                fit.resume(run.path, {**given, "cache": str(cache_path), "seed": seed})
            else:
                fit.start(_of_fold(replace(asked, cache=str(cache_path), seed=seed), number), run.path)
    if is_main():
        _measure(folder, cache, count, seeds)


def _run(folder: FoldsFolder, number: int, seed: int, seeds: Sequence[int]) -> RunFolder:
    """The run of a fold and a seed."""
    return folder.run(number, seed if len(seeds) > 1 else None)


def _of_fold(asked: FitConfig, number: int) -> FitConfig:
    """The settings of a fold's run: with --fellow-eye it starts from the run of the same fold and seed."""
    if not asked.fellow_eye:
        return asked
    first = FoldsFolder(Path(asked.fellow_eye))
    run = _run(first, number, asked.seed, first.read_mark().seeds or [asked.seed])
    return replace(asked, fellow_eye=str(run.path), weights=str(run.model))


def _check_first(first: FoldsFolder, cache: Cache, mark: FoldsMark) -> None:
    """Raises RunError if the folds of --fellow-eye are others than those of `mark`, or are not finished."""
    if not first.mark.exists():
        raise RunError(f"{first.path} was not made by `trainer folds`; `trainer fit --fellow-eye` takes it")
    was = first.read_mark()
    if was.cache != mark.cache:
        raise RunError(f"{cache.path} is not the cache that {first.path} was made from; name that one with --cache")
    drawn = {
        "--folds": (was.folds, mark.folds),
        "--seed": (was.seed, mark.seed),
        "--split": (FOLDED[was.test], FOLDED[mark.test]),
    }
    for option, (theirs, ours) in drawn.items():
        if theirs != ours:
            raise RunError(f"{first.path} was made with {option} {theirs}, not {ours}; leave out {option}")
    known = was.seeds if was.seeds and len(was.seeds) > 1 else None
    if known and (other := [seed for seed in mark.seeds or [mark.seed] if seed not in known]):
        raise RunError(f"{first.path} was trained with the seeds {', '.join(map(str, known))}, and not with {other[0]}")
    if missing := next((run for run in first.runs() if not run.finished), None):
        raise RunError(f"{missing.path} is missing or unfinished; the `trainer folds` command that began it continues")


def _as_begun(
    folder: FoldsFolder, count: int, seeds: Sequence[int], asked: FitConfig, given: Mapping[str, Any]
) -> FitConfig:
    """The settings of the runs that exist; `asked` if there are none. All runs have the same settings.

    Raises RunError if a given setting differs from theirs.
    """
    runs = (_run(folder, number, seed, seeds) for seed in seeds for number in range(count))
    begun = next((run for run in runs if run.started), None)
    if begun is None:
        return asked
    config = begun.read_config().asked
    anew = {name: value for name, value in given.items() if name in fit.MAY_CHANGE}
    for name, value in given.items():
        was = getattr(config, name)
        if name not in {*fit.MAY_CHANGE, "seed"} and value != was:
            raise RunError(
                f"{folder.path} was begun with {name} {was}, not {value}; leave it out, or choose another --run"
            )
    if (config.fellow_eye and str(Path(config.fellow_eye).parent)) != asked.fellow_eye:
        raise RunError(f"{folder.path} was begun with another --fellow-eye; choose another --run")
    return replace(config, seed=asked.seed, fellow_eye=asked.fellow_eye, **anew)  # the seed draws the folds


def _begin(folder: FoldsFolder, cache: Cache, mark: FoldsMark) -> list[SharedPhoto]:
    """Makes the folder once the folds are known to be possible. Returns and prints the photographs that several
    patients share; they are searched only the first time."""
    check_foldable(cache)
    folder.claim(mark)
    rows = folded_rows(cache.manifest, with_test=mark.test)
    shared = read_shared_photos(folder) if folder.shared_photos.exists() else shared_photos(cache, rows)
    joined = joined_patients(shared)
    columns = fold_splits(cache.manifest, mark.folds, mark.seed, with_test=mark.test, joined=joined)
    if joined and has_other_splits(folder.cache(0), columns[0]):
        warn(
            f"{folder.path}: patients share photographs and were not kept together when these folds were drawn, by an "
            "earlier version, so its figures flatter; choose another --run to draw them anew"
        )
        shared, joined = [], {}
    try:
        begin_folds(folder, mark, shared)
    except OSError as error:
        raise RunError(f"{folder.path}: cannot be written ({error.strerror}); choose another --run") from error
    if line := joined_line(folder, joined):
        click.echo(line)
    if line := not_compared_line(len(rows)):
        warn(line)
    return shared


def _measure(folder: FoldsFolder, cache: Cache, count: int, seeds: Sequence[int]) -> None:
    """Writes and prints the results of all runs together."""

    def trained(seed: int | None) -> OutOfFold:
        return OutOfFold([read_fold(folder.run(fold, seed), open_cache(folder.cache(fold))) for fold in range(count)])

    validation = CrossValidation({seed: trained(seed if len(seeds) > 1 else None) for seed in seeds})
    doubted = second_look(validation, cache.manifest)
    results = validation.measure()
    write_out_of_fold(folder, validation, results)
    write_second_look(folder, doubted, cache)
    for line in out_of_fold_lines(results):
        click.echo(line)
    if line := by_chance_line(results):
        warn(line)
    click.echo(second_look_line(doubted))
    click.echo(f"results: {folder.path}/ (predictions_oof.csv, metrics_oof.json, confusion_oof.png, second_look.csv)")
