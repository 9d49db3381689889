import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from PIL import Image

from pipeline.metrics import confusion_counts
from tests.conftest import write_cache
from tests.trainer.conftest import Trained, invoke
from trainer.network.metadata import read_metadata
from trainer.network.model import load_model, save_model
from trainer.reporting.drawings import draw_accuracy, draw_confusion
from trainer.run_folder import ACCURACY_COLUMNS

Fit = Callable[..., Result]
Cache = Callable[..., Path]


def test_evaluate_says_again_what_fit_found(trained: Trained) -> None:
    run = trained.copy(Path(trained.run.parent.name) / "run")  # figures name the folder above too
    before = {file.name: file.read_bytes() for file in run.glob("*_test*")}
    for file in run.glob("*_test*"):
        file.unlink()
    invoke("evaluate", run, rendered=True)
    assert {file.name: file.read_bytes() for file in run.glob("*_test*")} == before


def test_drawn_eyes_are_said_to_be_drawn_once_a_command(fit: Fit, tmp_path: Path) -> None:
    grades = {f"{split}{n}_left": n for split in ("train", "val", "test") for n in range(5)}
    pictures = {id: np.full((32, 32, 3), 50 * grade, np.uint8) for id, grade in grades.items()}
    splits = {id: id[:-6] for id in grades}
    for name, drawn in (("drawn", splits), ("real", {})):
        flags = dict.fromkeys(drawn, "synthetic")
        write_cache(tmp_path / name, pictures, grades, splits, flags=flags)
    which = "5 of 5 train, 5 of 5 val, 5 of 5 test photographs are no photographs of eyes"
    line = f"WARNING: SYNTHETIC: {which}: `tools phantom` drew them, or painted lesions on them."
    for said in (fit("drawn", "--run", "run", "--epochs", 1), invoke("evaluate", "run", "--json")):
        assert said.stderr.count("SYNTHETIC") == 1
        assert f"{line} The figures say nothing of real eyes.\n" in said.stderr
    assert "SYNTHETIC" not in fit("real", "--run", "real_run", "--epochs", 1).stderr
    said = invoke("evaluate", "real_run", "--cache", "drawn").stderr
    assert "WARNING: drawn: SYNTHETIC: 15 of 15 photographs are no photographs of eyes" in said


def test_a_run_measured_over_eight_views_is_evaluated_so_unless_told_otherwise(
    fit: Fit, trainer: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    predictions = tmp_path / "run" / "predictions_test.csv"
    fit(tiny_cache(), "--run", "run", "--epochs", 1, "--tta")
    first = predictions.read_bytes()
    trainer("evaluate", "run", "--no-tta")
    assert predictions.read_bytes() != first
    trainer("evaluate", "run")
    assert predictions.read_bytes() == first


@pytest.mark.parametrize(
    "export",
    [
        (),
        pytest.param(("--pt2", "model.pt2"), marks=pytest.mark.slow),
        pytest.param(("--onnx", "model.onnx"), marks=pytest.mark.slow),
    ],
)
def test_predict_and_export_use_weights_as_they_were_measured(
    export: tuple[str, ...], fit: Fit, trainer: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    fit(tiny_cache(), "--run", "run", "--epochs", 1, "--tta")
    trainer("predict", "run", "cache")
    p = ["p0", "p1", "p2", "p3", "p4"]
    measured = pd.read_csv(tmp_path / "run" / "predictions_test.csv").set_index("id")[p]
    predicted = pd.read_csv(tmp_path / "predictions.csv").set_index("id")[p]
    np.testing.assert_allclose(predicted.loc[measured.index], measured, atol=1e-6)
    trainer("predict", "run", "cache", "--no-tta")
    assert np.abs(pd.read_csv(tmp_path / "predictions.csv").set_index("id")[p] - predicted).to_numpy().max() > 1e-4
    assert "views            8" in trainer("show", "run").output
    if export:
        pytest.importorskip("onnxscript")
        assert "from PyTorch" in trainer("export", "run", *export).output


def test_the_expected_grade_cut_as_validation_says_is_what_every_command_predicts(
    fit: Fit, trainer: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    cache = tiny_cache(val=[0, 1, 2, 3, 4, 0, 2, 0], test=[0, 1, 2, 3, 4, 2])
    fit(cache, "--run", "run", "--epochs", 1, "--grade-by", "expected")
    ordinal_thresholds = read_metadata(tmp_path / "run" / "model.safetensors").ordinal_thresholds
    assert ordinal_thresholds is not None
    assert len(ordinal_thresholds) == 4
    measured = pd.read_csv(tmp_path / "run" / "predictions_test.csv").set_index("id")
    mean = measured[["p1", "p2", "p3", "p4"]].to_numpy() @ [1, 2, 3, 4]
    assert measured["predicted"].tolist() == [sum(cut <= each for cut in ordinal_thresholds) for each in mean]
    before = (tmp_path / "run" / "metrics_test.json").read_bytes()
    trainer("evaluate", "run")
    assert (tmp_path / "run" / "metrics_test.json").read_bytes() == before
    trainer("predict", "run", "cache")
    predicted = pd.read_csv(tmp_path / "predictions.csv").set_index("id")["predicted"]
    assert predicted.loc[measured.index].tolist() == measured["predicted"].tolist()
    assert f"the expected one, cut at {ordinal_thresholds[0]:g}, " in trainer("show", "run").output
    trainer("report", "run")
    assert "The predicted grade is the expected one" in (tmp_path / "run" / "report.html").read_text()


def test_where_validation_has_one_grade_the_likeliest_is_predicted(fit: Fit, tiny_cache: Cache, tmp_path: Path) -> None:
    result = fit(tiny_cache(val=[0, 0, 0]), "--run", "run", "--epochs", 1, "--grade-by", "expected")
    assert "validation has only one grade, so no limits between grades can be chosen" in result.stderr
    assert read_metadata(tmp_path / "run" / "model.safetensors").ordinal_thresholds is None


def test_evaluate_measures_any_split(trained: Trained, trainer: Fit) -> None:
    run = trained.copy("run")
    trainer("evaluate", "run", "--split", "train")
    assert len(pd.read_csv(run / "predictions_train.csv")) == 20


def test_a_photograph_without_a_grade_is_predicted_and_not_measured(
    fit: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    result = fit(tiny_cache(test=[0, 4, -1]), "--run", "run", "--epochs", 1)
    assert "1 of 3 photographs of test have no grade; the metrics leave them out" in result.stderr
    assert json.loads((tmp_path / "run" / "metrics_test.json").read_text())["photographs"] == 2
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
    draw_accuracy(tmp_path / "accuracy.png", pd.DataFrame([row]), title="one epoch", kept=1, majority=None)
    for name in ("confusion.png", "accuracy.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 1000


def read(run: Path | str, split: str = "test") -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((Path(run) / f"metrics_{split}.json").read_text())
    return fields


def test_the_weights_carry_what_validation_chose_and_probabilities_are_calibrated(trained: Trained) -> None:
    point = read_metadata(trained.run / "model.safetensors").operating
    assert point is not None
    metrics = read(trained.run)
    assert metrics["calibration"]["temperature"] == point.temperature
    assert metrics["operating"]["threshold"] == point.threshold
    val = pd.read_csv(trained.run / "predictions_val.csv")
    referred = val[["p2", "p3", "p4"]].sum(axis=1) >= point.threshold
    assert referred[val["grade"] >= 2].mean() >= 0.9
    assert read(trained.run, "val")["operating"]["sensitivity"] == referred[val["grade"] >= 2].mean()


def test_another_sensitivity_or_specificity_is_chosen_on_validation(trained: Trained, trainer: Fit) -> None:
    run = trained.copy("run")
    weights = (run / "model.safetensors").read_bytes()
    output = trainer("evaluate", "run", "--specificity", 1, "--prevalence", 0.1).output
    assert "threshold chosen for specificity 100.0 %" in output
    assert "PPV at a prevalence of 10.0 %" in output
    card = read(run)["operating"]
    assert (card["wanted"], card["level"], card["at_prevalence"]["prevalence"]) == ("specificity", 1, 0.1)
    val = pd.read_csv(run / "predictions_val.csv")
    healthy = val.loc[val["grade"] < 2, ["p2", "p3", "p4"]].sum(axis=1)
    assert (healthy < card["threshold"]).all()
    assert (run / "model.safetensors").read_bytes() == weights
    trainer("evaluate", "run", "--sensitivity", 0.9)
    assert read(run) == read(trained.run)


def test_json_is_the_metrics_file_and_nothing_else(trained: Trained, trainer: Fit) -> None:
    trained.copy("run")
    assert json.loads(trainer("evaluate", "run", "--json").stdout) == read("run")


def test_by_patient_the_worse_eyes_figures_are_printed_too(fit: Fit, trainer: Fit, make_cache: Cache) -> None:
    random = np.random.default_rng(0)
    ids = [f"{patient}_{eye}" for patient in range(10) for eye in ("left", "right")]
    pictures = {id: random.integers(0, 255, (32, 32, 3), np.uint8) for id in ids}
    splits = {id: "train" if n < 8 else "val" if n < 12 else "test" for n, id in enumerate(ids)}
    cache = make_cache(pictures, {id: n % 5 for n, id in enumerate(ids)}, splits)
    fit(cache, "--run", "run", "--epochs", 1)
    header, photographs, patients = trainer("evaluate", "run", "--by", "patient").stdout.splitlines()[:3]
    assert header.split("  ")[0] == "95 % intervals by patients"
    assert header.endswith("test, by patient")
    assert photographs.split() == ["photographs", "8"]
    assert patients.split() == ["patients", "4", "4"]
    assert read("run")["patient"]["grades"] == [0, 0, 1, 1, 2]  # the worse one of 2 3, 4 0, 1 2, 3 4
    assert read("run")["patient"]["no_image"] is not None


def test_without_fellow_eyes_by_patient_says_so(trained: Trained, trainer: Fit) -> None:
    trained.copy("run")
    assert "no patient has two graded photographs of test" in trainer("evaluate", "run", "--by", "patient").stderr


def test_weights_of_an_unfinished_run_are_measured_as_they_are(trained: Trained, trainer: Fit) -> None:
    run = trained.copy("run")
    model, metadata = load_model(run / "model.safetensors")
    save_model(run / "model.safetensors", model, replace(metadata, operating=None))
    assert "carries no operating point" in trainer("evaluate", "run").stderr
    assert read(run)["operating"] is None
    assert read(run)["calibration"]["temperature"] == 1
    trainer("evaluate", "run", "--split", "val")
    trainer("evaluate", "run", "--sensitivity", 0.8)
    assert read(run)["operating"]["level"] == 0.8


def test_a_point_cannot_be_chosen_on_missing_damaged_or_other_predictions(trained: Trained, trainer: Fit) -> None:
    run = trained.copy("run")
    wish = ("evaluate", "run", "--sensitivity", 0.8)
    (run / "metrics_val.json").write_text(json.dumps(read(run, "val") | {"cache": "another"}))  # an earlier version's
    assert "metrics_val.json is about another cache" in trainer(*wish, exit=1).stderr
    trainer("evaluate", "run", "--split", "val")
    trainer(*wish)
    (run / "predictions_val.csv").write_text("id,grade\n1,2\n")
    assert "predictions_val.csv is damaged" in trainer(*wish, exit=1).stderr
    (run / "predictions_val.csv").unlink()
    assert "predictions_val.csv is missing; `trainer evaluate run --split val` writes it" in (
        trainer(*wish, exit=1).stderr
    )


def test_sensitivity_and_specificity_exclude_each_other(trained: Trained, trainer: Fit) -> None:
    refused = trainer("evaluate", trained.run, "--sensitivity", 0.9, "--specificity", 0.9, exit=2)
    assert "give one" in refused.stderr


@pytest.mark.parametrize("option", ["--sensitivity", "--specificity", "--prevalence"])
@pytest.mark.parametrize("value", ["nan", "-0.1", "1.1", "inf", "much"])
def test_a_share_lies_between_0_and_1(option: str, value: str, trained: Trained, trainer: Fit) -> None:
    assert f"Invalid value for '{option}'" in trainer("evaluate", trained.run, option, value, exit=2).stderr
