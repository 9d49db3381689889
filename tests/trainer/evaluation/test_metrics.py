import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, cohen_kappa_score, recall_score, roc_auc_score

from trainer.evaluation.metrics import confusion, confusion_table, measure, only_grade, predictions_table, row_shares
from trainer.evaluation.weighted_metrics import Sample


def predictions(grades: list[int], predicted: list[int]) -> pd.DataFrame:
    """Predictions that are sure of the grade they give."""
    ids = pd.Series([f"{number}_left" for number in range(len(grades))])
    return predictions_table(ids, np.array(grades), np.eye(5, dtype=np.float32)[predicted])


def drawn(n: int, seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    ids = pd.Series([str(number) for number in range(n)])
    return predictions_table(ids, random.integers(0, 5, n), random.dirichlet(np.ones(5), n).astype(np.float32))


@pytest.mark.parametrize("seed", range(5))
def test_every_value_is_the_one_scikit_learn_gives(seed: int) -> None:
    table = drawn(60, seed)
    found = measure(Sample.of(table))
    grade, predicted = table["grade"], table["predicted"]
    assert found.accuracy == pytest.approx(accuracy_score(grade, predicted))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(grade, predicted))
    assert found.kappa == pytest.approx(cohen_kappa_score(grade, predicted, weights="quadratic"))
    one_hot = pd.get_dummies(grade).to_numpy()
    assert found.auc == pytest.approx(roc_auc_score(one_hot, table[["p0", "p1", "p2", "p3", "p4"]], average="macro"))
    assert found.sensitivity == pytest.approx(recall_score(grade >= 2, predicted >= 2))
    assert found.specificity == pytest.approx(recall_score(grade >= 2, predicted >= 2, pos_label=False))


def test_a_grade_that_is_absent_keeps_its_place_and_is_left_out_of_the_means() -> None:
    table = predictions([0, 0, 1, 2, 4, 4], [0, 1, 1, 2, 4, 3])
    counts = confusion(table)
    assert counts.shape == (5, 5)
    assert counts.sum(axis=1).tolist() == [2, 1, 1, 0, 2]
    found = measure(Sample.of(table))
    assert found.balanced_accuracy == (1 / 2 + 1 + 1 + 1 / 2) / 4
    assert found.auc_by_grade[3] is None
    assert found.auc == pytest.approx(np.mean([auc for auc in found.auc_by_grade if auc is not None]))


def test_an_absent_grade_is_an_empty_row_in_the_csv_and_the_others_sum_to_one() -> None:
    text = confusion_table(row_shares(confusion(predictions([0, 0, 4], [0, 1, 4])))).to_csv()
    assert text.splitlines() == [
        "grade,no DR,mild,moderate,severe,proliferative",
        "no DR,0.5,0.5,0.0,0.0,0.0",
        "mild,,,,,",
        "moderate,,,,,",
        "severe,,,,,",
        "proliferative,0.0,0.0,0.0,0.0,1.0",
    ]


@pytest.mark.parametrize(
    ("grades", "predicted", "sensitivity", "specificity"),
    [
        ([0, 0, 0], [0, 0, 0], None, 1.0),
        ([0, 0, 0, 0], [0, 3, 0, 0], None, 0.75),
        ([4, 4], [0, 2], 0.5, None),
        ([3], [3], 1.0, None),  # one photograph
    ],
)
def test_a_split_of_one_grade_has_stated_values_and_no_nan(
    grades: list[int], predicted: list[int], sensitivity: float | None, specificity: float | None
) -> None:
    found = measure(Sample.of(predictions(grades, predicted)))
    assert (found.kappa, found.auc) == (0, None)
    assert (found.sensitivity, found.specificity) == (sensitivity, specificity)
    json.dumps(asdict(found), allow_nan=False)


def test_photographs_without_a_grade_are_not_measured() -> None:
    assert measure(Sample.of(predictions([0, 2, -1], [0, 1, 4]))).photographs == 2
    with pytest.raises(ValueError, match="none of the photographs has a grade"):
        Sample.of(predictions([-1, -1], [0, 0]))


def test_one_grade_for_every_photograph_is_noticed() -> None:
    assert only_grade(predictions([0, 1, 2], [2, 2, 2])) == 2
    assert only_grade(predictions([0, 1, 2], [2, 2, 1])) is None
