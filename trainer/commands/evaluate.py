"""`trainer evaluate`: measures the weights of a run on a split or on other caches, and warns of defects."""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import click

from pipeline.cache.cache import Cache, open_cache
from pipeline.errors import CacheError, RunError
from pipeline.storage.outputs import kept
from pipeline.storage.url import Url, path_or_url
from trainer.commands.results import print_by_grade, print_results, print_sites, print_subgroups, print_ungradable
from trainer.config import RunConfig
from trainer.console import warn
from trainer.evaluation.characteristics import kept_groups
from trainer.evaluation.evaluate import Evaluation, Weights, check_measurable, evaluate_split, measuring_settings
from trainer.evaluation.external import describe_set
from trainer.evaluation.metrics import graded, only_grade
from trainer.evaluation.operating_point import Wish, wished
from trainer.evaluation.subgroups import Subgroups
from trainer.network.decision import at_operating_point
from trainer.network.device import choose_device
from trainer.network.metadata import Metadata, temperature_of
from trainer.network.model import load_model, read_provenance
from trainer.network.provenance import Provenance
from trainer.records import optional
from trainer.reporting.disclosure import synthetic_line, synthetic_photographs
from trainer.reporting.drawings import short_name
from trainer.reporting.evaluation_files import write_evaluation
from trainer.reporting.external import Site, read_sites
from trainer.reporting.forest import draw_forest
from trainer.reporting.narrative import UNKNOWN_PAST, exposure_line, fellow_lines, scale_line, synthetic_set_line
from trainer.run_folder import ResultFiles, RunFolder, set_name, unfit_name


@dataclass(frozen=True)
class Target:
    """Photographs to measure, and the files for the results."""

    cache: Cache
    split: str
    files: ResultFiles
    name: str
    """Name of the external set; "" for the run's own cache."""
    cache_path: str
    """Path or URL of the cache, as the user gave it."""

    @property
    def what(self) -> str:
        return self.name or self.split


class Measured(NamedTuple):
    """The evaluations of one command."""

    evaluations: list[tuple[Target, Evaluation]]
    sites: list[Site]
    """The run's own test part, then all its external sets; empty if this command measured no external set."""
    forest: Path
    """The forest plot of the sites."""


@dataclass(frozen=True, kw_only=True)
class HowToMeasure:
    """The options of `trainer evaluate`, except those that say what to measure."""

    loader: str = "auto"
    device: str = "auto"
    workers: int | None = None
    wish: Wish | None = None
    """Another operating point, chosen on the run's validation part; None: that of the weights."""
    prevalence: float | None = None
    """Prevalence in another population, 0 to 1."""
    tta: bool | None = None
    """Whether to take the mean over the eight flips and turns; None: as in the run."""
    refit: int | None = None
    """Most photographs of an external set to refit the threshold on; None: no refit."""
    subgroups: Sequence[str] = ()
    """Columns of attributes.csv, whose groups are measured too."""


def evaluate(
    path: Path, caches: Sequence[Path | Url], names: Sequence[str], split: str | None, how: HowToMeasure
) -> Measured:
    """Measures the weights of a run on a split of its own cache, and replaces the files of that split; or on other
    caches, each of which is an external set with its own folder.

    caches: their paths or URLs; empty: the run's own. names: of the external sets, one for each cache, or empty.
    split: None: test of the run's own cache, all of another.
    """
    run = RunFolder(path)
    config = run.read_config()
    targets = find_targets(run, config, caches, names, split)
    for target in targets:  # before the model runs over any of them
        kept_groups(target.cache, target.split, how.subgroups)
    external = [target for target in targets if target.name]
    model, metadata = load_model(run.model)
    for target in targets:
        check_size(target.cache, metadata)
    if not run.finished and (external or targets[0].split == "test"):
        warn(
            f"{path} is unfinished: these are the weights of epoch {metadata.epoch} so far. Look at test once, "
            "when everything is chosen"
        )
    metadata = with_operating_point(run, config, metadata, how.wish)
    if how.refit and len(external) < len(targets):
        raise RunError(f"{path}: --refit is for another cache than the run's own")
    if how.refit and metadata.operating is None:
        raise RunError(f"{run.model}: --refit compares with the weights' threshold, and they carry none")
    measured, sites, weights = [], [], Weights(model, metadata, read_provenance(run.model))
    for target in targets if metadata.members else []:
        check_not_trained_on(path, weights.provenance, target)
    for target in targets:
        say_dropped(run, target, how.subgroups)
    with kept([target.files.metrics for target in targets] + [run.forest_drawing] * bool(external)):
        for target in targets:
            evaluation = measure_target(run, config, target, weights, how)
            say_defects(evaluation, own=not target.name, name=target.name)
            if evaluation.description is None:
                say_synthetic(config, target.cache, target.split)
            elif line := synthetic_set_line(evaluation, evaluation.description):
                warn(f"{target.name}: {line}")
            measured.append((target, evaluation))
        if external:
            sites = read_sites(run)
            draw_forest(run.forest_drawing, sites, title=short_name(run.title))
    return Measured(measured, sites, run.forest_drawing)


def check_size(cache: Cache, metadata: Metadata) -> None:
    """Raises RunError if the cached photographs are smaller than the input of the network."""
    if cache.recipe.size < metadata.size:
        raise RunError(
            f"{cache.path} has photographs of {cache.recipe.size} px, and the weights take {metadata.size} px; "
            f"`tools preprocess` with --size {metadata.recipe.size} makes a cache for them"
        )


def check_not_trained_on(path: Path, provenance: Provenance | None, target: Target) -> None:
    """Raises RunError if a member of an ensemble was trained on photographs that are to be measured."""
    if provenance and (same := provenance.exposure(target.cache, target.split).same):
        raise RunError(
            f"{path}: a member was trained on {same:,} photographs of {target.what}; measure another split, or "
            "another data set with --cache"
        )


def with_operating_point(run: RunFolder, config: RunConfig, metadata: Metadata, wish: Wish | None) -> Metadata:
    """The metadata with the operating point for a wish; None: unchanged. Warns if there is no operating point.

    Raises RunError if none can be chosen, as for an ensemble of folds: its members were trained on all photographs of
    validation.
    """
    if wish and config.folds:
        raise RunError(
            f"{run.path} is an ensemble of folds, whose members were trained on validation too, so no other threshold "
            f"can be chosen there; leave out --{wish.wanted}"
        )
    if wish:
        return at_operating_point(metadata, wished(run, temperature_of(metadata.operating), wish))
    if metadata.operating is None:
        advice = "" if config.folds else "; --sensitivity 0.9 chooses one"
        warn(f"{run.model} carries no operating point: probabilities are not calibrated{advice}")
    return metadata


def measure_target(
    run: RunFolder,
    config: RunConfig,
    target: Target,
    weights: Weights,
    how: HowToMeasure,
) -> Evaluation:
    """Measures one target and writes its files."""
    cache, own, metadata = target.cache, not target.name, weights.metadata
    if cache.recipe != metadata.recipe:
        warn(
            f"{cache.path} was made by another recipe ({cache.recipe}) than the training photographs "
            f"({metadata.recipe})"
        )
    device = choose_device(how.device)
    settings = measuring_settings(
        config.resolved, metadata, cache, loader=how.loader, device=device, workers=how.workers, tta=how.tta
    )
    evaluation = evaluate_split(
        settings,
        weights,
        cache,
        target.split,
        own=own,
        prevalence=how.prevalence,
        columns=how.subgroups,
    )
    if not own:
        description = describe_set(cache, target.name, target.cache_path, evaluation, metadata, how.refit, how.workers)
        evaluation = replace(evaluation, description=description)
    write_evaluation(target.files, evaluation, f"{short_name(run.title)}, {short_name(target.what)}")
    if own:  # an external set changes no file of the run itself
        run.note_date(f"measured {target.split}")
    return evaluation


def find_targets(
    run: RunFolder, config: RunConfig, caches: Sequence[Path | Url], names: Sequence[str], split: str | None
) -> list[Target]:
    """Opens the caches and finds the files for the results. A cache with the run's digest is the run's own, at any
    path.

    Raises RunError or CacheError if a cache cannot be measured, or its results must not be written there.
    """
    targets: list[Target] = []
    for path, name in zip(caches or [path_or_url(config.cache)], names or [""] * max(1, len(caches)), strict=True):
        cache = open_measured(run, path, recorded=not caches)
        if cache.digest == config.cache_digest:
            if name or split == "all":
                option = f"--name {name}" if name else "--split all"
                raise RunError(f"{cache.path} is the run's own cache; {option} is for another")
            target = Target(cache, split or "test", run.results(split or "test"), "", str(path))
            run.check_plain_files(*target.files, run.dates)
        else:
            name = name or set_name(path)
            if problem := unfit_name(name):
                raise RunError(f"{cache.path}: {problem}; give it one with --name")
            part = split or "all"
            target = Target(cache, part, run.check_external(name, cache.digest, part), name, str(path))
            if not caches:
                folder = target.files.metrics.parent
                warn(f"{cache.path} is not as it was when {run.path} was trained; what is measured goes into {folder}")
        if any(target.files == each.files for each in targets):
            raise RunError(f"two caches would write {target.files.metrics}; give each its own --name")
        check_measurable(cache, target.split)
        targets.append(target)
    return targets


def open_measured(run: RunFolder, path: Path | Url, *, recorded: bool) -> Cache:
    """The cache at `path`. recorded: whether the path is from config.json. Raises CacheError if it cannot be opened."""
    try:
        return open_cache(path)
    except CacheError as error:
        if not recorded:
            raise
        raise CacheError(f"{error.message}. If it was moved: `trainer evaluate {run.path} --cache FOLDER`") from error


def say_dropped(run: RunFolder, target: Target, columns: Sequence[str]) -> None:
    """Warns of subgroups that were measured before and are not to be measured now. columns: those of now."""
    earlier = None
    if target.files.metrics.exists():
        with suppress(RunError, ValueError):  # damaged: it is replaced
            earlier = optional(Subgroups, run.read_json(target.files.metrics).get("subgroups"))
    dropped = [column.name for column in earlier.columns if column.name not in columns] if earlier else []
    if dropped:
        options = shlex.join(word for name in dropped for word in ("--subgroup", name))
        warn(f"the earlier results of {target.what} by {', '.join(dropped)} are replaced; `{options}` keeps them")


def say_synthetic(config: RunConfig, cache: Cache, split: str) -> None:
    """Warns of synthetic photographs in the run's own cache, also if only the training photographs are synthetic."""
    if line := synthetic_line(synthetic_photographs(config, cache), split):
        warn(line)


def print_measured(measured: Measured, by: str) -> None:
    """Prints the results. by: "eye" and "patient" add a column to those of a single split."""
    if len(measured.evaluations) == 1:
        ((target, evaluation),) = measured.evaluations
        results = evaluation.results
        columns = {target.what: results}
        more = {"eye": results.by_eye, "patient": results.by_patient}.get(by)
        if more:
            columns[f"{target.what}, by {by}"] = more
        elif by != "photograph":
            click.echo(f"no {by} has two graded photographs of {target.what}: by {by} is by photograph", err=True)
        print_results(columns)
        print_by_grade(results)
    for target, evaluation in measured.evaluations:
        print_ungradable(target.what, evaluation.results)
        say_fellows(evaluation, target.what)
        if evaluation.subgroups:
            print_subgroups(evaluation.subgroups, target.what)
    if measured.sites:
        print_sites(measured.sites)
        folders = [target.files.metrics.parent for target, _ in measured.evaluations if target.name]
        click.echo(f"written: {' '.join(map(str, [*folders, measured.forest]))}")


def say_fellows(evaluation: Evaluation, what: str) -> None:
    """Prints in how many photographs the patient's other eye was taken into account. what: the split or the set."""
    for line in fellow_lines(evaluation, graded(evaluation.predictions), what):
        click.echo(line)


def say_defects(evaluation: Evaluation, *, own: bool, name: str = "") -> None:
    """Warns of photographs that the weights were trained on or chosen by, of photographs without a grade, and of a
    network that gives all photographs one grade.

    own: whether the weights were trained on this cache. name: of the external set; "" for the run's own cache.
    """
    prefix = f"{name}: " if name else ""
    part = "" if evaluation.split == "all" else f" of {evaluation.split}"
    split, predictions, exposure = evaluation.split, evaluation.predictions, evaluation.exposure
    metrics, no_image = evaluation.results.metrics, evaluation.results.no_image
    warned_of = no_image.leaked if own and no_image else 0  # fit has warned of these
    if exposure and max(exposure.trained_on, exposure.chosen_by) > warned_of:
        warn(prefix + exposure_line(split, exposure))
    if line := scale_line(*evaluation.scale):
        warn(prefix + line)
    if exposure is None and not own:
        warn(prefix + UNKNOWN_PAST)
    left_out = len(predictions) - metrics.photographs
    if left_out:
        warn(f"{prefix}{left_out} of {len(predictions)} photographs{part} have no grade; the metrics leave them out")
    grade = only_grade(graded(predictions))
    if grade is not None and metrics.photographs > 1:
        line = (
            f"{prefix}the model gives grade {grade} to every photograph{part}: accuracy {100 * metrics.accuracy:.1f} %"
        )
        if own and no_image:
            line += f", where giving all of them grade {no_image.majority_grade}, the commonest of train, "
            line += f"makes {100 * no_image.majority.accuracy:.1f} %"
        warn(line)
