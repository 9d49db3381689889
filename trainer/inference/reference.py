"""PyTorch's outputs for some photographs of a run, to check exported networks against."""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import FundusError, PhotoError
from trainer.inference.forward import probabilities
from trainer.inference.inputs import gather, render
from trainer.network.export import Reference
from trainer.network.metadata import Metadata
from trainer.network.model import Grader
from trainer.run_folder import RunFolder

CHECKED: Final = 9
"""Photographs; a batch of one and a batch of eight are checked."""


def make_reference(run: Path, model: Grader, metadata: Metadata) -> tuple[Reference, str]:
    """Of CHECKED photographs of the run's cache, and ""; where they are not at hand of noise, and why it is noise."""
    try:
        images, what, why_noise = some_photographs(run, metadata), "photographs", ""
    except FundusError as error:
        noise = np.random.default_rng(0).integers(0, 256, (CHECKED, 3, metadata.size, metadata.size), np.uint8)
        images, what, why_noise = torch.from_numpy(noise), "images of noise", error.message
    return Reference(images, probabilities(model, images, metadata), f"{CHECKED} {what}"), why_noise


def some_photographs(run: Path, metadata: Metadata) -> Tensor:
    """Images uint8 (CHECKED, 3, s, s) of the run's cache, evenly spread.

    Raises a FundusError where run or cache are not at hand, or one of the photographs cannot be read.
    """
    photographs, *_ = gather([Path(RunFolder(run).read_config().cache)], metadata.recipe)
    places = np.linspace(0, len(photographs) - 1, CHECKED).round().astype(int)
    (batch,) = render([photographs[place] for place in places], metadata, device=torch.device("cpu"))
    if batch.refused:
        raise PhotoError(batch.refused[0].reason)
    return batch.images
