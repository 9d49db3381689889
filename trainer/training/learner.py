"""The learner: the parameters that each phase trains, a training step, and the state between steps."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.cache.cache import Cache
from pipeline.loading.batch import Batch, Loader
from pipeline.loading.plan import Augment
from trainer.config import FitConfig, Phase
from trainer.distributed.loaders import batch_per_rank
from trainer.distributed.process_group import averaged, gather, shard, shifted, total, world_size
from trainer.network.device import training_precision
from trainer.network.fellow import phase_head
from trainer.network.model import Grader, compiled, load_state
from trainer.training.augmentation import seed_torch
from trainer.training.head_features import feature_loaders
from trainer.training.losses import losses
from trainer.training.mixup import Mix, mix
from trainer.training.schedule import averaging_decay

CLIP_NORM: Final = 1.0
"""Gradients are clipped to this norm. From scratch norms begin at 3 to 19 (RetinaMNIST, ResNet-18), and with a limit of
5 the loss on validation jumps for many epochs."""
BETA2: Final = 0.999
"""Of AdamW, as its authors and torch have it."""
STAGES: Final = ("layer4.", "layer3.", "layer2.", "layer1.")
"""The stages of a ResNet's backbone, from the head to the stem."""


def augmentation(config: FitConfig) -> Augment:
    """The augmentation of training photographs. Any flip and turn is allowed, because a retina has no up or down."""
    return Augment(hflip=0.5, vflip=0.5, degrees=180, zoom=config.zoom, colour=config.colour)


class Learner:
    """A model and its optimizer. Training has two phases; `open` begins each."""

    optimizer: Optimizer
    batches: Mapping[str, Loader]
    """By split: loaders of photographs, or of features in the head phase."""

    def __init__(
        self, config: FitConfig, cache: Cache, loaders: Mapping[str, Loader], model: Grader, weights: Tensor
    ) -> None:
        """config: resolved. loaders: of photographs, by split. weights: float32 (5,) by grade, on the device."""
        self.config, self.weights = config, weights
        self.cache, self._loaders = cache, loaders
        self._model = model
        self._average = deepcopy(model) if config.ema else None
        self._photographs = len(cache.rows("train"))

    @property
    def judged(self) -> Grader:
        """The model that is measured and saved: with --ema the moving average, else the model that is trained."""
        return self._average or self._model

    @property
    def judged_net(self) -> nn.Module:
        """The part of `judged` that takes the phase's batches."""
        return phase_head(self.judged) if self.phase == "head" else self.judged

    def open(self, phase: Phase) -> None:
        """Begins a phase: sets what it trains, its loaders, and a new optimizer."""
        self.phase = phase
        self.set_training()
        self.optimizer, self._scales = make_optimizer(self._model, self.config)
        self.batches = self._loaders
        trained = averaged(phase_head(self._model) if phase == "head" else self._model)
        self._net: Callable[[Tensor], Tensor] = trained
        if phase == "finetune" and self.config.compile:
            size = self.config.size or self.cache.recipe.size
            self._net = compiled(trained, batch_per_rank(self.config.batch), size)
        if phase == "head":
            splits, device = self._loaders.keys(), self.weights.device
            varied = augmentation(self.config)
            self.batches = feature_loaders(self.config, self.cache, splits, self._model, varied, device)

    def set_training(self) -> None:
        set_phase(self._model, self.phase)

    def step(self, batch: Batch, epoch: int, step: int, lr: float) -> Tensor:
        """One training step. Returns float32 (3,): summed loss, photographs graded right, photographs.

        step: number of the step in its epoch, from 0. With several ranks, `batch` is this rank's part, which may be
        empty; the figures are those of the whole batch.
        """
        images, grades, _ = batch
        seed_torch(self.config.seed, epoch, step, shard().rank, 0)  # for dropout, which torchvision's ResNets have not
        batch_size = (
            len(images) if world_size() == 1 else min(self.config.batch, self._photographs - step * self.config.batch)
        )
        for group, scale in zip(self.optimizer.param_groups, self._scales, strict=True):
            group["lr"] = lr * scale
        if batch_size == 1:  # one photograph has no variance for BatchNorm, so its running statistics are used
            self._model.backbone.eval()
        config = self.config
        images, share = self._mixed(images, self.phase, epoch, step)
        # The head alone is little work, so its features stay in float32.
        precision = config.precision if self.phase == "finetune" else "float32"
        with training_precision(self.weights.device, precision):
            logits = self._net(images)
        loss, right = self._score(logits.float(), grades)
        if share < 1:
            other_loss, other_right = self._score(logits.float(), shifted(grades))
            loss, right = torch.lerp(other_loss, loss, share), torch.lerp(other_right, right, share)
        self.optimizer.zero_grad()
        # DistributedDataParallel takes the mean over ranks, whose parts may differ in size; wanted is that over
        # photographs.
        (loss / batch_size * world_size()).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([each for group in self.optimizer.param_groups for each in group["params"]], CLIP_NORM)
        self.optimizer.step()
        if self._average:
            decay = averaging_decay(config, epoch, step, len(self.batches["train"]))
            average(self._average, self._model, decay)
        return total(torch.stack([loss.detach(), right, torch.full_like(loss, len(images))]))

    def _mixed(self, images: Tensor, phase: Phase, epoch: int, step: int) -> Mix:
        """The images of a step after mixup and CutMix, which the head phase does without."""
        config = self.config
        if phase == "head" or not (config.mixup or config.cutmix):
            return Mix(images, 1.0)
        return mix(images, shifted(images), config.mixup, config.cutmix, config.seed, epoch, step)

    def first_images(self) -> tuple[int, Tensor]:
        """The first epoch in which all layers are trained, or else the last one, counted from 1; and its first batch as
        the network sees it, of all ranks: uint8 (n, 3, s, s), on the CPU."""
        epoch = min(self.config.head_epochs, self.config.total_epochs - 1)
        batches = iter(self._loaders["train"].epoch(epoch))
        images = self._mixed(next(batches).images, self.config.phase(epoch), epoch, 0).images
        return epoch + 1, gather(images.float().round().to(torch.uint8), total).cpu()

    def _score(self, logits: Tensor, grades: Tensor) -> tuple[Tensor, Tensor]:
        """Summed loss and number of photographs graded right, both float32."""
        loss = losses(self.config.loss, logits, grades, self.weights, self.config.label_smoothing).sum()
        return loss, (logits.argmax(dim=1) == grades).sum().float()

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint: tensors and plain values."""
        return {
            "phase": self.phase,
            "model": self._model.state_dict(),
            "average": self._average.state_dict() if self._average else {},
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Loads the moving average and, if it is of the open phase, the optimizer from a checkpoint.

        The model's own weights are loaded elsewhere, before.
        """
        if self._average:
            load_state(self._average, state["average"], "the average of weights in the checkpoint")
        if state["phase"] == self.phase:
            self.optimizer.load_state_dict(state["optimizer"])


def set_phase(model: Grader, phase: Phase) -> None:
    """Sets training mode. In the head phase the backbone is frozen, with its BatchNorm statistics."""
    model.train()
    model.backbone.train(phase == "finetune")
    model.backbone.requires_grad_(phase == "finetune")


def make_optimizer(model: Grader, config: FitConfig) -> tuple[Optimizer, list[float]]:
    """SGD or AdamW over the parameters that the phase trains, and for each group the factor of its learning rate.

    Biases and BatchNorm parameters (one dimension) have no weight decay. Each stage has `layer_decay` times the factor
    of the next one, so early layers, whose pretrained features are general, change least (Howard and Ruder, ACL 2018).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((config.layer_decay ** _stages_before_head(name), decay), []).append(parameter)
    trained = [{"params": parameters, "weight_decay": decay} for (_, decay), parameters in groups.items()]
    optimizer: Optimizer  # each step sets the learning rate
    if config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(trained, lr=0.0, betas=(config.momentum, BETA2), fused=True)
    else:
        optimizer = torch.optim.SGD(trained, lr=0.0, momentum=config.momentum, fused=True)
    return optimizer, [scale for scale, _ in groups]


def _stages_before_head(name: str) -> int:
    if name.startswith("head."):
        return 0
    part = name.removeprefix("backbone.")
    return next((count for count, stage in enumerate(STAGES, 1) if part.startswith(stage)), len(STAGES) + 1)


@torch.no_grad()
def average(into: nn.Module, model: nn.Module, decay: float) -> None:
    """into = decay * into + (1 - decay) * model, for weights and BatchNorm statistics. Integer counters are copied."""
    pairs = list(zip(into.state_dict().values(), model.state_dict().values(), strict=True))
    floats = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([ours for ours, _ in floats], [theirs for _, theirs in floats], 1 - decay)
    for ours, theirs in pairs:
        if not ours.is_floating_point():
            ours.copy_(theirs)
