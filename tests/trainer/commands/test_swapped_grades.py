"""Grades that were swapped are found by `trainer folds`: drawn eyes, real trainings."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from tests.trainer.conftest import invoke
from tools.cli import main as tools

SETTINGS = ("--weights", "none", "--epochs", 15, "--batch", 16, "--lr", 0.02, "--keep", "last", "--device", "cpu")


@pytest.mark.slow
def test_most_of_the_first_are_swapped_where_a_twentieth_is(tmp_path: Path) -> None:
    """600 drawn eyes at 64 px, 30 of them given another grade; of the first 30 photographs at least 21 are of those."""
    eyes, cache = tmp_path / "eyes", tmp_path / "cache"
    assert CliRunner().invoke(tools, ["phantom", str(eyes), "--eyes", "600", "--seed", "1"]).exit_code == 0
    labels = pd.read_csv(eyes / "trainLabels.csv")
    random = np.random.default_rng(0)
    swapped = random.choice(600, 30, replace=False)
    grades = labels["level"].to_numpy(copy=True)
    grades[swapped] = (grades[swapped] + random.integers(1, 5, 30)) % 5
    labels.assign(level=grades).to_csv(eyes / "trainLabels.csv", index=False)
    done = CliRunner().invoke(tools, ["preprocess", str(eyes), "--out", str(cache), "--size", "64"])
    assert done.exit_code == 0, done.output
    invoke("folds", "--folds", 3, "--split", "all", "--cache", cache, *SETTINGS, "--precision", "float32",
           "--run", tmp_path / "cv")  # fmt: skip
    first = pd.read_csv(tmp_path / "cv/second_look.csv")["id"].head(30)
    assert first.isin(labels["image"].iloc[swapped]).mean() >= 0.7
