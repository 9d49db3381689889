import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from PIL import Image

from tests.trainer.conftest import Trained
from trainer.evaluation.bootstrap import Resamples, interval
from trainer.evaluation.paired import pair
from trainer.evaluation.weighted_metrics import Sample
from trainer.run_folder import RunFolder

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


def test_runs_whose_folders_share_a_name_are_told_apart_by_their_paths(
    trained: Trained, trainer: Fit, tmp_path: Path
) -> None:
    for name in ("x/run", "y/run", "other"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        trained.copy(name)
    trainer("compare", "x/run", "y/run", "other")
    assert pd.read_csv("compare.csv")["run"].tolist() == ["x/run", "y/run", "other"]
    pairs = pd.read_csv("compare_pairs.csv")
    assert pairs["run"].unique().tolist() == ["y/run", "other"]
    assert pairs["against"].unique().tolist() == ["x/run"]
    drawn = Path("compare.svg").read_text()
    assert all(f"<!-- {name}, from scratch -->" in drawn for name in ("x/run", "y/run", "other"))


@pytest.mark.parametrize(
    ("out", "said"), [(".", "a folder; name a file in it"), ("run/config.json/all", "is a file and no folder")]
)
def test_a_comparison_that_cannot_be_written_is_one_line(out: str, said: str, trained: Trained, trainer: Fit) -> None:
    trained.copy("run")
    stderr = trainer("compare", "run", "--out", out, exit=1).stderr
    assert stderr.count("\n") == 1
    assert said in stderr


def write_predictions(run: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = run / "predictions_test.csv"
    change(pd.read_csv(path, dtype={"id": str})).to_csv(path, index=False)


def test_two_runs_on_the_same_photographs_are_paired(trained: Trained, fit: Fit, trainer: Fit) -> None:
    trained.copy("a")
    fit(trained.cache, "--run", "b", "--seed", 1)
    write_predictions(Path("b"), lambda table: table.sample(frac=1, random_state=0))  # the order does not matter
    output = trainer("compare", "a", "b", "--out", "both").output
    assert "differences on the same test photographs" in output
    table = pd.read_csv("both_pairs.csv")
    assert table["figure"].tolist() == ["accuracy", "kappa", "auc"]
    metrics = {name: json.loads(Path(name, "metrics_test.json").read_text()) for name in "ab"}
    for row in table.itertuples():
        assert (row.run, row.against, row.photographs, row.patients) == ("b", "a", 5, 5)
        assert row.difference == pytest.approx(metrics["b"][row.figure] - metrics["a"][row.figure])


def test_the_better_run_is_found_and_a_run_does_not_differ_from_itself(trained: Trained, tmp_path: Path) -> None:
    right, wrong = (RunFolder(trained.copy(tmp_path / name)) for name in ("right", "wrong"))
    for run, shift in ((right, 0), (wrong, 1)):

        def predict(table: pd.DataFrame, shift: int = shift) -> pd.DataFrame:
            given = (table["grade"] + shift) % 5
            return table.assign(predicted=given, **{f"p{g}": (given == g).astype(float) for g in range(5)})

        write_predictions(run.path, predict)
    accuracy, kappa, _ = pair(right, wrong)
    assert (accuracy.value, accuracy.value_against, accuracy.difference) == (1, 0, 1)
    assert accuracy.p == pytest.approx(2 / 2001)  # the least that 2,000 rounds can show
    assert kappa.interval is not None
    assert kappa.interval[0] > 0
    same = pair(right, right)
    assert [(each.difference, each.interval, each.p) for each in same] == [(0, None, 1)] * 3


def test_the_interval_of_a_difference_is_narrower_than_the_runs_intervals_allow() -> None:
    """Two runs of 300 eyes that err on the same ones but for a few: resampled together, what is hard cancels."""
    random = np.random.default_rng(0)
    grades = random.integers(0, 5, 300)
    one = np.where(random.random(300) < 0.6, grades, (grades + 1) % 5)
    other = np.where(random.random(300) < 0.95, one, grades)  # a little better

    def sample(predicted: np.ndarray) -> Sample:
        return Sample(grades, predicted, np.eye(5, dtype=np.float32)[predicted], np.arange(300) // 2)

    def difference(weights: np.ndarray) -> dict[str, np.ndarray]:
        a, b = (sample(each).figures(weights)["accuracy"] for each in (one, other))
        return {"paired": b - a, "one": a, "other": b}

    rounds = Resamples(150).figures(difference)
    paired = interval(1, rounds["paired"])
    assert paired is not None
    alone = np.hypot(rounds["one"].std(), rounds["other"].std())
    assert (paired[1] - paired[0]) / 3.92 < alone / 2
    # Each eye contributes its own difference, so by arithmetic the deviation is that of the mean over patients.
    by_patient = ((other == grades).astype(float) - (one == grades)).reshape(150, 2).mean(axis=1)
    assert rounds["paired"].std() == pytest.approx(by_patient.std() / 150**0.5, rel=0.05)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda table: table.iloc[1:], "1 only in the second (test0_right ...)"),
        (
            lambda table: table.assign(id=["new", *table["id"][1:]]),
            "1 only in the first (new ...), 1 only in the second",
        ),
        (lambda table: table.assign(grade=[3, 3, *table["grade"][2:]]), "2 of another grade (test0_right ...)"),
        (lambda table: table.assign(grade=""), "5 of another grade"),
    ],
)
def test_runs_on_other_photographs_are_not_paired_and_it_says_how_they_differ(
    change: Callable[[pd.DataFrame], pd.DataFrame], reason: str, trained: Trained, trainer: Fit
) -> None:
    trained.copy("a")
    write_predictions(trained.copy("b"), change)
    result = trainer("compare", "a", "b")
    assert "b and a are not paired: they were measured on different test photographs" in result.stderr
    assert reason in result.stderr
    assert pd.read_csv("compare_pairs.csv").empty
    assert pd.read_csv("compare.csv")["run"].tolist() == ["a", "b"]


def test_runs_without_predictions_or_patients_are_not_paired(trained: Trained, trainer: Fit) -> None:
    for name in "abc":
        trained.copy(name)
    Path("b/predictions_test.csv").unlink()
    trained.cache.rename(trained.cache.with_name("elsewhere"))
    try:
        stderr = trainer("compare", "a", "b", "c").stderr
    finally:
        trained.cache.with_name("elsewhere").rename(trained.cache)
    assert "b/predictions_test.csv is missing; `trainer evaluate b --split test` writes it" in stderr
    assert "c and a are not paired: whose eyes these are is not known" in stderr


def test_intervals_and_the_majoritys_accuracy_stand_beside_a_runs(trained: Trained, trainer: Fit) -> None:
    trained.copy("a")
    header, row, units = trainer("compare", "a").stdout.splitlines()[:3]
    assert units == "accuracies are fractions, 0 to 1; in brackets 95 % intervals, resampled by patients"
    assert header.split() == [
        "run", "model", "weights", "size", "kept", "kappa_val", "accuracy_test", "majority", "kappa_test", "auc_test",
    ]  # fmt: skip
    metrics = json.loads(Path("a/metrics_test.json").read_text())
    low, high = metrics["intervals"]["accuracy"]
    assert f"{metrics['accuracy']:.3f} ({low:.3f}-{high:.3f})" in row
    table = pd.read_csv("compare.csv")
    assert table["majority_test"][0] == 0.2
    assert table[["accuracy_test_low", "accuracy_test_high"]].to_numpy()[0] == pytest.approx([low, high])


def test_options_in_which_the_runs_differ_become_columns(trained: Trained, trainer: Fit) -> None:
    for name, changed in (("a", {}), ("b", {"lr": 0.003, "tta": True}), ("c", {"seed": 7, "workers": 3})):
        run = trained.copy(name)
        config = json.loads((run / "config.json").read_text())
        config["resolved"] |= changed
        (run / "config.json").write_text(json.dumps(config))
    header, *rows = trainer("compare", "a", "b", "c").stdout.splitlines()[:4]
    assert header.split()[:8] == ["run", "model", "weights", "size", "--lr", "--tta", "--seed", "kept"]
    assert [row.split()[4:7] for row in rows] == [["0.01", "no", "0"], ["0.003", "yes", "0"], ["0.01", "no", "7"]]
    table = pd.read_csv("compare.csv")
    assert table["option_lr"].tolist() == [0.01, 0.003, 0.01]
    assert table["option_tta"].tolist() == [False, True, False]
    assert [name for name in table if name.startswith("option_")] == ["option_lr", "option_tta"]
    assert "--lr" not in trainer("compare", "a", "c").output


def test_runs_on_other_photographs_are_said_once(trained: Trained, trainer: Fit) -> None:
    trained.copy("a")
    for name in "bcd":
        write_predictions(trained.copy(name), lambda table: table.iloc[1:])
    write_predictions(Path("d"), lambda table: table.iloc[1:])
    stderr = trainer("compare", "a", "b", "c", "d").stderr
    (line,) = stderr.splitlines()
    assert line == (
        "WARNING: b, c, d and a are not paired: they were measured on different test photographs: b, c: 1 only in the "
        "second (test0_right ...); d: 2 only in the second (test0_right ...)"
    )
