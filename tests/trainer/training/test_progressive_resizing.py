"""Progressive resizing: an epoch has the size that the schedule says, and is otherwise what it would have been."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import Result

from pipeline.cache.cache import open_cache
from pipeline.loading.batch import Loader
from pipeline.loading.loaders import open_loader
from pipeline.loading.plan import Augment
from tests.conftest import write_cache
from trainer.config import FitConfig
from trainer.presets import PRESETS
from trainer.training.progressive_resizing import GrowingLoader, start_pixels, training_size

Fit = Callable[..., Result]


@pytest.fixture
def cache_of_64(tmp_path: Path) -> Path:
    """24 photographs of 64 px."""
    random = np.random.default_rng(0)
    pictures = {f"{patient}_left": random.integers(0, 255, (64, 64, 3), np.uint8) for patient in range(24)}
    splits = {id: ("train", "train", "val", "test")[number % 4] for number, id in enumerate(pictures)}
    return write_cache(tmp_path / "cache", pictures, {id: n % 5 for n, id in enumerate(pictures)}, splits)


def test_the_size_grows_along_a_line_over_two_thirds_of_the_epochs() -> None:
    """From 32 to 96 in four of six epochs, 16 pixels each; the head's two epochs come before."""
    config = FitConfig(head_epochs=2, epochs=6, size=96)
    assert [training_size(32, config, epoch) for epoch in range(2, 8)] == [32, 48, 64, 80, 96, 96]


def test_it_grows_by_steps_and_ends_at_a_size_that_is_none() -> None:
    config = FitConfig(head_epochs=0, epochs=12, size=56)
    assert [training_size(32, config, epoch) for epoch in range(12)] == [32] * 6 + [48] * 2 + [56] * 4


def test_an_epoch_is_that_of_a_loader_of_its_size_whatever_came_before(cache_of_64: Path) -> None:
    with open_cache(cache_of_64) as cache:

        def opened(size: int) -> Loader:
            return open_loader(
                "torchvision", cache, split="train", batch_size=8, augment=Augment(), shuffle=True, seed=3, size=size
            )

        with GrowingLoader(opened, lambda epoch: (32, 48)[epoch % 2]) as growing:
            for epoch in (0, 1, 1, 2, 5):
                with opened((32, 48)[epoch % 2]) as plain:
                    for ours, theirs in zip(growing.epoch(epoch, 1), plain.epoch(epoch, 1), strict=True):
                        assert torch.equal(ours.images, theirs.images)
                        assert torch.equal(ours.rows, theirs.rows)


def test_a_start_size_that_is_no_smaller_than_the_size_is_refused(fit: Fit, cache_of_64: Path) -> None:
    message = "start_size must be smaller than the size, 64, got 64"
    assert message in fit(cache_of_64, "--start-size", 64, "--size", 64, exit=2).stderr
    assert message in fit(cache_of_64, "--start-size", 64, exit=1).stderr  # the size is the cache's


@pytest.mark.parametrize(
    ("start", "size", "pixels"),
    [
        (0.5, 64, 32),
        (0.6, 56, 32),  # 33.6
        (0.6, 128, 80),  # 76.8
        (0.6, 512, 304),  # 307.2
        (0.25, 64, 32),  # not 16
        (0.6, 32, None),  # nothing smaller to grow from
        (1, 64, None),  # so that a recipe that grows can be told not to
        (1, 100, None),  # not 96
        (48, 64, 48),
        (None, 64, None),
    ],
)
def test_a_share_of_the_size_is_a_multiple_of_8_pixels_and_at_least_32(
    start: float | None, size: int, pixels: int | None
) -> None:
    assert start_pixels(start, size) == pixels


@pytest.mark.parametrize("start", [0, 1.5, 31, 40.5, "inf", "nan"])
def test_a_start_size_that_is_neither_share_nor_pixels_is_refused(fit: Fit, cache_of_64: Path, start: object) -> None:
    assert "start" in fit(cache_of_64, "--start-size", start, exit=2).stderr


def test_a_share_is_pixels_in_what_the_run_resolved(fit: Fit, cache_of_64: Path, tmp_path: Path) -> None:
    fit(cache_of_64, "--start-size", 0.6, "--epochs", 1, "--run", "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["asked"]["start_size"], config["resolved"]["start_size"]) == (0.6, 40)  # 38.4


def test_a_recipe_that_grows_can_be_told_not_to(fit: Fit, cache_of_64: Path, tmp_path: Path) -> None:
    assert PRESETS["best"]["start_size"] < 1
    fit(cache_of_64, "--recipe", "best", "--start-size", 1, "--epochs", 1, "--run", "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["asked"]["start_size"], config["resolved"]["start_size"]) == (1, None)


def test_a_head_alone_has_nothing_to_grow_for(fit: Fit, cache_of_64: Path, tmp_path: Path) -> None:
    fit(cache_of_64, "--epochs", 1, "--run", "run")
    weights = ("--weights", "run/model.safetensors", "--head-epochs", 1, "--epochs", 0)
    fit(cache_of_64, "--recipe", "best", *weights, "--run", "head")
    config = json.loads((tmp_path / "head" / "config.json").read_text())
    assert (config["asked"]["start_size"], config["resolved"]["start_size"]) == (0.6, None)


@pytest.mark.slow
def test_only_images_at_full_size_are_compiled_for(
    fit: Fit, cache_of_64: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[int] = []
    real = torch.compile

    def counting(model: torch.nn.Module, **settings: object) -> Callable[[torch.Tensor], torch.Tensor]:
        fast = real(model, **settings)
        return lambda images: compiled.append(images.shape[-1]) or fast(images)

    monkeypatch.setattr("torch.compile", counting)
    options = ("--start-size", 32, "--epochs", 3, "--batch", 4, "--precision", "float32")
    fit(cache_of_64, *options, "--compile", "--run", "run")  # epochs of 32, 48 and 64 px, 12 photographs in train
    assert compiled == [64] * 3


@pytest.mark.slow
def test_a_run_that_grows_can_be_repeated_and_is_another_than_one_that_does_not(
    fit: Fit, cache_of_64: Path, tmp_path: Path
) -> None:
    growing = ("--start-size", 32, "--epochs", 3)
    fit(cache_of_64, *growing, "--run", "whole")
    fit(cache_of_64, *growing, "--run", "run")
    curve = pd.read_csv(tmp_path / "whole" / "accuracy.csv")
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["resolved"]["start_size"] == 32
    pd.testing.assert_frame_equal(
        curve.drop(columns=["seconds", "images_per_second"]),
        pd.read_csv(tmp_path / "run" / "accuracy.csv").drop(columns=["seconds", "images_per_second"]),
    )
    fit(cache_of_64, "--epochs", 3, "--run", "full")
    assert pd.read_csv(tmp_path / "full" / "accuracy.csv")["loss_train"][0] != curve["loss_train"][0]
