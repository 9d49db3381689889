"""`trainer folds`: ordinary runs, gone on with after an interruption, measured together."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.trainer.conftest import FAST, invoke, write_tiny_cache


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folds of 25 photographs, and five of test."""
    folder = tmp_path_factory.mktemp("folds")
    write_tiny_cache(folder / "cache")
    invoke("folds", "--folds", 3, "--cache", folder / "cache", *FAST, "--run", folder / "cv")
    return folder


def test_every_photograph_of_train_and_val_is_graded_once(made: Path) -> None:
    table = pd.read_csv(made / "cv/predictions_oof.csv")
    assert len(table) == table["id"].nunique() == 25
    assert not table["id"].str.contains("test").any()
    for number in range(3):
        own = pd.read_csv(made / f"cv/fold{number}/predictions_test.csv")
        assert set(own["id"]) == set(table["id"][table["fold"] == number])
    found = json.loads((made / "cv/metrics_oof.json").read_text())
    assert found["photographs"] == 25
    assert found["accuracy"] == pytest.approx((table["grade"] == table["predicted"]).mean())
    for name in ("confusion_oof.csv", "confusion_oof_counts.csv", "confusion_oof.png"):
        assert (made / "cv" / name).exists()


def test_a_fold_is_an_ordinary_run(made: Path) -> None:
    assert "fold 0 of 3" in (made / "cv/caches/fold0/cache.json").read_text()
    output = invoke("evaluate", made / "cv/fold1", "--device", "cpu").output
    assert "accuracy" in output


def test_the_same_command_goes_on_and_another_is_refused(made: Path) -> None:
    before = (made / "cv/predictions_oof.csv").read_bytes()
    (made / "cv/fold2/summary.json").unlink()  # as a run that was killed before its end
    again = ("folds", "--folds", 3, "--cache", made / "cache", *FAST, "--run", made / "cv")
    assert "fold1 is finished" in invoke(*again).output
    assert (made / "cv/predictions_oof.csv").read_bytes() == before
    stderr = invoke("folds", "--folds", 4, "--cache", made / "cache", *FAST, "--run", made / "cv", exit=1).stderr
    assert "has other folds (another cache, number, seed or --split)" in stderr


def test_a_folder_of_something_else_is_left_alone(made: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    stderr = invoke("folds", "--folds", 3, "--cache", made / "cache", *FAST, "--run", tmp_path / "mine", exit=1).stderr
    assert "mine" in stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
