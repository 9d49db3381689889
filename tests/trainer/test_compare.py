import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result
from PIL import Image

from tests.trainer.conftest import Trained

Fit = Callable[..., Result]


def test_runs_are_drawn_and_listed_beside_each_other(trained: Trained, fit: Fit, trainer: Fit, tmp_path: Path) -> None:
    run = trained.copy("a")
    fit(
        trained.cache,
        "--run",
        "b",
        "--epochs",
        1,
        "--track-test",
        "--weights",
        "a/model.safetensors",
        "--head-epochs",
        0,
    )
    output = trainer("compare", "a", "b", "--out", "out/both").output
    table = pd.read_csv("out/both.csv")
    assert table["run"].tolist() == ["a", "b"]
    assert table["epochs"].tolist() == [2, 1]
    assert table["accuracy_test"][0] == pytest.approx(json.loads((run / "metrics_test.json").read_text())["accuracy"])
    assert "accuracy_test" in output
    with Image.open("out/both.png") as image:
        assert image.width > 1000


def test_unfinished_and_damaged_runs_are_named(trained: Trained, trainer: Fit, tmp_path: Path) -> None:
    for name in ("whole", "unfinished", "damaged"):
        trained.copy(name)
    (tmp_path / "unfinished" / "summary.json").unlink()
    (tmp_path / "damaged" / "accuracy.csv").write_text("epoch,phase\n1,\n")
    (tmp_path / "note.txt").touch()
    result = trainer("compare", "whole", "unfinished", "damaged", "note.txt", "gone")
    assert "unfinished is unfinished (2 epochs)" in result.stderr
    assert "left out: damaged/accuracy.csv is damaged" in result.stderr
    assert "left out: note.txt is not a run" in result.stderr
    assert "left out: gone does not exist" in result.stderr
    assert pd.read_csv("compare.csv")["run"].tolist() == ["whole", "unfinished"]


def test_nothing_to_compare_is_one_line_and_exit_one(trainer: Fit, tmp_path: Path) -> None:
    assert "none of these can be compared" in trainer("compare", tmp_path, exit=1).stderr
