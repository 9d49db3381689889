import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result
from PIL import Image

from pipeline.baselines import confusion_counts
from tests.trainer.conftest import Trained
from trainer.figures import draw_accuracy, draw_confusion
from trainer.run import ACCURACY_COLUMNS

Fit = Callable[..., Result]
Cache = Callable[..., Path]


def test_evaluate_says_again_what_fit_found(trained: Trained, trainer: Fit) -> None:
    run = trained.copy("run")
    before = {file.name: file.read_bytes() for file in run.glob("*_test*")}
    for file in run.glob("*_test*"):
        file.unlink()
    trainer("evaluate", "run")
    assert {file.name: file.read_bytes() for file in run.glob("*_test*")} == before


def test_evaluate_measures_any_split(trained: Trained, trainer: Fit) -> None:
    run = trained.copy("run")
    trainer("evaluate", "run", "--split", "train")
    assert len(pd.read_csv(run / "predictions_train.csv")) == 20


def test_another_cache_is_measured_and_recorded(
    trained: Trained, trainer: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    before = json.loads((trained.copy("run") / "metrics_test.json").read_text())
    other = tiny_cache(test=[0, 4, -1], name="other")
    result = trainer("evaluate", "run", "--cache", other)
    assert "other is not as it was when run was trained" in result.stderr
    assert "1 of 3 photographs of test have no grade" in result.stderr
    after = json.loads((tmp_path / "run" / "metrics_test.json").read_text())
    assert after["photographs"] == 2
    assert after["cache"] != before["cache"]
    assert pd.read_csv(tmp_path / "run" / "predictions_test.csv")["grade"].isna().tolist() == [False, False, True]


def test_a_missing_grade_keeps_the_others_in_place(fit: Fit, tiny_cache: Cache, tmp_path: Path) -> None:
    fit(tiny_cache(train=[0, 1, 2, 4] * 3, val=[1, 2, 4], test=[0, 0, 4]), "--run", "run", "--epochs", 1)
    counts = pd.read_csv(tmp_path / "run" / "confusion_test_counts.csv", index_col=0)
    assert counts.shape == (5, 5)
    assert counts.sum(axis=1).tolist() == [2, 0, 0, 0, 1]
    rows = (tmp_path / "run" / "confusion_test.csv").read_text().splitlines()
    assert rows[4] == "severe,,,,,"
    for file in (tmp_path / "run").glob("*.[cj]s*"):
        assert "nan" not in file.read_text().lower()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda run: None, "run does not exist"),
        (lambda run: run.mkdir(), "run is not a run (it has no config.json)"),
        (lambda run: (run.mkdir(), (run / "config.json").write_text("{")), "config.json is damaged"),
        (lambda run: (run.mkdir(), (run / "config.json").write_text("[]")), "config.json is damaged"),
        (lambda run: (run.mkdir(), (run / "config.json").write_text('{"asked": {}}')), "config.json is damaged"),
    ],
)
def test_what_is_no_run_is_said_in_one_line(
    make: Callable[[Path], object], problem: str, trainer: Fit, tmp_path: Path
) -> None:
    make(tmp_path / "run")
    for command in (("evaluate", "run"), ("fit", "--run", "run", "--resume")):
        if command[0] == "fit" and not (tmp_path / "run" / "config.json").exists():
            continue  # that starts a new run
        stderr = trainer(*command, exit=1).stderr
        assert problem in stderr
        assert stderr.count("\n") == 1


def test_figures_can_be_drawn_of_the_barest_runs(tmp_path: Path) -> None:
    draw_confusion(tmp_path / "confusion.png", confusion_counts([3], [0]), title="one photograph")
    row = dict.fromkeys(ACCURACY_COLUMNS, 1.0) | {"phase": "head", "acc_test": float("nan")}
    draw_accuracy(tmp_path / "accuracy.png", pd.DataFrame([row]), title="one epoch", best=1, majority=None)
    for name in ("confusion.png", "accuracy.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 1000
