"""Where the model runs."""

import torch

from pipeline.errors import RunError


def choose_device(name: str) -> str:
    """A name that torch knows; "auto" is the fastest there is.

    Raises RunError where the device asked for is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, is_there in there.items() if is_there)
    if not there[name]:
        raise RunError(
            f"--device {name}: torch {torch.__version__} finds no such device here; leave it out to use what there is"
        )
    return name


def to_device(model: torch.nn.Module, device: torch.device) -> None:
    """Moves a model, in channels-last layout, which convolutions on CPUs and on tensor cores prefer."""
    model.to(device)
    model.to(memory_format=torch.channels_last)


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the hardware has it; it needs no loss scaling, for its exponent is float32's."""
    enabled = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
