"""`trainer folds`: ordinary runs, gone on with after an interruption, measured together."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.cache.cache import open_cache
from pipeline.cache.folds import fold_splits, write_fold
from tests.trainer.conftest import FAST, invoke, write_tiny_cache

ROOT = Path(__file__).resolve().parents[3]
TOGETHER = ("predictions_oof.csv", "metrics_oof.json", "confusion_oof_counts.csv", "second_look.csv", "copies.csv")


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


def test_the_folder_of_all_folds_is_told_from_a_run(made: Path) -> None:
    said = f"{made / 'cv'} is no run: `trainer folds` made it, and its runs are {made / 'cv/fold0'} and so on"
    assert said in invoke("report", made / "cv", exit=1).stderr
    assert said in invoke("predict", made / "cv", made, "--out", made / "p.csv", exit=1).stderr


def test_the_same_command_goes_on_and_another_is_refused(made: Path) -> None:
    before = (made / "cv/predictions_oof.csv").read_bytes()
    (made / "cv/fold2/summary.json").unlink()  # as a run that was killed before its end
    again = ("folds", "--folds", 3, "--cache", made / "cache", *FAST, "--run", made / "cv")
    assert "fold1 is finished" in invoke(*again).output
    assert (made / "cv/predictions_oof.csv").read_bytes() == before
    stderr = invoke("folds", "--folds", 4, "--cache", made / "cache", *FAST, "--run", made / "cv", exit=1).stderr
    assert "has other folds (another cache, number, seed or --split)" in stderr


def test_the_folds_to_come_are_trained_as_those_that_are_there(made: Path, tmp_path: Path) -> None:
    """Whatever is left out the second time. What is given otherwise is refused, and nothing is trained."""
    run = Path(shutil.copytree(made / "cv", tmp_path / "cv"))
    shutil.rmtree(run / "fold2")
    command = ("folds", "--folds", 3, "--cache", made / "cache", "--run", run)
    stderr = invoke(*command, "--batch", 4, exit=1).stderr
    assert f"{run} was begun with batch 8, not 4; leave it out, or choose another --run" in stderr
    assert not (run / "fold2").exists()
    invoke(*command)
    first, last = (json.loads((run / f"fold{number}/config.json").read_text()) for number in (0, 2))
    assert last["asked"] | {"cache": ""} == first["asked"] | {"cache": ""}
    assert (run / "predictions_oof.csv").read_bytes() == (made / "cv/predictions_oof.csv").read_bytes()


def test_a_folder_of_something_else_is_left_alone(made: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    stderr = invoke("folds", "--folds", 3, "--cache", made / "cache", *FAST, "--run", tmp_path / "mine", exit=1).stderr
    assert "mine" in stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_the_figures_are_said_in_plain_words(made: Path) -> None:
    again = ("folds", "--folds", 3, "--cache", made / "cache", *FAST, "--run", made / "cv")
    output = invoke(*again).output
    assert "25 photographs of 25 patients, each graded by a network that saw neither" in output
    assert "AUC, referable, mean within folds" in output
    assert "AUC, referable, scores of all folds pooled" in output
    assert "standard deviation over folds" in output
    assert "the variation of training is not in them" in output
    table = pd.read_csv(made / "cv/second_look.csv")
    assert f"grades worth a second look: {len(table)} photographs" in output
    assert (table["grade"] != table["likeliest"]).all()
    assert table["distance"].is_monotonic_decreasing
    with Image.open(made / "cv/second_look.png") as sheet:
        assert "second look" in sheet.text["Software"]  # so that nobody grades it


@pytest.mark.slow
def test_killed_it_goes_on_and_leaves_what_an_undisturbed_one_does(made: Path, tmp_path: Path) -> None:
    command = ["folds", "--folds", "3", "--cache", str(made / "cache"), *map(str, FAST), "--run", str(tmp_path / "cv")]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # as in this process: the same to the last bit
    program = [sys.executable, "-m", "trainer"]
    begun = subprocess.Popen([*program, *command], cwd=ROOT, stdout=subprocess.DEVNULL, env=one_thread)
    until = time.monotonic() + 600
    while not (tmp_path / "cv/fold1/last.pt").exists() and begun.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    begun.kill()
    assert begun.wait() == -9, "killed while it trained the second fold"
    assert not (tmp_path / "cv/predictions_oof.csv").exists()
    output = invoke(*command).output
    assert "fold0 is finished" in output
    assert "fold1: resuming after" in output
    for name in TOGETHER:
        assert (tmp_path / "cv" / name).read_bytes() == (made / "cv" / name).read_bytes(), name
    for number in range(3):
        own = f"fold{number}/predictions_test.csv"
        assert (tmp_path / "cv" / own).read_bytes() == (made / "cv" / own).read_bytes()


@pytest.mark.slow
def test_each_fold_is_trained_once_for_each_seed(made: Path) -> None:
    command = ("folds", "--folds", 3, "--seeds", "4,0", "--cache", made / "cache", *FAST)
    (made / "seeds").mkdir()
    for number in range(3):  # seed 0 is trained already
        shutil.copytree(made / f"cv/fold{number}", made / f"seeds/fold{number}_seed0")
    mark = json.loads((made / "cv/folds.json").read_text()) | {"seeds": [4, 0]}
    (made / "seeds/folds.json").write_text(json.dumps(mark))
    output = invoke(*command, "--run", made / "seeds").output
    assert "fold0_seed0 is finished" in output
    assert "each graded by 2 networks that saw neither; means over seeds 4, 0" in output
    assert "standard deviation over seeds" in output
    assert json.loads((made / "seeds/fold2_seed4/config.json").read_text())["asked"]["seed"] == 4
    table = pd.read_csv(made / "seeds/predictions_oof.csv")
    one = pd.read_csv(made / "cv/predictions_oof.csv")
    assert list(table.columns) == [*one.columns, "seed"]
    pd.testing.assert_frame_equal(table[table["seed"] == 0].drop(columns="seed"), one)
    assert set(table["id"][table["seed"] == 4]) == set(one["id"])
    found = json.loads((made / "seeds/metrics_oof.json").read_text())
    assert found["photographs"] == 25
    assert found["accuracy"] == pytest.approx((table["grade"] == table["predicted"]).mean())
    before = (made / "seeds/predictions_oof.csv").read_bytes()
    assert "fold2_seed4 is finished" in invoke(*command, "--run", made / "seeds").output
    assert (made / "seeds/predictions_oof.csv").read_bytes() == before, "the folds are drawn by --seed, as before"
    page = invoke("report", made / "seeds/fold1_seed4", "--card", made / "card.md").output
    assert "trainer folds --folds 3" in (made / "card.md").read_text(), page
    assert "--seeds 4,0" in (made / "card.md").read_text()
    stderr = invoke(*command[:4], "0,5", *command[5:], "--run", made / "seeds", exit=1).stderr
    assert "has other folds" in stderr


def test_too_many_folds_leave_nothing_that_is_in_the_way(made: Path, tmp_path: Path) -> None:
    stderr = invoke("folds", "--folds", 20, "--cache", made / "cache", *FAST, "--run", tmp_path / "cv", exit=1).stderr
    assert "25 patients are too few for 20 folds" in stderr
    assert not (tmp_path / "cv").exists()


def write_cache_of_copies(make_cache: Callable[..., Path]) -> Path:
    """25 patients. Five patients' photographs are there again under other names, mirrored and darker."""
    random = np.random.default_rng(0)
    pictures = {
        f"{number}_left": cv2.resize(random.integers(60, 200, (16, 16, 3), np.uint8), (64, 64)) for number in range(20)
    }
    for number in range(5):
        copy = (pictures[f"{number}_left"] * 0.8).astype(np.uint8)[:, ::-1]
        pictures[f"again{number}_left"] = np.ascontiguousarray(copy)
    return make_cache(pictures, {id: number % 2 * 3 for number, id in enumerate(pictures)})


def test_patients_who_share_a_photograph_stay_together(make_cache: Callable[..., Path], tmp_path: Path) -> None:
    cache = write_cache_of_copies(make_cache)
    command = ("folds", "--folds", 2, "--cache", cache, *FAST, "--epochs", 1, "--run", tmp_path / "cv")
    done = invoke(*command)
    assert (
        "10 patients have a photograph that looks the same as another patient's; they were joined into 5" in done.output
    )
    shared = pd.read_csv(tmp_path / "cv/copies.csv", dtype=str)
    assert list(shared["patient"]) == [str(number) for number in range(5)]
    assert list(shared["copy_patient"]) == [f"again{number}" for number in range(5)]
    for number in range(2):
        splits = pd.read_csv(tmp_path / f"cv/caches/fold{number}/manifest.csv").set_index("id")["split"]
        assert all(splits[f"{n}_left"] == splits[f"again{n}_left"] for n in range(5))
    (tmp_path / "cv/copies.csv").write_text("nonsense")
    assert "copies.csv is damaged; delete it" in invoke(*command, exit=1).stderr


def test_folds_that_an_earlier_version_drew_stay_as_they_are(make_cache: Callable[..., Path], tmp_path: Path) -> None:
    """It did not look for photographs that patients share, and its networks have seen what they have seen."""
    cache, folder = open_cache(write_cache_of_copies(make_cache)), tmp_path / "cv"
    drawn = fold_splits(cache.manifest, 2, 0)
    side = dict(zip(cache.manifest["id"], drawn[0], strict=True))
    assert any((side[f"{n}_left"] == "test") != (side[f"again{n}_left"] == "test") for n in range(5))
    for number, splits in enumerate(drawn):
        write_fold(cache, folder / f"caches/fold{number}", splits, f"fold {number} of 2")
    mark = {"cache": cache.digest, "folds": 2, "seed": 0, "test": False}
    (folder / "folds.json").write_text(json.dumps(mark))
    done = invoke("folds", "--folds", 2, "--cache", cache.path, *FAST, "--epochs", 1, "--run", folder)
    assert "were not kept together when these folds were drawn" in done.stderr
    assert "joined" not in done.output
    for number, splits in enumerate(drawn):
        assert open_cache(folder / f"caches/fold{number}").manifest["split"].tolist() == splits.tolist()
    assert len(pd.read_csv(folder / "predictions_oof.csv")) == 25
