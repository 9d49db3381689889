"""The training loop: epochs, checkpoints, and the files that are written after each epoch."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any, Final

import torch
from torch import Tensor

from pipeline.cache.cache import Cache
from pipeline.errors import RunError
from pipeline.grades import UNKNOWN
from pipeline.loading.batch import Loader
from pipeline.metrics import confusion_counts, quadratic_kappa
from trainer.config import FitConfig, Phase
from trainer.distributed.loaders import open_sharded
from trainer.distributed.process_group import gather, highest, is_main
from trainer.inference.forward import Outputs, run_model
from trainer.network.metadata import Metadata
from trainer.network.model import save_model
from trainer.network.provenance import Provenance
from trainer.run_folder import EpochRow, RunFolder
from trainer.training.augmentation import with_function
from trainer.training.checkpoint import Progress, save_checkpoint
from trainer.training.learner import Learner, augmentation
from trainer.training.losses import losses
from trainer.training.progress import watch
from trainer.training.progressive_resizing import GrowingLoader, training_size
from trainer.training.schedule import scheduled_lr
from trainer.training.signals import Stopped, Stopper
from trainer.training.stuck import STUCK_EPOCHS, advice, sees_nothing

logger = logging.getLogger(__name__)

CHECK_EVERY: Final = 100
"""Steps between checks of the losses. Each check makes the CPU wait for the GPU."""


def train_epoch(learner: Learner, progress: Progress, stopper: Stopper) -> Iterator[None]:
    """Trains the rest of the current epoch. Each step adds a row to `progress.steps`, then yields.

    Raises NotFinite if a loss is not finite; Stopped, between steps, after a signal.
    """
    learner.set_training()
    loader, epoch, device = learner.batches["train"], progress.epoch, learner.weights.device
    batches = loader.epoch(epoch, start=len(progress.steps))
    with stopper.collective():
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
    """A loss is not finite. step: the first such step of the epoch, from 0."""

    def __init__(self, step: int) -> None:
        self.step = step


def check_finite(progress: Progress) -> None:
    """Raises NotFinite if a loss of the epoch so far is not finite."""
    finite = torch.stack(progress.steps)[:, 0].isfinite().tolist() if progress.steps else []
    if not all(finite):
        raise NotFinite(finite.index(False))


@dataclass(frozen=True)
class RunWriter:
    """Writes checkpoints, accuracy.csv and the kept weights into the run folder. With several ranks, only rank 0
    writes.

    Every method raises OSError if a file cannot be written.
    """

    run: RunFolder
    metadata: Metadata
    """Metadata of the weights, except the epoch."""
    provenance: Callable[[], Provenance]
    """Gives the photographs that they were trained on and chosen by. Called after the first epoch, when all shards of a
    cache behind a URL have been downloaded."""
    kept: Mapping[str, Tensor | Mapping[str, Tensor]]
    """Entries of the checkpoint besides the state of the training."""

    def save(self, learner: Learner, progress: Progress) -> None:
        """Writes the checkpoint that --resume continues from."""
        if is_main():
            save_checkpoint(self.run, progress, {**learner.state(), **self.kept})

    def publish(self, learner: Learner, progress: Progress) -> None:
        """Writes accuracy.csv, and the weights if the epoch that just ended is the best so far or --keep is "last".

        Called after the checkpoint is written and again on resuming, so that a run killed in between loses nothing.
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
    on_epoch: Callable[[EpochRow], None],
    resumed: Mapping[str, Any] | None = None,
) -> bool:
    """Trains from `progress` to the end. `writer` writes after each epoch, and a checkpoint when a signal stops it.
    Returns whether it stopped early, by --patience.

    on_epoch: is given the row of accuracy.csv after each epoch. resumed: the checkpoint that the learner's model and
    `progress` come from; None for a new run.
    Raises RunError if a loss is not finite, Stopped after a signal, OSError if a file cannot be written.
    """
    config, began = learner.config, perf_counter() - progress.seconds
    judged_from = config.head_epochs if config.epochs else 0  # for --patience; without others, head epochs count
    opened = seconds_to_open(learner, config.phase(progress.epoch))
    if resumed:
        learner.load(resumed)
    writer.publish(learner, progress)

    def save() -> None:
        check_finite(progress)  # a checkpoint never holds a state that is not finite
        progress.seconds = perf_counter() - began
        writer.save(learner, progress)

    try:
        for epoch in range(progress.epoch, config.total_epochs):
            if config.patience and progress.idle(judged_from) >= config.patience:
                return True
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
            on_epoch(row)
            if stuck == STUCK_EPOCHS and is_main():
                logger.warning(advice(config))
        return False
    except Stopped:
        with suppress(NotFinite):  # the earlier checkpoint stays
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


def seconds_to_open(learner: Learner, phase: Phase) -> float:
    """Opens a phase and returns the seconds that it took. The head phase first computes the features of all
    photographs; the times of its first epoch include that."""
    began = perf_counter()
    learner.open(phase)
    return perf_counter() - began


@contextmanager
def open_loaders(config: FitConfig, cache: Cache) -> Iterator[dict[str, Loader]]:
    """Loaders by split: "train" (shuffled, augmented), "val", and "test" with --track-test."""

    def open_train(size: int | None) -> Loader:
        loader = open_sharded(
            replace(config, size=size, start_size=None),
            cache,
            "train",
            config.batch,
            augment=augmentation(config),
            shuffle=True,
            seed=config.seed,
            balanced=config.balanced,
            fading=config.fading,
        )
        return with_function(loader, config)

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
    """The row of accuracy.csv, without the times, of an epoch whose steps are done; and whether the network ignores the
    images of validation, see `sees_nothing`."""
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
    """Accuracy on the graded photographs, in percent."""
    graded = outputs.grades != UNKNOWN
    right = outputs.logits.argmax(dim=1) == outputs.grades
    return 100 * right[graded].double().mean().item()
