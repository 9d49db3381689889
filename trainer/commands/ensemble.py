"""`trainer ensemble`: makes one network of several runs. Every command takes its folder as it takes a run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from pipeline.loading.loaders import choose_loader
from pipeline.storage.url import Url
from trainer.commands.evaluate import say_defects, say_fellows, say_synthetic
from trainer.commands.fit import measurable
from trainer.commands.results import print_splits
from trainer.console import warn
from trainer.evaluation.ensembles import (
    check_alike,
    check_apart,
    check_not_trained_on,
    describe_members,
    find_members,
    joint_provenance,
    last_trained,
    load_members,
    measured_splits,
    open_their_cache,
    out_of_fold,
    trained_rows,
)
from trainer.evaluation.evaluate import Evaluation, choose_decision, exposure_on, measure_outputs, measuring_settings
from trainer.inference.forward import run_split
from trainer.inference.inputs import training_statistics
from trainer.network.device import choose_device, to_device
from trainer.network.model import save_model
from trainer.reporting.drawings import short_name
from trainer.reporting.evaluation_files import write_evaluation, write_summary
from trainer.reporting.narrative import APPROXIMATE_RULE
from trainer.run_folder import RunFolder, check_free, new_folder
from trainer.training.setup import begin, describe


def ensemble(
    out: Path,
    paths: Sequence[Path],
    cache_path: Path | Url | None,
    *,
    loader: str,
    device_name: str,
    workers: int | None,
) -> RunFolder:
    """Writes OUT: the members' weights in one file, the decision rule of their mean, and its results on val and test.

    paths: finished runs on one cache, or the folder of `trainer folds`. cache_path: where their cache is, or, for
    folds, the cache that they were made from; None: where the runs have it. Raises RunError for runs that cannot be
    combined.
    """
    check_free(out, "OUT")
    members = find_members(paths)
    check_apart(out, members)
    check_alike(members)
    cache = open_their_cache(members, cache_path)
    splits = measured_splits(members)
    for split in splits:
        check_not_trained_on(members, cache, split)
    first, model, metadata = members.configs[0].resolved, load_members(members), describe_members(members)
    device = choose_device(device_name)
    loader = choose_loader(loader, device)
    first = replace(first, cache=str(cache.path))
    config = measuring_settings(first, metadata, cache, loader=loader, device=device, workers=workers, tta=None)
    metadata = replace(
        metadata, statistics=training_statistics(cache, trained_rows(members, cache), metadata.size, workers)
    )
    to_device(model, device)
    outputs = {split: run_split(config, model, cache, split) for split in measurable(cache, splits)}
    chosen_on = out_of_fold(members, cache, config, model) if members.folds else outputs.get("val")
    if chosen_on is not None:
        metadata = choose_decision(cache, chosen_on, metadata, first.grade_by)
    provenance = joint_provenance(members)
    measured = {
        split: measure_outputs(cache, split, found, metadata, exposure_on(provenance, cache, split, own=True))
        for split, found in outputs.items()
    }
    described = describe(first, config, cache, metadata.plugs)
    folds = str(members.folds.path.resolve()) if members.folds else ""
    click.echo(f"{metadata.title}: the mean of the members' calibrated probabilities, calibrated once more")
    if members.folds:
        warn(APPROXIMATE_RULE)
    with new_folder(out, "OUT") as unfinished:
        run = RunFolder(unfinished)
        save_model(run.model, model, metadata, provenance)
        begin(run, replace(described, members=members.paths, folds=folds))
        for split, evaluation in measured.items():
            write_evaluation(run.results(split), evaluation, f"{short_name(RunFolder(out).title)}, {split}")
        run.note_date(*(f"measured {split}" for split in measured))
        if trained := last_trained(members):
            run.note_date("trained", day=trained)
        write_summary(run, None, measured)
    if measured:
        say_results(measured)
        say_synthetic(described, cache, [*measured][-1])
    click.echo(f"results: {out}/")
    return RunFolder(out)


def say_results(measured: Mapping[str, Evaluation]) -> None:
    """Prints the results by split, and what is wrong with them."""
    for evaluation in measured.values():
        say_defects(evaluation, own=True)
    print_splits({split: evaluation.results for split, evaluation in measured.items()})
    for split, evaluation in measured.items():
        say_fellows(evaluation, split)
