"""Which photographs `trainer predict` takes for the patient's other eye."""

from pathlib import Path

import numpy as np
import torch

from pipeline.cache.cache import open_cache
from pipeline.cache.eyes import fellow_eyes
from tests.conftest import write_cache
from trainer.inference.fellows import Scored, fellows_among
from trainer.inference.inputs import cached_photographs, render
from trainer.network.metadata import Metadata

random = np.random.default_rng(0)


def picture(*layers: np.ndarray) -> np.ndarray:
    """A grey picture of 64 px, the sum of layers of squares."""
    squares = [np.kron(layer, np.ones((64 // len(layer), 64 // len(layer)))) for layer in layers]
    return np.repeat(np.clip(128 + 25 * sum(squares), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_copies_are_told_as_in_evaluate_whatever_size_the_network_takes(tmp_path: Path) -> None:
    """Eyes that differ only in what is lost at 32 px are two eyes, and one photograph under two names is one."""
    shared, flat = random.normal(size=(16, 16)), np.zeros((16, 16))
    pictures = {f"1_{eye}": picture(shared, 0.6 * random.normal(size=(64, 64))) for eye in ("left", "right")}
    pictures |= {f"2_{eye}": picture(shared) for eye in ("left", "right")}
    pictures |= {f"3_{eye}": picture(flat) for eye in ("left", "right")}  # without structure, but the same bytes
    everyone = dict.fromkeys(pictures, 0), dict.fromkeys(pictures, "test")
    with open_cache(write_cache(tmp_path / "cache", pictures, *everyone)) as cache:
        measured = fellow_eyes(cache, "test")
        metadata = Metadata("resnet18", 32, cache.recipe, epoch=1)
        photographs = cached_photographs(cache, np.arange(len(pictures)))
        (batch,) = render(photographs, metadata, device=torch.device("cpu"), workers=1, prints=True)
    nothing = torch.zeros(1)
    scored = [
        Scored(photograph, (), nothing, nothing, seen)
        for photograph, seen in zip(batch.photographs, batch.prints, strict=True)
    ]
    assert fellows_among(scored) == [[1], [0], [], [], [], []]
    assert list(zip(*measured, strict=True)) == [(0, 1), (1, 0)]
