"""`trainer evaluate`: a run's weights measured on a split, and what is said of what was measured."""

from dataclasses import replace
from pathlib import Path

from pipeline.cache.cache import Cache, open_cache
from pipeline.errors import CacheError
from pipeline.storage.outputs import kept
from pipeline.storage.url import Url
from trainer.console import warn
from trainer.evaluation.evaluate import Evaluation, check_measurable, evaluate_split, measuring_settings
from trainer.evaluation.metrics import graded, only_grade
from trainer.evaluation.operating_point import Wish, wished
from trainer.evaluation.results import Results
from trainer.network.device import choose_device
from trainer.network.metadata import temperature_of
from trainer.network.model import load_model, read_provenance
from trainer.reporting.evaluation_files import write_evaluation
from trainer.reporting.narrative import UNKNOWN_PAST, exposure_line, scale_line
from trainer.run_folder import RunFolder


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
    own = cache.digest == config.cache_digest
    if split == "test" and not run.finished:
        warn(
            f"{path} is unfinished: these are the weights of epoch {about.epoch} so far. Test is to be looked at once, "
            "when all is chosen"
        )
    if not own:
        warn(f"{cache.path} is not as it was when {path} was trained; {path.name}'s {split} files will be about it")
    if cache.recipe != about.recipe:
        warn(f"{cache.path} was made by another recipe ({cache.recipe}) than the training photographs ({about.recipe})")
    check_measurable(cache, split)
    if wish:
        about = replace(about, operating=wished(run, temperature_of(about.operating), wish))
    elif about.operating is None:
        warn(f"{run.model} carries no operating point: probabilities are not calibrated; --sensitivity 0.9 chooses one")
    settings = measuring_settings(
        config.resolved, about, cache, loader=loader, device=choose_device(device_name), workers=workers, tta=tta
    )
    with kept([run.metrics(split)]):
        provenance = read_provenance(run.model)
        evaluation = evaluate_split(settings, model, about, provenance, cache, split, own=own, prevalence=prevalence)
        write_evaluation(run, evaluation)
        say_defects(evaluation, own=own)
    return evaluation.results


def open_measured(run: RunFolder, recorded: str, path: Path | Url | None) -> Cache:
    """The cache that is named, or else the run's own. Raises CacheError where it cannot be opened."""
    try:
        return open_cache(path or recorded)
    except CacheError as error:
        if path:
            raise
        raise CacheError(f"{error.message}. If it was moved: `trainer evaluate {run.path} --cache FOLDER`") from error


def say_defects(evaluation: Evaluation, *, own: bool) -> None:
    """Warns of photographs that the weights have met, of those without a grade, and of a model that gives one grade to
    all. `own`: whether the weights were trained on this cache."""
    split, predictions, exposure = evaluation.split, evaluation.predictions, evaluation.exposure
    metrics, baselines = evaluation.results.metrics, evaluation.results.baselines
    told = baselines.leaked if own and baselines else 0  # fit has said so much by the names
    if exposure and max(exposure.trained_on, exposure.chosen_by) > told:
        warn(exposure_line(split, exposure))
    if line := scale_line(*evaluation.scale):
        warn(line)
    if exposure is None and not own:
        warn(UNKNOWN_PAST)
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
