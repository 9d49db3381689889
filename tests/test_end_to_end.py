"""The three commands, as the README gives them, from synthetic eyes to a confusion matrix."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.trainer.conftest import invoke

BIN = Path(sys.executable).parent


def run(folder: Path, command: str) -> str:
    """What a command, run in a folder, prints."""
    program, *arguments = command.split()
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # so small photographs gain nothing by a second
    done = subprocess.run([BIN / program, *arguments], cwd=folder, capture_output=True, text=True, env=one_thread)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder after the three commands, at a size that trains in seconds."""
    folder = tmp_path_factory.mktemp("user")
    run(folder, "tools phantom data --eyes 60")
    run(folder, "tools preprocess data/ --size 64")
    fit = "trainer fit --weights none --epochs 2 --batch 16 --size 48 --device cpu --track-test"
    run(folder, f"{fit} --loader dali")
    run(folder, f"{fit} --loader torchvision")
    return folder


def test_both_loaders_train_on_the_same_photographs_in_the_same_order(folder: Path) -> None:
    dali, torchvision = (pd.read_csv(folder / f"runs/{name}/accuracy.csv") for name in names(folder))
    assert dali["lr"].tolist() == torchvision["lr"].tolist()
    # Pixels differ by a grey level at most, and training magnifies that; other photographs or another order would part
    # the losses of the first epoch by tens of percent.
    assert dali["loss_train"][0] == pytest.approx(torchvision["loss_train"][0], rel=0.02)


def test_the_run_folder_holds_what_the_readme_says(folder: Path) -> None:
    for name in names(folder):
        run = folder / "runs" / name
        assert {path.name for path in run.iterdir()} >= {
            "config.json", "accuracy.csv", "accuracy.png", "model.safetensors", "last.pt", "metrics_test.json",
            "predictions_test.csv", "confusion_test.csv", "confusion_test_counts.csv", "confusion_test.png",
        }  # fmt: skip
        counts = pd.read_csv(run / "confusion_test_counts.csv", index_col=0).to_numpy()
        rows = pd.read_csv(run / "confusion_test.csv", index_col=0).to_numpy()
        predictions = pd.read_csv(run / "predictions_test.csv", dtype={"id": str})
        assert counts.shape == rows.shape == (5, 5)
        assert counts.sum() == len(predictions)
        seen = counts.sum(axis=1) > 0
        assert np.allclose(rows[seen], counts[seen] / counts[seen].sum(axis=1, keepdims=True), atol=1e-6)
        metrics = json.loads((run / "metrics_test.json").read_text())
        assert metrics["accuracy"] == pytest.approx((predictions["grade"] == predictions["predicted"]).mean())
        with Image.open(run / "confusion_test.png") as picture:
            assert min(picture.size) > 400


def test_evaluating_again_gives_the_same_numbers(folder: Path) -> None:
    run_folder = folder / "runs" / names(folder)[1]
    before = (run_folder / "predictions_test.csv").read_bytes()
    invoke("evaluate", run_folder, "--split", "test")
    assert (run_folder / "predictions_test.csv").read_bytes() == before


def test_runs_are_compared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    output = invoke("compare", *(f"runs/{name}" for name in names(folder))).output
    for name in names(folder):
        assert name in output


def names(folder: Path) -> list[str]:
    found = sorted(path.name for path in (folder / "runs").iterdir() if path.is_dir())
    assert len(found) == 2
    return found
