"""The predicted grade, from probabilities: the cuts against an exhaustive search and scikit-learn's kappa."""

from itertools import combinations_with_replacement

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from trainer.evaluation.ordinal_thresholds import ABOVE, best_ordinal_thresholds, fit_ordinal_thresholds
from trainer.network.decision import expected_grades, predicted_grades


def kappa(grades: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None) -> float:
    return float(cohen_kappa_score(grades, predicted, labels=range(5), weights="quadratic", sample_weight=weights))


def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, 5) that know something of the grades (n,), most of them 0, and grades."""
    random = np.random.default_rng(seed)
    grades = random.choice(5, n, p=[0.55, 0.15, 0.15, 0.1, 0.05])
    powers = np.exp(-((grades[:, None] + random.normal(0, 1, (n, 1)) - np.arange(5)) ** 2) / 2)
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32), grades


def test_an_expected_grade_is_the_mean_and_cuts_read_it() -> None:
    p = np.array([[1, 0, 0, 0, 0], [0.5, 0, 0.5, 0, 0], [0, 0, 0, 0.25, 0.75], [0, 0.5, 0, 0.5, 0]], np.float32)
    assert expected_grades(p).tolist() == [0, 1, 3.75, 2]
    assert predicted_grades(p, None).tolist() == [0, 0, 4, 1]  # of equally likely grades the lowest
    assert predicted_grades(p, (1.0, 1.5, 2.5, 3.5)).tolist() == [0, 1, 4, 2]  # a cut belongs to the grade above it
    assert predicted_grades(p, (0.5, 0.5, 2.5, ABOVE)).tolist() == [0, 2, 3, 2]


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 8))])
def test_no_other_cuts_have_a_larger_kappa(seed: int) -> None:
    p, grades = drawn(14, seed)
    expected = expected_grades(p).round(1)  # photographs that tie cannot be cut apart
    weights = np.random.default_rng(seed).integers(0, 3, len(grades)).astype(float)
    places = np.concatenate([[0], (np.unique(expected)[1:] + np.unique(expected)[:-1]) / 2, [ABOVE]])
    of_all = [
        kappa(grades, np.searchsorted(thresholds, expected, side="right"), weights)
        for thresholds in combinations_with_replacement(places, 4)
    ]
    found = best_ordinal_thresholds(expected, grades, weights)
    assert (np.diff(found) >= 0).all()
    best = kappa(grades, np.searchsorted(found, expected, side="right"), weights)
    assert best == pytest.approx(np.nanmax(of_all), abs=1e-12)


def test_cuts_from_validation_raise_kappa_on_other_photographs() -> None:
    p, grades = drawn(4000, 0)
    val, test = slice(0, 1000), slice(1000, None)
    thresholds = fit_ordinal_thresholds(p[val], grades[val], np.arange(1000))
    before, after = (kappa(grades[test], predicted_grades(p[test], each)) for each in (None, thresholds))
    assert after > before + 0.01
    assert thresholds == fit_ordinal_thresholds(
        p[val], grades[val], np.arange(1000)
    )  # the same photographs, the same cuts


def test_of_a_patient_both_eyes_are_drawn_or_none() -> None:
    p, grades = drawn(60, 1)
    once = fit_ordinal_thresholds(p, grades, np.arange(60))
    doubled = fit_ordinal_thresholds(p.repeat(2, axis=0), grades.repeat(2), np.arange(60).repeat(2))
    assert doubled == once


def test_one_grade_alone_says_nowhere_to_cut() -> None:
    p, _ = drawn(20, 0)
    assert fit_ordinal_thresholds(p, np.zeros(20, np.int64), np.arange(20)) is None
    grades = np.zeros(20, np.int64)
    grades[0] = 3
    assert fit_ordinal_thresholds(p, grades, np.arange(20)) is not None  # the resamples that have both
