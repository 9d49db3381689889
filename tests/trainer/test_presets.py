"""Recipes are defaults: named in config.json, overridden by any option."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result

from tests.trainer.conftest import Trained
from tests.trainer.recorded import recorded as record
from trainer.config import FitConfig, RunConfig
from trainer.network.metadata import read_metadata
from trainer.presets import PRESETS
from trainer.reporting.narrative import commands

Fit = Callable[..., Result]
Cache = Callable[..., Path]


@pytest.mark.parametrize("name", PRESETS)
def test_every_recipe_can_be_run_and_differs_from_the_defaults(name: str) -> None:
    assert FitConfig(**PRESETS[name]) != FitConfig()


def test_a_recipe_gives_what_is_not_asked_for_and_the_run_says_so(fit: Fit, tiny_cache: Cache, tmp_path: Path) -> None:
    fit(tiny_cache(), "--recipe", "course", "--epochs", 1, "--run", "run")  # the fixture asks for --batch 8 besides
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    asked = PRESETS["course"] | {"recipe": "course", "epochs": 1, "batch": 8}
    assert {name: config["asked"][name] for name in asked} == asked
    resolved = {**asked, "device": "cpu", "loader": "torchvision", "size": 32}
    assert {name: config["resolved"][name] for name in resolved} == resolved
    assert pd.read_csv(tmp_path / "run" / "accuracy.csv")["lr"].tolist() == [1e-3]  # no warm-up, no decay
    refused = fit(tmp_path / "cache", "--recipe", "fast", "--run", "run", "--resume", exit=1).stderr
    assert "run is finished, so --epochs 2 --recipe fast changes nothing" in refused


def test_a_setting_asked_for_wins_even_where_it_is_the_ordinary_default(
    fit: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    assert PRESETS["best"]["ema"] != FitConfig().ema
    fit(
        tiny_cache(),
        "--recipe",
        "best",
        "--ema",
        FitConfig().ema,
        "--no-tta",
        "--stem",
        "auto",
        "--epochs",
        1,
        "--run",
        "run",
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())["resolved"]
    assert (config["ema"], config["lr"]) == (FitConfig().ema, PRESETS["best"]["lr"])
    assert (PRESETS["best"]["tta"], config["tta"]) == (True, False)
    assert config["start_size"] is None  # no share of 32 px is large enough to begin with
    assert config["stem"] == "small"  # what "auto" is at 32 px from scratch
    assert read_metadata(tmp_path / "run" / "model.safetensors").stem == "small"


def test_the_command_that_makes_a_run_again_names_recipe_and_exceptions(trained: Trained) -> None:
    asked = FitConfig(**{**PRESETS["best"], "recipe": "best", "ema": 0, "tta": False, "track_test": True, "seed": 3})
    recorded = json.loads((trained.run / "config.json").read_text())
    config = RunConfig.from_dict(recorded | {"asked": asdict(asked)})
    metadata = read_metadata(trained.run / "model.safetensors")
    fit = commands(Path("run"), "test", config, metadata, record(), None, [])[1]
    assert fit == "trainer fit --run run --recipe best --no-tta --ema 0 --seed 3 --track-test"


def test_an_unknown_recipe_is_wrong_usage(fit: Fit, tiny_cache: Cache) -> None:
    assert "'worst' is not one of 'course', 'fast', 'best'" in fit(tiny_cache(), "--recipe", "worst", exit=2).stderr


def test_runs_from_before_a_setting_existed_have_its_default(trained: Trained) -> None:
    recorded = json.loads((trained.run / "config.json").read_text())
    newer = ("recipe", "stem", "schedule", "sampling", "loss", "label_smoothing", "layer_decay", "zoom", "colour")
    newer += ("mixup", "cutmix", "grade_by", "tta", "ema", "keep", "patience")
    for settings in ("asked", "resolved"):
        for name in newer:
            del recorded[settings][name]
    config = RunConfig.from_dict(recorded)
    assert all(getattr(config.asked, name) == getattr(FitConfig(), name) for name in newer)
