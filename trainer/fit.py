"""Training, from the first step to the last: what happens in an epoch and between epochs."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from math import cos, pi
from time import perf_counter
from typing import Any, Final

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.baselines import confusion_counts, quadratic_kappa
from pipeline.batch import Loader
from pipeline.cache import Cache
from pipeline.errors import RunError
from pipeline.grades import UNKNOWN
from pipeline.loaders import open_loader
from pipeline.plan import Augment
from trainer.about import About
from trainer.checkpoint import Progress, save_checkpoint
from trainer.config import FitConfig, Phase
from trainer.console import epoch_line
from trainer.device import autocast
from trainer.evaluate import Outputs, run_model
from trainer.events import Events
from trainer.features import feature_loaders
from trainer.live import watch
from trainer.model import Grader, save_model
from trainer.run import RunFolder
from trainer.stopping import Stopped, Stopper

AUGMENT: Final = Augment(hflip=0.5, vflip=0.5, degrees=180)
"""A retina has no upright: any flip and turn of it is another eye."""
WARM_UP: Final = 0.1
"""Share of a phase's steps over which the learning rate rises."""
CLIP_NORM: Final = 1.0
"""Longest gradient that is applied in full. From scratch they begin at 3 to 19 (RetinaMNIST, ResNet-18), and with a
bound of 5 the loss on validation jumps for many epochs."""
CHECK_EVERY: Final = 100
"""Steps between looks at the losses: each look makes the host wait for the GPU."""


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up to `peak`, then half a cosine towards 0, for a step counted from 0 of a phase of `steps`.

    A function of the step alone, so that a resumed run needs no scheduler's state.
    """
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * (1 + cos(pi * (step - warm_up) / (steps - warm_up))) / 2


def scheduled_lr(config: FitConfig, epoch: int, step: int, steps: int) -> float:
    """The learning rate of a step of an epoch that has `steps` of them; each phase has a schedule of its own."""
    first, epochs = (0, config.head_epochs) if config.phase(epoch) == "head" else (config.head_epochs, config.epochs)
    return learning_rate((epoch - first) * steps + step, epochs * steps, config.lr)


def set_phase(model: Grader, phase: Phase) -> None:
    """Training mode. In the head phase the backbone is frozen whole: BatchNorm's running statistics must not drift."""
    model.train()
    model.backbone.train(phase == "finetune")
    model.backbone.requires_grad_(phase == "finetune")


def make_optimizer(model: Grader, config: FitConfig, device: torch.device) -> torch.optim.SGD:
    """SGD over what the phase trains; biases and BatchNorm (one dimension) do not decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, fused=device.type == "cuda")


def train_epoch(
    model: Grader,
    net: nn.Module,
    loader: Loader,
    optimizer: torch.optim.SGD,
    weights: Tensor,
    config: FitConfig,
    progress: Progress,
    stopper: Stopper,
) -> Iterator[None]:
    """Trains through what is left of the epoch under way; each step adds a row to `progress.steps`, then yields.

    `net` is what the loader's batches are for: the model, or its head where they are features. `weights` (5,) by grade,
    on the model's device. Raises NotFinite where a loss is not finite, Stopped between steps.
    """
    epoch = progress.epoch
    set_phase(model, config.phase(epoch))
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    batches = loader.epoch(epoch, start=len(progress.steps))
    for images, grades, _ in watch(batches, progress.steps, len(loader), config, epoch, weights.device):
        with stopper.step():
            for group in optimizer.param_groups:
                group["lr"] = scheduled_lr(config, epoch, len(progress.steps), len(loader))
            if len(images) == 1:  # BatchNorm cannot take statistics of one photograph; it uses the running ones
                model.backbone.eval()
            with autocast(weights.device):
                logits = net(images)
            loss = F.cross_entropy(logits.float(), grades, weights, reduction="sum")
            optimizer.zero_grad()
            (loss / len(images)).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained, CLIP_NORM)
            optimizer.step()
            right = (logits.argmax(dim=1) == grades).sum()
            progress.steps.append(torch.stack([loss.detach(), right.float(), torch.full_like(loss, len(images))]))
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


def fit(
    config: FitConfig,
    about: About,
    cache: Cache,
    loaders: Mapping[str, Loader],
    run: RunFolder,
    model: Grader,
    weights: Tensor,
    progress: Progress,
    stopper: Stopper,
    resumed: Mapping[str, Any] | None = None,
) -> None:
    """Trains from `progress` to the end, leaving after each epoch a checkpoint, accuracy.csv and the best weights.

    `config` is resolved, `about` is what the weights shall say of themselves, `model` and `weights` (5,) by grade lie
    on the device, `resumed` is the checkpoint that model and progress come from. Stopped, it leaves a checkpoint.
    """
    publish(about, run, model, progress)
    phase = config.phase(progress.epoch)
    net, batches, optimizer = open_phase(config, cache, loaders, model, weights.device, phase)
    if resumed and resumed["phase"] == phase:
        optimizer.load_state_dict(resumed["optimizer"])

    def save() -> None:
        check_finite(progress)  # a sick state is never kept
        save_checkpoint(run, progress, model.state_dict(), optimizer.state_dict(), phase)

    events = Events(run, progress.history)
    try:
        for epoch in range(progress.epoch, config.total_epochs):
            if phase != config.phase(epoch):
                phase = config.phase(epoch)
                net, batches, optimizer = open_phase(config, cache, loaders, model, weights.device, phase)
            began = saved = perf_counter()
            for _ in train_epoch(model, net, batches["train"], optimizer, weights, config, progress, stopper):
                if perf_counter() - saved >= 60 * config.checkpoint_minutes:
                    save()
                    saved = perf_counter()
            trained = perf_counter() - began
            row = epoch_row(config, batches, net, weights, progress)
            row["seconds"] = round(perf_counter() - began, 2)
            row["images_per_second"] = round(progress.sums()[2] / trained, 1)
            with stopper.step():
                progress = Progress(epoch + 1, [], [*progress.history, row])
                save()
                publish(about, run, model, progress)
                events.add(row)
            click.echo(epoch_line(row, config.total_epochs))
    except Stopped:
        save()
        raise
    except NotFinite as sick:
        lr = scheduled_lr(config, progress.epoch, sick.step, len(batches["train"]))
        rows = next(batches["train"].epoch(progress.epoch, start=sick.step)).rows
        raise RunError(
            f"the loss is not finite at step {sick.step + 1} of epoch {progress.epoch + 1} (learning rate {lr:.2e}, "
            f"photographs {', '.join(cache.manifest['id'].iloc[rows.numpy()])}); start another run with a lower --lr"
        ) from sick
    finally:
        events.close()


def open_phase(
    config: FitConfig, cache: Cache, loaders: Mapping[str, Loader], model: Grader, device: torch.device, phase: Phase
) -> tuple[nn.Module, Mapping[str, Loader], torch.optim.SGD]:
    """What a phase trains, on the batches of which loaders, and its optimizer."""
    set_phase(model, phase)
    optimizer = make_optimizer(model, config, device)
    if phase == "head":
        return model.head, feature_loaders(config, cache, loaders, model, AUGMENT, device), optimizer
    return model, loaders, optimizer


@contextmanager
def open_loaders(config: FitConfig, cache: Cache) -> Iterator[dict[str, Loader]]:
    """Loaders by split: "train", shuffled and augmented, "val", and "test" where it is to be tracked."""
    opened = partial(open_loader, config.loader, cache, size=config.size, device=config.device, workers=config.workers)
    with ExitStack() as stack:
        train = opened(split="train", batch_size=config.batch, augment=AUGMENT, shuffle=True, seed=config.seed)
        loaders = {"train": stack.enter_context(train)}
        for split in ("val", "test") if config.track_test else ("val",):
            loaders[split] = stack.enter_context(opened(split=split, batch_size=2 * config.batch))
        yield loaders


def epoch_row(
    config: FitConfig, loaders: Mapping[str, Loader], net: nn.Module, weights: Tensor, progress: Progress
) -> dict[str, Any]:
    """The row of accuracy.csv, but for the times, of an epoch whose steps are done."""
    loss, right, photographs = progress.sums()
    val = run_model(net, loaders["val"], weights.device, "val")
    val_loss = F.cross_entropy(val.logits, val.grades, weights.cpu(), reduction="sum") / len(val.grades)
    val_counts = confusion_counts(val.grades, val.logits.argmax(dim=1))
    acc_test = None
    if config.track_test:
        test = run_model(net, loaders["test"], weights.device, "test")
        acc_test = round(accuracy(test), 4)
    return {
        "epoch": progress.epoch + 1,
        "phase": config.phase(progress.epoch),
        "lr": float(f"{scheduled_lr(config, progress.epoch, len(progress.steps) - 1, len(progress.steps)):.4g}"),
        "loss_train": round(loss / photographs, 6),
        "acc_train": round(100 * right / photographs, 4),
        "loss_val": round(val_loss.item(), 6),
        "acc_val": round(accuracy(val), 4),
        "kappa_val": round(quadratic_kappa(val_counts), 6),
        "acc_test": acc_test,
    }


def accuracy(outputs: Outputs) -> float:
    """Percent of the graded photographs."""
    graded = outputs.grades != UNKNOWN
    right = outputs.logits.argmax(dim=1) == outputs.grades
    return 100 * right[graded].double().mean().item()


def publish(about: About, run: RunFolder, model: Grader, progress: Progress) -> None:
    """Writes accuracy.csv, and the model's weights where the epoch that just ended is the best so far.

    Called once the checkpoint is safe and again on resuming, so a run killed between the two loses nothing.
    """
    if not progress.history:
        return
    run.write_accuracy(progress.history)
    if not progress.steps and progress.best == len(progress.history) - 1:
        save_model(run.model, model, replace(about, epoch=len(progress.history)))
