import time
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from pipeline.grades import N_GRADES
from trainer.evaluation.metrics import predictions_table
from trainer.evaluation.results import assess
from trainer.evaluation.weighted_metrics import Sample
from trainer.network.decision import p_referable
from trainer.network.metadata import Operating


def drawn(n: int, seed: int, places: int = 1, shares: tuple[float, ...] = (0.2,) * 5) -> Sample:
    """Photographs of n/2 patients, two eyes each, with probabilities rounded to few `places`, so that many tie."""
    random = np.random.default_rng(seed)
    grades = random.choice(5, n, p=shares)
    probabilities = random.dirichlet(np.ones(5), n).round(places).astype(np.float32)
    ids = pd.Series([str(number) for number in range(n)])
    return Sample.of(predictions_table(ids, grades, probabilities), pd.Series([str(n // 2) for n in range(n)]))


@pytest.mark.parametrize("seed", range(4))
def test_a_weighting_is_measured_as_scikit_learn_measures_the_photographs_repeated(seed: int) -> None:
    sample = drawn(80, seed)
    weights = np.random.default_rng(seed).integers(0, 4, (40, 3)).astype(float)
    found = sample.figures(weights)
    for number in range(3):
        repeated = np.repeat(np.arange(80), weights[sample.patients, number].astype(int))
        grades, predicted, p = (each[repeated] for each in (sample.grades, sample.predicted, sample.probabilities))
        named = {name: values[number] for name, values in found.items()}
        assert named["accuracy"] == pytest.approx(accuracy_score(grades, predicted))
        assert named["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(grades, predicted))
        assert named["kappa"] == pytest.approx(cohen_kappa_score(grades, predicted, weights="quadratic"))
        assert named["sensitivity"] == pytest.approx(recall_score(grades >= 2, predicted >= 2))
        assert named["specificity"] == pytest.approx(recall_score(grades < 2, predicted < 2))
        assert named["referable_auc"] == pytest.approx(roc_auc_score(grades >= 2, p_referable(p)))
        assert named["auc"] == pytest.approx(roc_auc_score(np.eye(5)[grades], p, average="macro"))
        for grade in range(N_GRADES):
            has, given = grades == grade, predicted == grade
            assert named["sensitivity_by_grade"][grade] == pytest.approx(recall_score(has, given))
            assert named["specificity_by_grade"][grade] == pytest.approx(recall_score(~has, ~given))
            assert named["precision_by_grade"][grade] == pytest.approx(precision_score(has, given))
            assert named["auc_by_grade"][grade] == pytest.approx(roc_auc_score(has, p[:, grade]))


def test_where_all_probabilities_tie_the_auc_is_a_half() -> None:
    table = predictions_table(pd.Series(list("abcde")), np.arange(5), np.full((5, 5), 0.2, np.float32))
    sample = Sample.of(table)
    assert sample.figures(sample.equal_weights)["auc_by_grade"].tolist() == [[0.5] * 5]


def test_a_resample_without_a_grade_of_the_sample_has_no_mean_over_the_grades() -> None:
    sample = drawn(10, 0)
    sample = Sample(np.repeat(np.arange(5), 2), sample.predicted, sample.probabilities, sample.patients)
    lacking = np.array([[2.0], [1], [1], [1], [0]])  # no patient of grade 4
    found = sample.figures(np.concatenate([sample.equal_weights, lacking], axis=1))
    for name in ("balanced_accuracy", "auc"):
        assert np.isnan(found[name]).tolist() == [False, True]
    assert not np.isnan(found["accuracy"]).any()


def test_a_share_knows_how_many_patients_it_is_of() -> None:
    grades, predicted = np.array([0, 0, 0, 4, 2, 2]), np.array([0, 0, 1, 4, 4, 2])
    sample = Sample(grades, predicted, np.eye(5, dtype=np.float32)[predicted], np.array([0, 0, 1, 1, 2, 2]))
    found = sample.share_patients()
    assert found["accuracy"] == 3
    assert found["sensitivity"] == 2  # the second and third patient have an eye of grade 2 or worse
    assert found["specificity"] == 2
    assert found["sensitivity_by_grade"].tolist() == [2, 0, 1, 0, 1]
    assert found["precision_by_grade"].tolist() == [1, 1, 1, 0, 2]


@pytest.mark.slow
def test_two_thousand_rounds_over_the_usual_test_set_take_seconds_and_little_memory() -> None:
    n = 7026
    sample = drawn(n, 0, places=6, shares=(0.73, 0.07, 0.15, 0.03, 0.02))
    ids = pd.Series([f"{number // 2}_{number % 2}" for number in range(n)])
    table = predictions_table(ids, sample.grades, sample.probabilities)
    manifest = pd.DataFrame({"id": ids, "patient": ids.str.split("_").str[0], "grade": sample.grades, "split": "test"})
    point = Operating(1.0, 0.3, "sensitivity", 0.9)
    began = time.process_time()
    found = assess(manifest, "test", table, sample.probabilities, point, 0.1)
    assert time.process_time() - began < 10  # by photograph and by patient; it takes 3
    assert (found.patients, found.by_patient and found.by_patient.patients) == (3513, 3513)
    tracemalloc.start()
    assess(manifest, "test", table, sample.probabilities, point, 0.1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
