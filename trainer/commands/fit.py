"""`trainer fit`: starts or resumes a run, trains it, measures it and prints the results."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from pipeline.cache.cache import Cache, open_cache
from pipeline.errors import CacheError, RunError
from pipeline.storage.url import path_or_url
from trainer.commands.evaluate import say_defects, say_fellows, say_synthetic
from trainer.commands.results import print_splits
from trainer.config import FitConfig, RunConfig, as_options
from trainer.console import epoch_line, print_class_weights, warn
from trainer.distributed.loaders import ranks_line
from trainer.distributed.process_group import from_main, is_main, restarted, same_state, speaks
from trainer.evaluation.evaluate import check_measurable
from trainer.network.device import choose_device
from trainer.network.metadata import network_title, read_metadata
from trainer.network.model import Grader
from trainer.reporting.drawings import draw_rates, short_name
from trainer.reporting.evaluation_files import draw_history, write_evaluation, write_summary
from trainer.reporting.narrative import choice, exposure_line, leak_lines, scale_line
from trainer.run_folder import EpochRow, RunFolder, check_free, create_run, default_name, newest_unfinished, unfinished
from trainer.training.loop import open_loaders
from trainer.training.range_test import range_test
from trainer.training.run import Training, earlier_provenance, measure_kept, train
from trainer.training.setup import (
    begin,
    check_fellow_run,
    check_processes,
    check_same,
    check_trainable,
    describe,
    empty_model,
    make_learner,
    resolve,
    restore,
    training_grades,
)
from trainer.training.signals import Stopped, Stopper
from trainer.training.tensorboard import Events, add_photographs, open_events
from trainer.training.trial import describe_plugs

MAY_CHANGE: Final = frozenset({"cache", "checkpoint_minutes", "device", "workers"})
"""Settings that may be changed with --resume: they do not change what is computed. The cache's digest is checked."""


def start(asked: FitConfig, path: Path | None) -> RunFolder:
    """Trains and measures a new run. If torchrun has restarted the processes, it resumes the run that they had begun.

    path: the run folder, which is made here; None: a new folder below runs/. Everything that can be checked in advance
    is checked before anything is written.
    """
    if restarted() and (begun := from_main(lambda: begun_run(asked, path))):
        return resume(begun.path, {})
    if path:
        from_main(lambda: check_free(path, "--run"))
    config, cache, model = prepare(asked)
    if is_main():
        warn_of_earlier(config, cache)
    with open_loaders(config, cache) as loaders:
        name = default_name(config.model, config.weights, config.size, config.loader, path_or_url(asked.cache))
        run = from_main(lambda: create_run(path, name))
        with run.held() if is_main() else nullcontext():
            if is_main():
                begin(run, describe(asked, config, cache, describe_plugs(config, model.backbone)))
            carry_out(Training(config=config, cache=cache, run=run, model=model, loaders=loaders))
    return run


def begun_run(asked: FitConfig, path: Path | None) -> RunFolder | None:
    """The run at `path`, or without `path` the newest unfinished one below runs/ with the same settings."""
    if path:
        return RunFolder(path) if RunFolder(path).started else None
    return next((run for run in unfinished() if run.read_config().asked == asked), None)


def find_lr(asked: FitConfig, drawing: Path) -> None:
    """Draws the loss against the learning rate into `drawing` and proposes a rate. It writes nothing else."""
    config, cache, model = prepare(replace(asked, start_size=None))  # the rate must suit the largest images
    # The rate rises over many epochs, and the grades must not change meanwhile.
    config = replace(config, sampling="balanced" if config.balanced else "natural")
    with open_loaders(config, cache) as loaders:
        result = range_test(make_learner(config, cache, loaders, model))
    proposed = f"proposed: --lr {result.proposal:.2g}"
    try:
        draw_rates(drawing, *result)
    except OSError as error:
        raise RunError(f"{drawing}: cannot be written ({error.strerror}); {proposed}") from error
    click.echo(f"drawn: {drawing}")
    click.echo(proposed)


def prepare(asked: FitConfig) -> tuple[FitConfig, Cache, Grader]:
    """The resolved settings, the cache, and the initial model on the CPU. With several ranks, rank 0 resolves."""
    cache = open_cache(asked.cache)
    check_trainable(cache)
    for line in leak_lines(cache):
        warn(line)
    if line := scale_line(cache.index.scale, cache.index.exact):
        warn(line)
    check_same(cache)
    if asked.fellow_eye:
        from_main(lambda: check_fellow_run(asked, cache))
    if asked.track_test:
        check_measurable(cache, "test")
    if is_main():
        if asked.class_weights != "none" and asked.balanced:
            warn(
                f"--sampling {asked.sampling} shows rare grades more often, and --class-weights {asked.class_weights} "
                "lets them count more in addition: usually one of the two is enough"
            )
        config, model = resolve(asked, cache)
    config = from_main(lambda: config)
    if not is_main():
        model = empty_model(config)
    same_state(model)
    return config, cache, model


def resume(path: Path | None, given: Mapping[str, Any]) -> RunFolder:
    """Resumes the run at `path`; None: the newest unfinished one below runs/.

    given: the settings of this command. Those in MAY_CHANGE replace the run's. Raises RunError if another one differs
    from the run's.
    """
    run = from_main(lambda: RunFolder(path) if path else newest_unfinished())
    recorded = from_main(run.read_config)
    if recorded.members:
        raise RunError(f"{run.path} is an ensemble, which is not trained; train its runs")
    other = {
        name: value
        for name, value in given.items()
        if name not in MAY_CHANGE and value != getattr(recorded.asked, name)
    }
    if from_main(lambda: run.finished):
        if other:
            raise RunError(another_run(run, recorded, other))
        click.echo(f"{run.path} is finished")
        return run
    for name, value in other.items():
        raise RunError(
            f"{run.path} was started with {name} {getattr(recorded.asked, name)}, not {value}; leave it out to resume"
        )
    changed = {"cache": recorded.cache, "device": recorded.asked.device, **given}
    config = replace(recorded.resolved, **{name: value for name, value in changed.items() if name in MAY_CHANGE})
    config = replace(config, device=choose_device(config.device))
    check_processes(config)
    cache = open_cache(config.cache)
    if cache.digest != recorded.cache_digest:
        raise RunError(f"{run.path} cannot resume: {cache.path} is not as it was when the run was started")
    with run.held() if is_main() else nullcontext():
        model, progress, checkpoint = restore(config, run)
        step, epoch = len(progress.steps), progress.epoch
        where = f"step {step} of epoch {epoch + 1}" if step else f"epoch {epoch}"
        click.echo(f"{run.path}: resuming after {where} of {config.total_epochs}")
        with open_loaders(config, cache) as loaders:
            carry_out(
                Training(
                    config=config,
                    cache=cache,
                    run=run,
                    model=model,
                    loaders=loaders,
                    progress=progress,
                    checkpoint=checkpoint,
                )
            )
    return run


def another_run(run: RunFolder, recorded: RunConfig, other: Mapping[str, Any]) -> str:
    """The error message if a finished run is resumed with other settings, with the command for a new run."""
    options = [option for name, value in other.items() for option in as_options(name, value)]
    if fellow := recorded.asked.fellow_eye:
        start, of_what = ["--fellow-eye", fellow], "the run that it began with"
    else:
        start, of_what = ["--cache", recorded.cache, "--weights", str(run.model)], "its weights"
    return (
        f"{run.path} is finished, so {shlex.join(options)} changes nothing; another run starts from {of_what}: "
        f"`{shlex.join(['trainer', 'fit', *start, *options])}`"
    )


def carry_out(training: Training) -> None:
    """Trains the rest of a run and measures it. If a signal stops it, it exits with 128 + the signal's number.

    Raises RunError if a file cannot be written or a loss is not finite.
    """
    config, cache, run = training.config, training.cache, training.run
    try:
        with Stopper.listening() as stopper:
            say_what_is_trained(training)
            learner = make_learner(config, cache, training.loaders, training.model)
            print_class_weights(training_grades(cache).tolist(), learner.weights.tolist())
            with open_events(run, training.progress.history) as events:
                add_photographs(events, learner)

                def on_epoch(row: EpochRow) -> None:
                    if events:
                        events.add(row)
                    click.echo(epoch_line(row, config.total_epochs))

                if train(training, learner, stopper, on_epoch):
                    click.echo(f"stopped: no epoch of the last {config.patience} was better on validation")
                finish(config, cache, run, events)
    except Stopped as stopped:
        if is_main() and speaks():
            click.echo(f"stopped by {stopped.signal.name}; {run.resume_command} continues it", err=True)
        raise SystemExit(128 + stopped.signal) from None
    except OSError as error:
        raise RunError(
            f"{run.path}: cannot be written ({error.strerror}); {run.resume_command} continues it"
        ) from error


def say_what_is_trained(training: Training) -> None:
    """Prints the network, the photographs and the device."""
    config, cache = training.config, training.cache
    parameters = sum(parameter.numel() for parameter in training.model.parameters()) / 1e6
    splits = ", ".join(f"{split} {len(cache.rows(split))}" for split in ("train", "val", "test"))
    network = f"{network_title(config.model, config.stem)} ({parameters:.1f} M parameters)"
    click.echo(f"run {training.run.path}: {network}, weights {config.weights}")
    click.echo(
        f"cache {cache.path}: {splits} photographs at {config.size} px; "
        f"loader {config.loader}, device {config.device}, {config.precision}"
    )
    if ranks := ranks_line(config):
        click.echo(ranks)


def finish(config: FitConfig, cache: Cache, run: RunFolder, events: Events | None) -> None:
    """Measures the kept weights on val and, for the first time, on test; writes and prints the results."""
    measured = {}
    for evaluation in measure_kept(config, cache, run, measurable(cache, ("val", "test"))):
        split = evaluation.split
        write_evaluation(run.results(split), evaluation, f"{short_name(run.title)}, {split}")
        say_defects(evaluation, own=True)
        measured[split] = evaluation
    if not is_main():
        return
    kept, epochs = read_metadata(run.model).epoch, len(run.read_accuracy())
    draw_history(run, kept)
    if events:
        events.add_results(run, kept, measured)
    click.echo(f"kept epoch {kept} of {epochs}, {choice(config)}")
    say_synthetic(run.read_config(), cache, [*measured][-1])
    print_splits({split: evaluation.results for split, evaluation in measured.items()})
    for evaluation in measured.values():
        say_fellows(evaluation, evaluation.split)
    run.note_date("trained", *(f"measured {split}" for split in measured))
    write_summary(run, kept, measured)
    run.previous.unlink(missing_ok=True)  # 90 of the 225 MB of a ResNet-18's run; no longer needed


def measurable(cache: Cache, splits: Sequence[str]) -> Iterator[str]:
    """The splits that can be measured. Warns of the others."""
    for split in splits:
        try:
            check_measurable(cache, split)
        except CacheError as error:
            warn(error.message)
        else:
            yield split


def warn_of_earlier(config: FitConfig, cache: Cache) -> None:
    """Warns if the initial weights were trained on, or chosen by, photographs of val or test. Those of --fellow-eye are
    of the same training, so the same val may choose both."""
    weights = config.weights
    if not weights.endswith(".safetensors"):
        return
    earlier = earlier_provenance(weights)
    if earlier is None:
        warn(
            f"{weights} does not say which photographs it was trained on, so nobody knows whether val and test are "
            "among them"
        )
        return
    for split in ("test",) if config.fellow_eye else ("val", "test"):
        if line := exposure_line(split, earlier.exposure(cache, split)):
            warn(f"--weights: {line}")
