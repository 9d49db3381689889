"""Reference outputs: PyTorch's probabilities for some photographs of a run. Exported networks are checked against
them."""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import FundusError, PhotoError
from trainer.inference.forward import pair_probabilities, probabilities
from trainer.inference.inputs import gather, render
from trainer.network.export import Reference
from trainer.network.metadata import Metadata
from trainer.network.model import Network
from trainer.run_folder import RunFolder

CHECKED: Final = 9
"""Number of photographs: a batch of one and a batch of eight are checked."""


def make_reference(run: Path, model: Network, metadata: Metadata) -> tuple[Reference, str]:
    """The reference for CHECKED photographs of the run's cache, and "". If these cannot be read: for images of noise,
    and the reason."""
    try:
        images, what, why_noise = some_photographs(run, metadata), "photographs", ""
    except FundusError as error:
        noise = np.random.default_rng(0).integers(0, 256, (CHECKED, 3, metadata.size, metadata.size), np.uint8)
        images, what, why_noise = torch.from_numpy(noise), "images of noise", error.message
    reference = Reference(images, probabilities(model, images, metadata), f"{CHECKED} {what}")
    if metadata.fellow:
        fellows = images.roll(1, dims=0)  # any two photographs do; one has none
        fellows[1] = 0
        joined = pair_probabilities(model, images, fellows, metadata)
        reference = reference._replace(fellow_images=fellows, with_fellows=joined)
    return reference, why_noise


def some_photographs(run: Path, metadata: Metadata) -> Tensor:
    """Images uint8 (CHECKED, 3, s, s) of the run's cache, evenly spread.

    Raises a FundusError if the run, the cache or one of the photographs cannot be read.
    """
    photographs, *_ = gather([Path(RunFolder(run).read_config().cache)], metadata.recipe)
    chosen = np.linspace(0, len(photographs) - 1, CHECKED).round().astype(int)
    (batch,) = render([photographs[n] for n in chosen], metadata, device=torch.device("cpu"))
    if batch.refused:
        raise PhotoError(batch.refused[0].reason)
    return batch.images
