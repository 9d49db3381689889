"""From what was asked for to a finished run: resolve, start or resume, train, measure."""

import functools
import platform
import shlex
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch

from pipeline.cache.baselines import no_image_baselines
from pipeline.cache.cache import Cache, open_cache
from pipeline.errors import CacheError, RunError
from pipeline.grades import N_GRADES, UNKNOWN
from pipeline.loading.batch import Loader
from pipeline.loading.loaders import choose_loader
from pipeline.storage.url import Url
from trainer.commands.evaluate import check_measurable, finish
from trainer.config import SMALL_BELOW, FitConfig, RunConfig, as_options
from trainer.console import print_class_weights, warn
from trainer.distributed.loaders import say_shares
from trainer.distributed.process_group import first, from_first, restarted, same_state, speaks
from trainer.distributed.sync_batchnorm import synchronise
from trainer.inference.inputs import seen_in
from trainer.network.device import choose_device, choose_precision, to_device
from trainer.network.metadata import About
from trainer.network.model import Grader, load_state, read_provenance
from trainer.network.pretrained import pretrain
from trainer.network.provenance import Provenance
from trainer.reporting.figures import draw_rates
from trainer.reporting.narrative import exposure_line
from trainer.run_folder import RunFolder, create_run, newest_unfinished, unfinished, write_json
from trainer.training.checkpoint import Progress, newest_checkpoint
from trainer.training.learner import Learner
from trainer.training.loop import fit, open_loaders
from trainer.training.losses import class_weights
from trainer.training.progressive_resizing import start_pixels
from trainer.training.range_test import range_test
from trainer.training.signals import Stopped, Stopper

MAY_CHANGE: Final = frozenset({"cache", "checkpoint_minutes", "device", "workers"})
"""Settings that --resume takes anew: where things are, not what is computed. The cache's digest is checked instead."""


def start(asked: FitConfig, path: Path | None) -> RunFolder:
    """A new run, trained and measured; or, where torchrun has had to start the processes anew, the one that they began.
    `path`: the run folder, made here; None: a name of its own below runs/.

    Nothing is written before all that can be checked beforehand has been.
    """
    if restarted() and (begun := from_first(lambda: begun_run(asked, path))):
        return resume(begun.path, {})
    config, cache, model = prepare(asked)
    if first():
        warn_of_earlier(config.weights, cache)
    with open_loaders(config, cache) as loaders:
        name = f"{config.model}-{Path(config.weights).stem}-{config.size}px-{config.loader}"
        run = from_first(lambda: create_run(path, name))
        with run.held() if first() else nullcontext():
            if first():
                begin(run, describe(asked, config, cache))
            carry_out(config, cache, loaders, run, model, Progress())
    return run


def begin(run: RunFolder, config: RunConfig) -> None:
    """Writes config.json, which makes a folder a run. Raises RunError, and leaves no empty folder, where it cannot."""
    try:
        write_json(run.config, config.as_dict())
    except OSError as error:
        with suppress(OSError):
            run.path.rmdir()
        raise RunError(f"{run.path}: cannot be written ({error.strerror}); choose another --run") from error


def begun_run(asked: FitConfig, path: Path | None) -> RunFolder | None:
    """The run at `path`, or else the newest unfinished one below runs/ that was asked for in the same words."""
    if path:
        return RunFolder(path) if RunFolder(path).started else None
    return next((run for run in unfinished() if run.read_config().asked == asked), None)


def find_lr(asked: FitConfig, figure: Path) -> None:
    """Draws the loss against the learning rate into `figure` and proposes a rate. Nothing else is left."""
    config, cache, model = prepare(replace(asked, start_size=None))  # the rate must suit the largest images
    with open_loaders(config, cache) as loaders:
        found = range_test(make_learner(config, cache, loaders, model))
    proposed = f"proposed: --lr {found.proposal:.2g}"
    try:
        draw_rates(figure, *found)
    except OSError as error:
        raise RunError(f"{figure}: cannot be written ({error.strerror}); {proposed}") from error
    click.echo(f"drawn: {figure}")
    click.echo(proposed)


def prepare(asked: FitConfig) -> tuple[FitConfig, Cache, Grader]:
    """The settings resolved, the cache, and the model as it begins, on the CPU; of several ranks rank 0 resolves."""
    cache = open_cache(asked.cache)
    check_cache(cache)
    check_same(cache)
    if asked.track_test:
        check_measurable(cache, "test")
    if first():
        config, model = resolve(asked, cache)
    config = from_first(lambda: config)
    if not first():
        model = Grader(config.model, config.link, config.stem)
    same_state(model)
    return config, cache, model


def resolve(asked: FitConfig, cache: Cache) -> tuple[FitConfig, Grader]:
    """The settings without "auto", and the model as it begins, with its weights."""
    if asked.class_weights != "none" and asked.sampling == "balanced":
        warn(
            f"--sampling balanced shows all grades equally often, and --class-weights {asked.class_weights} lets rare "
            "ones count more besides: most want one of them"
        )
    device = choose_device(asked.device)
    loader = choose_loader(asked.loader, device)
    size = asked.size or cache.recipe.size
    model, weights = make_model(asked, size)
    head_epochs = 0 if weights == "none" else asked.head_epochs
    try:
        config = replace(
            asked,
            device=device,
            loader=loader,
            stem=model.stem,
            weights=weights,
            head_epochs=head_epochs,
            precision=choose_precision(asked.precision, device),
            size=size,
            start_size=start_pixels(asked.start_size, size) if asked.epochs else None,
            together=cache.together,
        )
    except ValueError as error:  # --weights auto --epochs 0, and no weights to be had
        raise RunError(str(error)) from error
    return config, model


def make_model(asked: FitConfig, size: int) -> tuple[Grader, str]:
    """The model and its weights, by name as `pretrain` gives it; "auto" is decided."""
    torch.manual_seed(asked.seed)
    if asked.stem == "small":
        model = Grader(asked.model, asked.link, "small")
        return model, pretrain(model, "none" if asked.weights == "auto" else asked.weights)  # ImageNet's fit no other
    model = Grader(asked.model, asked.link)
    weights = pretrain(model, asked.weights)
    if asked.stem == "auto" and weights == "none" and size < SMALL_BELOW:
        torch.manual_seed(asked.seed)
        model = Grader(asked.model, asked.link, "small")
    return model, weights


def resume(path: Path | None, given: Mapping[str, Any]) -> RunFolder:
    """Continues a run as it was asked for; None: the newest unfinished one below runs/.

    `given` are the settings asked for this time. Those in MAY_CHANGE replace the run's; raises RunError where another
    one differs from what the run was started with.
    """
    run = from_first(lambda: RunFolder(path) if path else newest_unfinished())
    recorded = from_first(run.read_config)
    asked, config = recorded.asked, recorded.resolved
    other = {name: value for name, value in given.items() if name not in MAY_CHANGE and value != getattr(asked, name)}
    if from_first(lambda: run.finished):
        if other:
            options = [option for name, value in other.items() for option in as_options(name, value)]
            way_on = shlex.join(["trainer", "fit", "--cache", recorded.cache, "--weights", str(run.model), *options])
            raise RunError(
                f"{run.path} is finished, so {shlex.join(options)} changes nothing; another run goes on from its "
                f"weights: `{way_on}`"
            )
        click.echo(f"{run.path} is finished")
        return run
    for name, value in other.items():
        raise RunError(
            f"{run.path} was started with {name} {getattr(asked, name)}, not {value}; leave it out to resume"
        )
    changed = {"cache": recorded.cache, "device": asked.device, **given}
    config = replace(config, **{name: value for name, value in changed.items() if name in MAY_CHANGE})
    config = replace(config, device=choose_device(config.device))
    cache = open_cache(config.cache)
    if cache.digest != recorded.cache_digest:
        raise RunError(f"{run.path} cannot resume: {cache.path} is not as it was when the run was started")

    torch.manual_seed(config.seed)
    model = Grader(config.model, config.link, config.stem)
    with run.held() if first() else nullcontext():
        progress, checkpoint = from_first(lambda: newest_checkpoint(run)) or (Progress(), None)
        progress.steps = [row.to(config.device) for row in progress.steps]
        if checkpoint:
            load_state(model, checkpoint["model"], f"checkpoint of {run.path}")
        elif first():
            pretrain(model, config.weights)
        same_state(model)
        where = (
            f"step {len(progress.steps)} of epoch {progress.epoch + 1}" if progress.steps else f"epoch {progress.epoch}"
        )
        click.echo(f"{run.path}: resuming after {where} of {config.total_epochs}")
        with open_loaders(config, cache) as loaders:
            carry_out(config, cache, loaders, run, model, progress, checkpoint)
    return run


def carry_out(
    config: FitConfig,
    cache: Cache,
    loaders: Mapping[str, Loader],
    run: RunFolder,
    model: Grader,
    progress: Progress,
    checkpoint: Mapping[str, Any] | None = None,
) -> None:
    """Trains and measures what is left of a run. Told to stop by a signal, exits with 128 + its number."""
    try:
        with Stopper.listening() as stopper:
            train(config, cache, loaders, run, model, progress, stopper, checkpoint)
            finish(config, cache, run)
    except Stopped as stopped:
        if first() and speaks():
            click.echo(f"stopped by {stopped.signal.name}; `trainer fit --run {run.path} --resume` goes on", err=True)
        raise SystemExit(128 + stopped.signal) from None
    except OSError as error:
        raise RunError(
            f"{run.path}: cannot be written ({error.strerror}); `trainer fit --run {run.path} --resume` goes on"
        ) from error


def check_cache(cache: Cache) -> None:
    """Raises CacheError where there is nothing to train on or to choose by; warns of leaks."""
    grades = cache.manifest["grade"].to_numpy()
    for split, purpose in (("train", "to train on"), ("val", "to choose by")):
        rows = cache.rows(split)
        if not len(rows):
            raise CacheError(
                f"{cache.path} has no {split} photographs {purpose}; `tools preprocess` splits graded ones"
            )
        ungraded = rows[grades[rows] == UNKNOWN]
        if len(ungraded):
            first = cache.manifest["id"].iloc[ungraded[0]]
            raise CacheError(
                f"{cache.path}: {len(ungraded)} of {len(rows)} {split} photographs have no grade, {first} first"
            )
    for split in ("val", "test"):
        baselines = no_image_baselines(cache.manifest, split)
        if baselines and baselines.leaked:
            warn(
                f"{baselines.leaked} of {baselines.photographs} {split} photographs show patients who are in train, so "
                f"{split} flatters: `tools preprocess --split patient` keeps each patient on one side"
            )
    patients, splits = cache.manifest["patient"], cache.manifest["split"]
    tested = patients[(splits == "test") & (patients != "")]
    if both := int(tested.isin(patients[splits == "val"]).sum()):
        warn(
            f"{both} of {int((splits == 'test').sum())} test photographs show patients who are in val, which chooses "
            "the epoch, so test flatters a little: `tools preprocess --split patient` keeps each patient on one side"
        )


def warn_of_earlier(weights: str, cache: Cache) -> None:
    """Warns where the weights that a run begins with have met photographs of its val or test."""
    if not weights.endswith(".safetensors"):
        return
    earlier = earlier_provenance(weights)
    if earlier is None:
        warn(
            f"{weights} does not say which photographs it was trained on, so nobody knows whether val and test are "
            "among them"
        )
        return
    for split in ("val", "test"):
        if line := exposure_line(split, earlier.exposure(cache, split)):
            warn(f"--weights: {line}")


def check_same(cache: Cache) -> None:
    """Raises CacheError where this rank's cache is not rank 0's: they may run on machines with a disk each."""
    if from_first(lambda: cache.digest) != cache.digest:
        raise CacheError(f"{cache.path} on {platform.node()} is not as rank 0 has it; copy that one")


def describe(asked: FitConfig, config: FitConfig, cache: Cache) -> RunConfig:
    packages = ("fundus-grading", "torch", "torchvision", "numpy", "pillow", "opencv-python-headless")
    if isinstance(cache.path, Url):  # without its secrets, if it has any
        asked, config = (replace(each, cache=str(cache.path)) for each in (asked, config))
    return RunConfig(
        asked,
        config,
        cache=str(cache.path if isinstance(cache.path, Url) else cache.path.resolve()),
        cache_digest=cache.digest,
        recipe=cache.recipe.as_dict(),
        photographs={split: len(cache.rows(split)) for split in ("train", "val", "test")},
        versions={"python": platform.python_version(), **{name: version(name) for name in packages}},
    )


def train(
    config: FitConfig,
    cache: Cache,
    loaders: Mapping[str, Loader],
    run: RunFolder,
    model: Grader,
    progress: Progress,
    stopper: Stopper,
    checkpoint: Mapping[str, Any] | None,
) -> None:
    """Trains what is left of a run, and says what it trains on what."""
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    splits = ", ".join(f"{split} {len(cache.rows(split))}" for split in ("train", "val", "test"))
    click.echo(f"run {run.path}: {config.model} ({parameters:.1f} M parameters), weights {config.weights}")
    click.echo(
        f"cache {cache.path}: {splits} photographs at {config.size} px; "
        f"loader {config.loader}, device {config.device}, {config.precision}"
    )
    say_shares(config)
    learner = make_learner(config, cache, loaders, model)
    photographs = np.bincount(cache.grades[cache.rows("train")], minlength=N_GRADES)
    print_class_weights(photographs.tolist(), learner.weights.tolist())
    size = config.size or cache.recipe.size
    seen = seen_in(cache, size, config.workers) if first() else None
    about = About(
        config.model,
        size,
        cache.recipe,
        epoch=0,
        link=config.link,
        stem=config.stem,
        tta=config.tta,
        seen=seen,
    )
    cache.note_sources()
    if checkpoint:  # resumed: the weights that it began with may be gone by now
        earlier = Provenance.from_tensors(checkpoint.get("earlier"))
    else:
        earlier = earlier_provenance(config.weights) if first() else None
    provenance = functools.cache(lambda: Provenance.of_cache(cache).after(earlier))
    kept = {"earlier": earlier.as_tensors()} if earlier else {}
    fit(learner, about, cache, run, progress, stopper, provenance, checkpoint, kept)


def earlier_provenance(weights: str) -> Provenance | None:
    """Of the weights that a run begins with, where they are ours; `weights` as resolved in config.json."""
    return read_provenance(Path(weights)) if weights.endswith(".safetensors") else None


def make_learner(config: FitConfig, cache: Cache, loaders: Mapping[str, Loader], model: Grader) -> Learner:
    """The model, moved to its device, with the weights of the grades there."""
    device = torch.device(config.device)
    to_device(model, device)
    synchronise(model, device)
    photographs = np.bincount(cache.grades[cache.rows("train")], minlength=N_GRADES)
    weights = class_weights(config.class_weights, photographs)
    return Learner(config, cache, loaders, model, torch.tensor(weights, dtype=torch.float32, device=device))
