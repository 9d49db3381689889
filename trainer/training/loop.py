"""The training loop: epochs, checkpoints, and what is written between epochs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any, Final

import click
import torch
from torch import Tensor

from pipeline.cache.cache import Cache
from pipeline.errors import RunError
from pipeline.grades import UNKNOWN
from pipeline.loading.batch import Loader
from pipeline.metrics import confusion_counts, quadratic_kappa
from trainer.config import FitConfig, Phase
from trainer.console import epoch_line, warn
from trainer.distributed.loaders import open_sharded
from trainer.distributed.process_group import gather, highest, is_main
from trainer.inference.forward import Outputs, run_model
from trainer.network.metadata import Metadata
from trainer.network.model import save_model
from trainer.network.provenance import Provenance
from trainer.run_folder import EpochRow, RunFolder
from trainer.training.checkpoint import Progress, save_checkpoint
from trainer.training.learner import Learner, augmentation
from trainer.training.losses import losses
from trainer.training.progress import watch
from trainer.training.progressive_resizing import GrowingLoader, training_size
from trainer.training.schedule import scheduled_lr
from trainer.training.signals import Stopped, Stopper
from trainer.training.stuck import STUCK_EPOCHS, advice, sees_nothing
from trainer.training.tensorboard import Events

CHECK_EVERY: Final = 100
"""Steps between looks at the losses: each look makes the host wait for the GPU."""


def train_epoch(learner: Learner, progress: Progress, stopper: Stopper) -> Iterator[None]:
    """Trains through what is left of the epoch under way; each step adds a row to `progress.steps`, then yields.

    Raises NotFinite where a loss is not finite, Stopped between steps.
    """
    learner.set_training()
    loader, epoch, device = learner.batches["train"], progress.epoch, learner.weights.device
    batches = loader.epoch(epoch, start=len(progress.steps))
    with stopper.together():
        for batch in watch(batches, progress.steps, len(loader), learner.config, epoch, device):
            step = len(progress.steps)
            with stopper.step():
                lr = scheduled_lr(learner.config, epoch, step, len(loader))
                progress.steps.append(learner.step(batch, epoch, step, lr))
            if len(progress.steps) % CHECK_EVERY == 0:
                check_finite(progress)
            yield
    check_finite(progress)


class NotFinite(Exception):
    """`step`, counted from 0, is the first of its epoch whose loss is not finite."""

    def __init__(self, step: int) -> None:
        self.step = step


def check_finite(progress: Progress) -> None:
    """Raises NotFinite naming the first step of the epoch whose loss is not finite."""
    finite = torch.stack(progress.steps)[:, 0].isfinite().tolist() if progress.steps else []
    if not all(finite):
        raise NotFinite(finite.index(False))


@dataclass(frozen=True)
class RunWriter:
    """Writes what a training leaves in its run folder: checkpoints, accuracy.csv and the weights to keep. Of several
    ranks, only rank 0 writes.

    Every method raises OSError where a file cannot be written.
    """

    run: RunFolder
    metadata: Metadata
    """What the weights shall say of themselves, but for the epoch."""
    provenance: Callable[[], Provenance]
    """The photographs that they have met. Asked after the first epoch, when all shards of a cache behind a URL have
    come."""
    kept: Mapping[str, Tensor | Mapping[str, Tensor]]
    """What checkpoints keep besides the state of the training."""

    def save(self, learner: Learner, progress: Progress) -> None:
        """The checkpoint that a training goes on from."""
        if is_main():
            save_checkpoint(self.run, progress, {**learner.state(), **self.kept})

    def publish(self, learner: Learner, progress: Progress) -> None:
        """accuracy.csv, and the weights where the epoch that just ended is the one to keep so far.

        Called once the checkpoint is safe and again on resuming, so a run killed between the two loses nothing.
        """
        if not progress.history or not is_main():
            return
        self.run.write_accuracy(progress.history)
        if not progress.steps and (learner.config.keep == "last" or progress.best == len(progress.history) - 1):
            metadata = replace(self.metadata, epoch=len(progress.history))
            save_model(self.run.model, learner.judged, metadata, self.provenance())


def fit(
    learner: Learner,
    progress: Progress,
    stopper: Stopper,
    writer: RunWriter,
    resumed: Mapping[str, Any] | None = None,
) -> None:
    """Trains from `progress` to the end; after each epoch `writer` writes. Stopped, it leaves a checkpoint.

    `resumed` is the checkpoint that the learner's model and progress come from.
    Raises RunError where a loss is not finite, Stopped where a signal says so, OSError where a file cannot be written.
    """
    config, began = learner.config, perf_counter() - progress.seconds
    opened = seconds_to_open(learner, config.phase(progress.epoch))
    if resumed:
        learner.load(resumed)
    writer.publish(learner, progress)

    def save() -> None:
        check_finite(progress)  # a state that is not finite is never kept
        progress.seconds = perf_counter() - began
        writer.save(learner, progress)

    events = Events(writer.run, progress.history) if is_main() else None
    try:
        for epoch in range(progress.epoch, config.total_epochs):
            if config.patience and progress.idle(config.head_epochs) >= config.patience:
                click.echo(f"stopped: no epoch of the last {config.patience} was better on validation")
                break
            if learner.phase != config.phase(epoch):
                with stopper.step():
                    opened = seconds_to_open(learner, config.phase(epoch))
            saved = perf_counter()
            training_began, opened = saved - progress.trained - opened, 0.0
            for _ in train_epoch(learner, progress, stopper):
                progress.trained = perf_counter() - training_began
                if highest(perf_counter() - saved >= 60 * config.checkpoint_minutes):
                    save()
                    saved = perf_counter()
            progress.trained = perf_counter() - training_began
            row, blind = epoch_row(learner, progress)
            rate = round(progress.sums()[2] / progress.trained, 1)
            ended = perf_counter()
            row = row._replace(seconds=round(ended - began, 2), images_per_second=rate)
            began = ended
            with stopper.step():
                stuck = progress.stuck + 1 if blind else 0
                progress = Progress(epoch + 1, [], [*progress.history, row], stuck=stuck)
                save()
                writer.publish(learner, progress)
                if events:
                    events.add(row)
            click.echo(epoch_line(row, config.total_epochs))
            if stuck == STUCK_EPOCHS and is_main():
                warn(advice(config))
    except Stopped:
        with suppress(NotFinite):  # the checkpoint before stays
            save()
        raise
    except NotFinite as error:
        train = learner.batches["train"]
        lr = scheduled_lr(config, progress.epoch, error.step, len(train))
        rows = gather(next(train.epoch(progress.epoch, start=error.step)).rows)
        raise RunError(
            f"the loss is not finite at step {error.step + 1} of epoch {progress.epoch + 1} (learning rate {lr:.2e}, "
            f"photographs {', '.join(learner.cache.manifest['id'].iloc[rows.numpy()])}); "
            "start another run with a lower --lr"
        ) from error
    finally:
        if events:
            events.close()


def seconds_to_open(learner: Learner, phase: Phase) -> float:
    """Opens a phase. The head's sends every photograph through the backbone, which its first epoch has to count."""
    began = perf_counter()
    learner.open(phase)
    return perf_counter() - began


@contextmanager
def open_loaders(config: FitConfig, cache: Cache) -> Iterator[dict[str, Loader]]:
    """Loaders by split: "train", shuffled and augmented, "val", and "test" where it is to be tracked."""

    def open_train(size: int | None) -> Loader:
        return open_sharded(
            replace(config, size=size, start_size=None),
            cache,
            "train",
            config.batch,
            augment=augmentation(config),
            shuffle=True,
            seed=config.seed,
            balanced=config.sampling == "balanced",
        )

    with ExitStack() as stack:
        if config.start_size is None:
            train = open_train(config.size)
        else:
            train = GrowingLoader(open_train, partial(training_size, int(config.start_size), config))
        loaders: dict[str, Loader] = {"train": stack.enter_context(train)}
        for split in ("val", "test") if config.track_test else ("val",):
            loaders[split] = stack.enter_context(open_sharded(config, cache, split, 2 * config.batch))
        yield loaders


def epoch_row(learner: Learner, progress: Progress) -> tuple[EpochRow, bool]:
    """Of an epoch whose steps are done: the row of accuracy.csv, but for the times, and whether the network sees
    nothing on validation."""
    config, device = learner.config, learner.weights.device
    loss, right, photographs = progress.sums()
    val = run_model(learner.judged_net, learner.batches["val"], device, "val")
    val_loss = losses(config.loss, val.logits, val.grades, learner.weights.cpu()).mean()
    val_counts = confusion_counts(val.grades, val.logits.argmax(dim=1))
    acc_test = None
    if config.track_test:
        test = run_model(learner.judged_net, learner.batches["test"], device, "test")
        acc_test = round(accuracy(test), 4)
    row = EpochRow(
        epoch=progress.epoch + 1,
        phase=config.phase(progress.epoch),
        lr=float(f"{scheduled_lr(config, progress.epoch, len(progress.steps) - 1, len(progress.steps)):.4g}"),
        loss_train=round(loss / photographs, 6),
        acc_train=round(100 * right / photographs, 4),
        loss_val=round(val_loss.item(), 6),
        acc_val=round(accuracy(val), 4),
        kappa_val=round(quadratic_kappa(val_counts), 6),
        acc_test=acc_test,
        seconds=0.0,
        images_per_second=0.0,
    )
    return row, sees_nothing(val)


def accuracy(outputs: Outputs) -> float:
    """Percent of the graded photographs."""
    graded = outputs.grades != UNKNOWN
    right = outputs.logits.argmax(dim=1) == outputs.grades
    return 100 * right[graded].double().mean().item()
