"""Tries the functions of the user's with a small batch, before a training writes anything."""

from copy import deepcopy
from functools import partial
from itertools import product
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import RunError
from pipeline.grades import N_GRADES
from trainer.config import FitConfig
from trainer.distributed.process_group import world_size
from trainer.distributed.sync_batchnorm import check_synchronisable
from trainer.network.backbones import find_backbone
from trainer.network.device import measuring_precision, to_device, training_precision
from trainer.network.model import Grader
from trainer.plugs import Plug, describe_plug, failing, is_plug
from trainer.training.augmentation import Draws, augmented
from trainer.training.learner import STAGES
from trainer.training.losses import call_loss

PHOTOGRAPHS: Final = 2
"""In the batch that a network and an augmentation are tried with."""


def try_plugs(config: FitConfig, model: Grader) -> None:
    """Raises RunError for a function that gives anything else than it must. config: resolved."""
    if is_plug(config.model):
        try_network(config, model)
    if is_plug(config.loss):
        try_loss(config)
    if config.augment:
        device = torch.device(config.device)
        for size in _sizes(config):
            augmented(config.augment, _noise(PHOTOGRAPHS, size, device), Draws(0, 0, range(PHOTOGRAPHS), device))


def try_network(config: FitConfig, model: Grader) -> None:
    """One forward and backward pass, of a copy of the model: in training BatchNorm counts what it has seen."""
    name, device = config.model, torch.device(config.device)
    check_synchronisable(model.backbone)
    if config.layer_decay < 1 and not any(key.startswith(STAGES) for key in model.backbone.state_dict()):
        stages = ", ".join(each.rstrip(".") for each in reversed(STAGES))
        raise RunError(f"--layer-decay is for stages named {stages}, and {name} has none; leave it out")
    again, _ = find_backbone(name, model.stem)()
    shapes = [{key: each.shape for key, each in one.state_dict().items()} for one in (again, model.backbone)]
    if again is model.backbone or shapes[0] != shapes[1]:
        raise RunError(
            f"{name} gives {'the same' if again is model.backbone else 'another'} network when it is called "
            "again; it must make one of the same kind in each call"
        )
    with failing(name):
        copy = deepcopy(model)
        to_device(copy, device)
    for size in _sizes(config):
        check = partial(_check_features, name, model.head.in_features)
        with failing(name):
            noise = _noise(PHOTOGRAPHS, size, device)
            with training_precision(device, config.precision):
                features = copy.train().backbone(copy.normalise(noise))
                check(PHOTOGRAPHS, features)
                logits = copy.head(features)
            logits.float().sum().backward()
            with torch.no_grad(), measuring_precision(device):
                copy.eval()(noise)
    unused = [key for key, each in copy.backbone.named_parameters() if each.grad is None]
    if world_size() > 1:
        if unused:
            raise RunError(f"{name}: its output does not depend on {unused[0]}; several processes cannot train that")
        with failing(f"{name} of no photographs, as a process may get them at an epoch's end,"), torch.no_grad():
            check(0, copy.eval().backbone(copy.normalise(_noise(0, size, device))))


def _check_features(name: str, width: int, photographs: int, features: object) -> None:
    if isinstance(features, Tensor) and features.is_floating_point() and features.shape == (photographs, width):
        return
    said = f"a {features.dtype} {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
    raise RunError(
        f"{name}: for {photographs} images the network gives {said.replace('torch.', '')}, it must give floats "
        f"({photographs}, {width}), as it said itself"
    )


def try_loss(config: FitConfig) -> None:
    for device, photographs in product(dict.fromkeys((config.device, "cpu")), (2 * N_GRADES, 1)):  # validation: CPU
        logits = torch.linspace(-2, 2, N_GRADES * photographs, device=device).view(photographs, N_GRADES)
        logits.requires_grad_()
        grades = torch.arange(photographs, device=device) % N_GRADES
        found = call_loss(config.loss, logits, grades)
        if not found.requires_grad:
            raise RunError(
                f"{config.loss} gives a loss without a gradient: it does not depend on the logits, or rounds"
            )
        with failing(config.loss):
            found.sum().backward()  # type: ignore[no-untyped-call]
        if found.ndim == 0 and config.class_weights != "none":
            raise RunError(
                f"{config.loss} gives one number for a batch, so --class-weights cannot weigh its photographs; let it "
                "give one loss for each, or leave out --class-weights"
            )
        if not found.isfinite().all() or logits.grad is None or not logits.grad.isfinite().all():
            raise RunError(f"{config.loss}: the loss or its gradient is not finite for logits from -2 to 2")


def describe_plugs(config: FitConfig, backbone: nn.Module) -> list[Plug]:
    """The records of the functions that a training takes."""
    layers = [type(each).__module__ for each in backbone.modules()]
    named = [("model", config.model, layers), ("loss", config.loss, []), ("augment", config.augment or "", [])]
    return [describe_plug(option, name, modules) for option, name, modules in named if is_plug(name)]


def _sizes(config: FitConfig) -> list[int]:
    """Of the first and of the last epoch, pixels."""
    return [int(each) for each in (config.start_size, config.size) if each]


def _noise(photographs: int, size: int, device: torch.device) -> Tensor:
    noise = np.random.default_rng(0).integers(0, 256, (photographs, 3, size, size), np.uint8)
    return torch.from_numpy(noise).to(device).contiguous(memory_format=torch.channels_last)
