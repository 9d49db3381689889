"""Grades worth a second look: what networks contradict comes first, and swapped grades are found by it."""

import numpy as np
import pandas as pd
import pytest

from trainer.evaluation.out_of_fold import CrossValidation, Fold, OutOfFold
from trainer.evaluation.second_look import COLUMNS, distances, second_look

P = ["p0", "p1", "p2", "p3", "p4"]


def validated(ids: list[str], grades: list[int], *seeds: list[list[float]]) -> CrossValidation:
    """One fold; each of `seeds` has the five probabilities of each photograph."""

    def trained(probabilities: list[list[float]]) -> OutOfFold:
        p = np.array(probabilities, np.float32)
        table = pd.DataFrame({"id": ids, "grade": grades, "predicted": p.argmax(axis=1)})
        return OutOfFold([Fold(table.assign(**dict(zip(P, p.T, strict=True))), pd.Series(ids), None)])

    return CrossValidation({seed: trained(each) for seed, each in enumerate(seeds)})


def manifest(ids: list[str], grades: list[int]) -> pd.DataFrame:
    """Of ids such as 17_left."""
    parts = [id.split("_") for id in ids]
    table = {"patient": [patient for patient, _ in parts], "eye": [eye for _, eye in parts]}
    return pd.DataFrame({"id": ids, **table, "grade": grades, "split": "train"})


def test_the_distance_is_how_far_the_expected_grade_is_from_the_given_one() -> None:
    p = np.array([[0.7, 0.2, 0.1, 0, 0], [0.7, 0.2, 0.1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]])
    assert distances(np.array([0, 4, 0, 4]), p) == pytest.approx([0.2 + 2 * 0.1, 4 * 0.7 + 3 * 0.2 + 2 * 0.1, 4, 0])


def test_what_is_contradicted_most_comes_first_and_what_is_not_does_not_come() -> None:
    ids, grades = ["1_left", "1_right", "2_left", "3_left"], [0, 4, 1, 2]
    p = [[0.75, 0.25, 0, 0, 0], [1, 0, 0, 0, 0], [0.5, 0.25, 0.25, 0, 0], [0.625, 0, 0.375, 0, 0]]
    found = second_look(validated(ids, grades, p), manifest(ids, grades))
    assert list(found.columns) == list(COLUMNS)
    assert list(found["id"]) == ["1_right", "3_left", "2_left"]
    assert list(found["rank"]) == [1, 2, 3]
    assert list(found["likeliest"]) == [0, 0, 0]
    assert list(found["distance"]) == [4, 2 * 0.625, 0.5 + 0.25]
    assert list(found["p_grade"]) == [0, 0.375, 0.25]
    assert list(found["p_likeliest"]) == [1, 0.625, 0.5]


def test_the_fellow_eye_may_have_the_grade_that_the_network_sees() -> None:
    ids, grades = ["1_left", "1_right", "2_left", "2_right", "3_left", "4_left", "4_right"], [4, 0, 4, 3, 4, 4, -1]
    p = [[0.9, 0.1, 0, 0, 0] if grade == 4 else [0.2 * (k == 0) + 0.8 * (k == grade) for k in range(5)]
         for grade in grades[:6]]  # fmt: skip
    p[1] = [1, 0, 0, 0, 0]
    found = second_look(validated(ids[:6], grades[:6], p), manifest(ids, grades)).set_index("id")
    agrees = found["fellow_eye_agrees"]
    assert (agrees["1_left"], agrees["2_left"]) == (1, 0)
    assert agrees[["3_left", "4_left"]].isna().all()  # no fellow eye, and one without a grade


def test_several_seeds_are_averaged() -> None:
    ids, grades = ["1_left"], [0]
    likely, unlikely, never = [0.75, 0.25, 0, 0, 0], [0.25, 0.75, 0, 0, 0], [0, 1, 0, 0, 0]
    assert second_look(validated(ids, grades, [likely], [unlikely]), manifest(ids, grades)).empty  # a tie is none
    found = second_look(validated(ids, grades, [likely], [never]), manifest(ids, grades))
    assert found.loc[0, ["p_grade", "p_likeliest", "distance"]].tolist() == [0.375, 0.625, 0.625]


def test_swapped_grades_are_found_among_the_first() -> None:
    """1,000 photographs as a network of an accuracy of 92 % sees them, 5 % of whose grades are swapped."""
    random = np.random.default_rng(0)
    truth = random.choice(5, 1000, p=[0.5, 0.1, 0.2, 0.1, 0.1])
    logits = 2.5 * -np.abs(truth[:, None] - np.arange(5)) + random.normal(0, 1.1, (1000, 5))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert 0.85 < (p.argmax(axis=1) == truth).mean() < 0.95
    swapped = random.choice(1000, 50, replace=False)
    grades = truth.copy()
    grades[swapped] = (grades[swapped] + random.integers(1, 5, 50)) % 5
    ids = [f"{number}_left" for number in range(1000)]
    found = second_look(validated(ids, grades.tolist(), p.tolist()), manifest(ids, grades.tolist()))
    assert np.isin(found["id"].head(50), np.array(ids)[swapped]).mean() >= 0.7
