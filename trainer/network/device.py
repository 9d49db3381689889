"""The device that the model runs on."""

import torch

from pipeline.errors import RunError
from pipeline.machine import multiplies_bfloat16


def choose_device(name: str) -> str:
    """A name that torch knows; "auto" is the fastest there is.

    Raises RunError where the device asked for is not there, or is none.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, is_there in there.items() if is_there)
    if name not in there:
        raise RunError(f"{name!r} is no device: give auto, {', '.join(there)}")
    if not there[name]:
        raise RunError(
            f"--device {name}: torch {torch.__version__} finds no such device here; leave it out to use what there is"
        )
    return name


def to_device(model: torch.nn.Module, device: torch.device) -> None:
    """Moves a model, in channels-last layout, which convolutions on CPUs and on tensor cores prefer."""
    model.to(device)
    model.to(memory_format=torch.channels_last)


def choose_precision(name: str, device: str) -> str:
    """ "auto" decided."""
    if name == "auto":
        return "bfloat16" if multiplies_bfloat16(device) else "float32"
    return name


def training_precision(device: torch.device, precision: str) -> torch.autocast:
    """For training steps. bfloat16 needs no loss scaling, for its exponent is float32's."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def measuring_precision(device: torch.device) -> torch.autocast:
    """For whatever does not train: bfloat16 on cards that have it, and float32 on every CPU, so that a photograph's
    probabilities do not depend on which."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" and multiplies_bfloat16("cuda"))
