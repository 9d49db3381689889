"""The device that the model runs on, and its floating-point precision."""

import torch

from pipeline.errors import RunError
from pipeline.machine import multiplies_bfloat16


def choose_device(name: str) -> str:
    """torch's name of a device. "auto" gives the fastest one available.

    Raises RunError if the device is unknown or not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, is_available in available.items() if is_available)
    if name not in available:
        raise RunError(f"{name!r} is no device: give auto, {', '.join(available)}")
    if not available[name]:
        raise RunError(
            f"--device {name}: torch {torch.__version__} finds no such device here; leave it out to use what there is"
        )
    return name


def to_device(model: torch.nn.Module, device: torch.device | str) -> None:
    """Moves a model, in channels-last layout, which convolutions on CPUs and on tensor cores prefer."""
    model.to(device)
    model.to(memory_format=torch.channels_last)


def choose_precision(name: str, device: str) -> str:
    """The precision of training steps. "auto" gives bfloat16 if the device computes it fast, else float32."""
    if name == "auto":
        return "bfloat16" if multiplies_bfloat16(device) else "float32"
    return name


def training_precision(device: torch.device, precision: str) -> torch.autocast:
    """Autocast for training steps. bfloat16 needs no loss scaling, because its exponent has float32's range."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def measuring_precision(device: torch.device) -> torch.autocast:
    """Autocast for measuring and predicting: bfloat16 on GPUs that compute it fast, and float32 on every CPU, so that
    probabilities are the same on all CPUs."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" and multiplies_bfloat16("cuda"))
