"""Running a model over a split, and the files that say how it did."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click
import pandas as pd
import torch

from pipeline.cache.cache import Cache, open_cache
from pipeline.cache.splits import patients_of
from pipeline.errors import CacheError
from pipeline.grades import UNKNOWN
from pipeline.loading.loaders import open_loader
from pipeline.storage.outputs import kept
from pipeline.storage.url import Url
from trainer.config import FitConfig
from trainer.console import warn
from trainer.distributed.loaders import open_share
from trainer.distributed.process_group import first, same_state
from trainer.evaluation.metrics import (
    confusion,
    confusion_table,
    graded,
    only_grade,
    predictions_table,
    row_shares,
)
from trainer.evaluation.operating_point import Wish, choose_operating, wished
from trainer.evaluation.ordinal_thresholds import fit_cuts
from trainer.evaluation.results import Results, assess
from trainer.inference.forward import Outputs, run_model
from trainer.network.decision import DecisionRule, probabilities
from trainer.network.device import choose_device, to_device
from trainer.network.metadata import About, read_about, temperature_of
from trainer.network.model import Grader, load_model, read_provenance, save_model
from trainer.network.provenance import Exposure, Provenance
from trainer.reporting.figures import draw_accuracy, draw_confusion
from trainer.reporting.narrative import UNKNOWN_PAST, choice, exposure_line
from trainer.reporting.tables import print_results
from trainer.run_folder import RunFolder, write_csv, write_json


def evaluate(
    path: Path,
    split: str,
    cache_path: Path | Url | None,
    loader: str,
    device_name: str,
    workers: int | None,
    wish: Wish | None = None,
    prevalence: float | None = None,
    tta: bool | None = None,
) -> Results:
    """Measures a run's weights on a split of its cache, or of another, and rewrites that split's files.

    `tta`: whether as the mean over the eight symmetries; None: as the run was measured.
    `wish`: another operating point than the one that the weights carry, chosen anew on the run's validation part.
    """
    run = RunFolder(path)
    config = run.read_config()
    run.check_places(
        run.predictions(split),
        run.metrics(split),
        run.confusion(split),
        run.confusion_counts(split),
        run.confusion_figure(split),
    )
    model, about = load_model(run.model)
    cache = open_measured(run, config.cache, cache_path)
    if split == "test" and not run.finished:
        warn(
            f"{path} is unfinished: these are the weights of epoch {about.epoch} so far. Test is to be looked at once, "
            "when all is chosen"
        )
    if cache.digest != config.cache_digest:
        warn(f"{cache.path} is not as it was when {path} was trained; {path.name}'s {split} files will be about it")
    if cache.recipe != about.recipe:
        warn(f"{cache.path} was made by another recipe ({cache.recipe}) than the training photographs ({about.recipe})")
    check_measurable(cache, split)
    if wish:
        about = replace(about, operating=wished(run, temperature_of(about.operating), wish))
    elif about.operating is None:
        warn(f"{run.model} carries no operating point: probabilities are not calibrated; --sensitivity 0.9 chooses one")
    device = torch.device(choose_device(device_name))
    to_device(model, device)
    batch = 2 * config.resolved.batch
    with (
        kept([run.metrics(split)]),
        open_loader(
            loader,
            cache,
            split=split,
            batch_size=batch,
            size=about.size,
            device=device,
            workers=workers,
            together=cache.together,
        ) as batches,
    ):
        outputs = run_model(model, batches, device, split, tta=config.resolved.tta if tta is None else tta)
        own = cache.digest == config.cache_digest
        exposure = met(read_provenance(run.model), cache, split, own=own)
        return write_split(run, cache, split, outputs, about, exposure, prevalence, own=own)


def met(provenance: Provenance | None, cache: Cache, split: str, *, own: bool) -> Exposure | None:
    """How many photographs of a split the weights have met beyond what the split says itself; None where nobody knows.

    `own`: whether it is the cache that they were trained on, whose train and val they have met, of course.
    """
    if provenance is None or (own and split == "train"):
        return None
    exposure = provenance.exposure(cache, split)
    return exposure._replace(chosen_by=0) if own and split == "val" else exposure


def open_measured(run: RunFolder, recorded: str, path: Path | Url | None) -> Cache:
    """The cache that is named, or else the run's own. Raises CacheError where it cannot be opened."""
    try:
        return open_cache(path or recorded)
    except CacheError as error:
        if path:
            raise
        raise CacheError(f"{error.message}. If it was moved: `trainer evaluate {run.path} --cache FOLDER`") from error


def finish(config: FitConfig, cache: Cache, run: RunFolder) -> None:
    """Measures the weights kept on val, where how to read them is chosen, and, for the first time, on test; writes that
    into the weights, draws the figures and writes the summary.

    What is chosen depends on the weights alone, so a run killed here chooses the same when it is resumed.
    """
    model = load_model(run.model)[0] if first() else Grader(config.model, config.link, config.stem)
    same_state(model)
    device = torch.device(config.device)
    to_device(model, device)
    measured, provenance = {}, read_provenance(run.model) if first() else None
    for split in ("val", "test"):
        try:
            check_measurable(cache, split)
        except CacheError as error:
            warn(error.message)
            continue
        with open_share(config, cache, split, 2 * config.batch) as loader:
            outputs = run_model(model, loader, device, split, tta=config.tta)
        if not first():
            continue
        about = read_about(run.model)
        if split == "val":
            about = chosen_on(cache, outputs, about, config.grade_by)
            save_model(run.model, model, about, provenance)
        measured[split] = write_split(run, cache, split, outputs, about, met(provenance, cache, split, own=True))
    if first():
        summarise(config, run, measured)


def chosen_on(cache: Cache, outputs: Outputs, about: About, grade_by: str) -> About:
    """`about` with temperature, threshold and, where the expected grade is predicted, cuts: from outputs for val."""
    manifest, known = cache.manifest, outputs.grades.numpy() != UNKNOWN
    logits, grades = outputs.logits.double().numpy()[known], outputs.grades.numpy()[known]
    operating, cuts = choose_operating(logits, grades), None
    if grade_by == "expected":
        patients = pd.factorize(patients_of(manifest, manifest["id"].iloc[outputs.rows[known]]))[0]
        cuts = fit_cuts(probabilities(logits, temperature_of(operating)), grades, patients)
        if cuts is None:
            warn("validation has one grade alone and says nowhere to cut: the likeliest grade is predicted")
    return replace(about, operating=operating, cuts=cuts)


def summarise(config: FitConfig, run: RunFolder, measured: Mapping[str, Results]) -> None:
    """Draws a run's accuracy by epoch, says how the weights kept did, by split, and writes the summary."""
    about = read_about(run.model)
    table = run.read_accuracy()
    baselines = measured["val"].baselines
    majority = 100 * baselines.majority.accuracy if baselines else None
    draw_accuracy(run.accuracy_figure, table, title=run.path.name, kept=about.epoch, majority=majority)
    click.echo(f"kept epoch {about.epoch} of {len(table)}, {choice(config)}")
    print_results(measured)
    write_json(
        run.summary,
        {
            "kept_epoch": about.epoch,
            "epochs": len(table),
            "seconds": round(float(table["seconds"].sum()), 1),
            **{
                split: {
                    **results.metrics.as_dict(),
                    "intervals": results.intervals,
                    "no_image": results.baselines and results.baselines.as_dict(),
                }
                for split, results in measured.items()
            },
        },
    )


def check_measurable(cache: Cache, split: str) -> None:
    """Raises CacheError where a split has no graded photograph."""
    rows = cache.rows(split)
    if not (cache.manifest["grade"].to_numpy()[rows] != UNKNOWN).any():
        what = "its photographs have no grades" if len(rows) else "it has no photographs"
        raise CacheError(f"{cache.path}: {split} cannot be measured, {what}")


def write_split(
    run: RunFolder,
    cache: Cache,
    split: str,
    outputs: Outputs,
    about: About,
    exposure: Exposure | None,
    prevalence: float | None = None,
    *,
    own: bool = True,
) -> Results:
    """Writes the predictions, metrics and confusion matrices of a split, and returns what they were measured to be."""
    manifest = cache.manifest
    logits = outputs.logits.double().numpy()
    calibrated = DecisionRule.of(about).probabilities(logits)
    predictions = predictions_table(manifest["id"].iloc[outputs.rows], outputs.grades.numpy(), calibrated, about.cuts)
    results = assess(manifest, split, predictions, probabilities(logits), about.operating, prevalence)
    counts = confusion(predictions)

    written = predictions.astype({"grade": "Int64"})
    write_csv(run.predictions(split), written.assign(grade=written["grade"].mask(written["grade"] == UNKNOWN)))
    write_csv(run.confusion_counts(split), confusion_table(counts), index=True)
    write_csv(run.confusion(split), confusion_table(row_shares(counts)), index=True)
    draw_confusion(run.confusion_figure(split), counts, title=f"{run.path.name}, {split}")
    write_json(
        run.metrics(split),
        {"split": split, "cache": cache.digest, **results.as_dict(), "exposure": exposure and exposure._asdict()},
    )
    told = results.baselines.leaked if own and results.baselines else 0  # fit has said so much by the names
    if exposure and max(exposure.trained_on, exposure.chosen_by) > told:
        warn(exposure_line(split, exposure))
    if exposure is None and not own:
        warn(UNKNOWN_PAST)

    warn_of_defects(split, predictions, results)
    return results


def warn_of_defects(split: str, predictions: pd.DataFrame, results: Results) -> None:
    metrics, baselines = results.metrics, results.baselines
    left_out = len(predictions) - metrics.photographs
    if left_out:
        warn(f"{left_out} of {len(predictions)} photographs of {split} have no grade; the metrics leave them out")
    grade = only_grade(graded(predictions))
    if grade is not None and metrics.photographs > 1:
        line = f"the model gives grade {grade} to every photograph of {split}: accuracy {100 * metrics.accuracy:.1f} %"
        if baselines:
            line += f", where giving all of them grade {baselines.majority_grade}, the commonest of train, "
            line += f"makes {100 * baselines.majority.accuracy:.1f} %"
        warn(line)
