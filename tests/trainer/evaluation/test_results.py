import json

import numpy as np
import pandas as pd
import pytest

from pipeline.cache.splits import patients_of
from trainer.evaluation.metrics import predictions_table
from trainer.evaluation.results import Results, assess, worse_eyes
from trainer.kinds import PROBABILITIES
from trainer.network.metadata import Operating

POINT = Operating(1.0, 0.5, "sensitivity", 0.9)


def manifest(ids: list[str], grades: list[int], split: str = "test") -> pd.DataFrame:
    patients = [id.rpartition("_")[0] for id in ids]
    return pd.DataFrame({"id": ids, "patient": patients, "grade": grades, "split": split, "flags": ""})


def assessed(ids: list[str], grades: list[int], predicted: list[int], operating: Operating | None = POINT) -> Results:
    """Of predictions that are sure of the grade they give."""
    table = manifest(ids, grades)
    p = np.eye(5, dtype=np.float32)[predicted]
    return assess(table, "test", predictions_table(table["id"], np.array(grades), p), p, operating, 0.1)


def test_the_worse_eye_decides_on_both_sides() -> None:
    found = assessed(["1_left", "1_right", "2_left", "2_right"], [0, 3, 1, 0], [3, 0, 0, 0])
    assert found.metrics.accuracy == 0.25
    by_patient = found.by_patient
    assert by_patient is not None
    assert by_patient.metrics.photographs == by_patient.patients == 2
    assert by_patient.metrics.grades == (0, 1, 0, 1, 0)
    assert by_patient.metrics.accuracy == 0.5  # the first patient is given 3 and has it, the second 0 and has 1
    assert by_patient.metrics.sensitivity == 1
    assert by_patient.operating is not None
    assert by_patient.operating.sensitivity == 1


def test_a_patient_is_as_likely_to_be_at_a_grade_or_worse_as_the_likelier_eye() -> None:
    eyes = np.array([[0.5, 0.1, 0.1, 0.1, 0.2], [0.2, 0.6, 0.1, 0.1, 0.0], [0.1, 0.2, 0.3, 0.2, 0.2]], np.float32)
    table = predictions_table(pd.Series(["1_l", "1_r", "2_l"]), np.array([0, 1, 2]), eyes)
    found = worse_eyes(table, pd.Series(["1", "1", "2"]))
    # at 1 or worse 0.5 and 0.8, 2 or worse 0.4 and 0.2, 3 or worse 0.3 and 0.1, 4 0.2 and 0
    assert found[list(PROBABILITIES)].to_numpy() == pytest.approx(
        np.array([[0.2, 0.4, 0.1, 0.1, 0.2], [0.1, 0.2, 0.3, 0.2, 0.2]]), abs=1e-6
    )
    assert found["id"].tolist() == ["1", "2"]
    assert found["predicted"].tolist() == [1, 2]


def test_an_ungraded_eye_is_left_out_and_the_other_one_counts() -> None:
    found = assessed(["1_left", "1_right", "2_left", "2_right"], [0, -1, 2, 2], [0, 4, 2, 2])
    assert (found.metrics.photographs, found.patients) == (3, 2)
    assert found.by_patient is not None
    assert found.by_patient.metrics.accuracy == 1


def test_where_no_patient_has_two_photographs_there_is_nothing_by_patient() -> None:
    assert assessed(["1_left", "2_left", "3_right"], [0, 1, 2], [0, 1, 2]).by_patient is None


def test_a_photograph_of_nobody_knows_whom_is_a_patient_of_its_own() -> None:
    table = pd.DataFrame({"id": ["a", "b", "c"], "patient": ["", "", "p"]})
    assert patients_of(table, pd.Series(["c", "b", "a"])).tolist() == ["p", "b", "a"]


def test_eyes_that_are_alike_widen_the_interval() -> None:
    random = np.random.default_rng(0)
    predicted = np.repeat(random.integers(0, 5, 100), 2)  # both eyes of a patient get one grade
    grades = np.repeat(random.integers(0, 5, 100), 2)
    eyes = assessed([f"{n // 2}_{n}" for n in range(200)], grades.tolist(), predicted.tolist())
    strangers = assessed([f"{n}_left" for n in range(200)], grades.tolist(), predicted.tolist())
    assert eyes.metrics == strangers.metrics
    widths = [each.intervals["accuracy"][1] - each.intervals["accuracy"][0] for each in (eyes, strangers)]
    assert widths[0] / widths[1] == pytest.approx(2**0.5, rel=0.1)  # half as many patients as photographs


@pytest.mark.parametrize(
    ("grades", "predicted"),
    [
        ([3], [3]),
        ([0], [4]),
        ([0] * 6, [0] * 6),
        ([2] * 6, [0] * 6),
        ([0, 4] * 3, [1] * 6),
        ([0, 0, 1, -1], [0, 1, 1, 2]),
    ],
)
@pytest.mark.parametrize("operating", [POINT, None])
def test_the_barest_splits_have_stated_results_and_no_nan(
    grades: list[int], predicted: list[int], operating: Operating | None
) -> None:
    found = assessed([f"{n}_left" for n in range(len(grades))], grades, predicted, operating)
    text = json.dumps(found.as_dict(), allow_nan=False)
    fields = json.loads(text)
    assert set(fields) == {
        "photographs", "patients", "grades", "accuracy", "balanced_accuracy", "kappa", "auc", "auc_by_grade",
        "sensitivity", "specificity", "sensitivity_by_grade", "specificity_by_grade", "precision_by_grade",
        "referable_auc", "intervals", "operating", "deferral", "ungradable_referral", "calibration", "referable",
        "no_image", "patient", "eye",
    }  # fmt: skip
    for name, interval in fields["intervals"].items():
        values = fields[name] if isinstance(fields[name], list) else [fields[name]]
        limits = interval if isinstance(fields[name], list) else [interval]
        assert all(value is not None or none is None for value, none in zip(values, limits, strict=True)), name
        assert all(each is None or each[0] <= value <= each[1] for value, each in zip(values, limits, strict=True))
    assert (fields["operating"] is None) == (operating is None)


def test_one_photograph_does_not_make_a_certainty() -> None:
    found = assessed(["1_left"], [3], [3])
    assert found.metrics.accuracy == 1
    assert found.intervals["accuracy"] == (pytest.approx(0.025), 1)
    assert found.intervals["specificity"] is None
    assert found.metrics.auc is None
