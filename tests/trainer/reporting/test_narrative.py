"""Each sentence of a report against figures that decide it."""

from dataclasses import replace

import pandas as pd
import pytest

from pipeline.cache.splits import Leak
from tests.trainer.recorded import NO_IMAGE, recorded
from trainer.config import FitConfig
from trainer.evaluation.calibration import Calibration
from trainer.reporting.narrative import (
    leak_statement,
    limits,
    objective,
    reading,
    scale_line,
    scaling,
    starting_point,
    variation,
    verdict,
)

TWO_GRADES = pd.DataFrame({"predicted": [0, 2]})


def known(unknown: int = 0, copies: int = 0) -> Leak:
    return Leak(tested=200, leaked=0, copies=copies, patient_unknown=unknown, photographs=1000)


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ([0.75, 0.85], "the network adds 10.0 points"),
        ([0.69, 0.85], "these photographs do not show a difference"),
        ([0.70, 0.85], "these photographs do not show a difference"),
        (None, "these photographs do not show a difference"),
    ],
)
def test_the_network_adds_something_only_where_the_interval_says_so(interval: list[float] | None, said: str) -> None:
    found = verdict(recorded(intervals={"accuracy": interval, "referable_auc": None}), TWO_GRADES)
    assert found[0].startswith("It gives 80.0 % of the photographs their grade.")
    assert "would score 70.0 %" in found[0]
    assert said in found[0]


def test_a_network_worse_than_no_image_is_called_so() -> None:
    worse = recorded(accuracy=0.5, intervals={"accuracy": [0.4, 0.6], "referable_auc": None})
    assert "the network loses 20.0 points against that" in verdict(worse, TWO_GRADES)[0]


def test_a_leak_is_measured_against_the_fellow_eye() -> None:
    no_image = NO_IMAGE | {"leaked": 160, "fellow_eye": {"accuracy": 0.847, "kappa": 0.8}}
    line = verdict(recorded(no_image=no_image), TWO_GRADES)[0]
    assert "the grade of the patient's other eye in train would score 84.7 %" in line
    assert "do not show a difference" in line
    leak = leak_statement("test", recorded(no_image=no_image), known())
    assert leak == (
        True,
        "LEAK: 160 of 200 test photographs (80%) show a patient who is also in train; the figures flatter.",
    )


@pytest.mark.parametrize(
    ("auc", "interval", "said"),
    [
        (0.9, [0.85, 0.95], "has the higher p(referable) in 90.0 % of cases"),
        (0.6, [0.5, 0.7], "not shown that the network tells referable photographs from others better than chance"),
        (0.6, None, "not shown that the network tells referable photographs from others better than chance"),
        (
            1.0,
            None,
            "ranks every referable photograph above all others. These are too few to say if that holds elsewhere",
        ),
        (None, None, "All of the photographs are referable"),
    ],
)
def test_referable_is_told_from_the_rest_only_where_the_interval_says_so(
    auc: float | None, interval: list[float] | None, said: str
) -> None:
    intervals = {"accuracy": [0.75, 0.85], "referable_auc": interval}
    assert said in verdict(recorded(referable_auc=auc, intervals=intervals), TWO_GRADES)[-1]


def test_one_grade_for_all_is_said_first() -> None:
    found = verdict(recorded(), pd.DataFrame({"predicted": [1, 1]}))
    assert found[0] == "It gives every photograph the same grade, 1 (mild)."


@pytest.mark.parametrize(
    ("split", "told", "alarm", "said"),
    [
        ("test", known(), False, "No leak: no patient of the 200 test photographs is in train."),
        ("test", known(unknown=1000), True, "The patients are not known, so a leak"),
        ("test", known(unknown=48), True, "the patients of 48 of 1,000 photographs of train and test are not known."),
        ("test", known(copies=13), True, "COPIES: 13 of 200 test photographs look like a photograph of train"),
        ("test", None, False, "is known to be in train"),
        ("train", known(), True, "trained on these very photographs"),
    ],
)
def test_what_is_known_of_leaks_is_said(split: str, told: Leak | None, alarm: bool, said: str) -> None:
    found = leak_statement(split, recorded(), told)
    assert found.alarm == alarm
    assert said in found.text


def test_limits_are_those_of_this_very_run() -> None:
    many = limits(recorded(), 0, known())
    assert not any("patients were measured" in line or "has no grade" in line for line in many)
    few = limits(recorded(patients=42, grades=[190, 10, 0, 0, 0]), 3, known())
    assert "Only 42 patients were measured: read the intervals before the figures." in few
    assert "No photograph measured was graded moderate or severe or proliferative: nothing is known about these." in few
    assert "3 photographs of the split have no grade and are left out." in few
    assert not any("The patients are not known" in line for line in few)


def test_patients_that_nothing_tells_are_not_counted() -> None:
    blind = limits(recorded(photographs=24, patients=24), 0, known(unknown=1000), unknown_patients=24)
    assert "Only 24 photographs were measured: read the intervals before the figures." in blind
    assert any("The patients are not known" in line for line in blind)
    assert not any("24 patients" in line for line in blind)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("none", "trained from scratch"),
        ("imagenet", "pretrained on ImageNet"),
        ("/data/weights/model.safetensors", "pretrained from model.safetensors"),
    ],
)
def test_how_training_began_shows_no_folder(weights: str, said: str) -> None:
    assert starting_point(weights) == said


def test_a_temperature_is_called_fitted_only_where_one_was() -> None:
    calibration = Calibration(1.25, 0.1, 0.5, 0.1, 0.5, {}, [])
    assert "the temperature, 1.250, was fitted on validation" in scaling(calibration, "validation")
    assert "fitted" not in scaling(replace(calibration, temperature=1.0), "validation")
    both = replace(calibration, temperature=1.0, temperature_with_fellow=2.0)
    assert (
        "the temperatures, 2.000 with the other eye and 1.000 alone, were fitted on out-of-fold probabilities"
        in scaling(both, "out-of-fold probabilities")
    )
    assert "fitted" not in scaling(replace(both, temperature_with_fellow=1.0), "validation")


def test_a_reader_learns_how_the_network_was_trained() -> None:
    plain, best = FitConfig(), FitConfig(loss="corn", label_smoothing=0.1, sampling="balanced", zoom=1.2, colour=0.15)
    assert variation(plain) == "any flip and turn of them"
    assert objective(plain) == "cross entropy, all photographs count alike"
    assert variation(best).endswith(
        "up to 1.2 times larger and smaller, brightness, contrast and saturation varied by up to 15%"
    )
    assert "CORN" in objective(best)
    assert "labels smoothed by 0.1" in objective(best)
    assert "as many of each grade" in objective(best)
    assert objective(FitConfig(sampling="fading")).endswith("from epoch to epoch less so, until all come once")
    assert "class weights effective" in objective(FitConfig(class_weights="effective"))
    assert variation(FitConfig(mixup=0.2, cutmix=1)).endswith("(mixup 0.2), rectangles pasted from others (cutmix 1)")


def test_a_reader_learns_how_probabilities_become_a_grade() -> None:
    assert reading(None, "validation") == "The predicted grade is the likeliest one."
    assert "cut at 0.61, 1.50, 2.40, 3.20: from validation" in reading((0.6123, 1.5, 2.4, 3.2), "validation")


def test_grades_of_another_scale_are_called_so() -> None:
    assert scale_line("icdr", True) == ""
    assert "figures of five grades say little" in scale_line("messidor", False)
    assert "read as those of ICDR" in scale_line("paraguay", True)
