"""Figures of cross-validation against scikit-learn and arithmetic written out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, confusion_matrix, roc_auc_score

from trainer.evaluation.out_of_fold import CrossValidation, Fold, OutOfFold


def fold(seed: int, shift: float, threshold: float | None = 0.5, count: int = 60) -> Fold:
    """A network whose scores lie `shift` above those of others: its ranks are as good, but not beside theirs."""
    random = np.random.default_rng(seed)
    grades = random.integers(0, 5, count)
    score = np.clip(0.1 + 0.15 * grades + random.normal(0, 0.1, count) + shift, 0.01, 0.99)
    p = np.zeros((count, 5), np.float32)
    p[:, 0], p[:, 2] = 1 - score, score
    predicted = np.where(score > 0.5 + shift, 2, 0)
    table = pd.DataFrame({"id": [f"{seed}-{n}" for n in range(count)], "grade": grades, "predicted": predicted})
    patients = pd.Series([f"p{n // 2}" for n in range(count)])  # the same names in each fold: other people
    return Fold(table.assign(**{f"p{k}": p[:, k] for k in range(5)}), patients, threshold)


def measured(folds: list[Fold]) -> dict[str, Any]:
    return CrossValidation({0: OutOfFold(folds)}).measure().as_dict()


@pytest.fixture
def folds() -> list[Fold]:
    return [fold(0, 0.0, 0.3), fold(1, 0.25, 0.55), fold(2, -0.1, 0.2)]


def test_counts_pool_the_decisions_of_each_folds_own_rule(folds: list[Fold]) -> None:
    found = measured(folds)
    table = pd.concat([each.predictions for each in folds])
    referred = np.concatenate([each.predictions["p2"] >= each.threshold for each in folds])
    truth = table["grade"] >= 2
    assert found["accuracy"] == pytest.approx(accuracy_score(table["grade"], table["predicted"]))
    assert found["kappa"] == pytest.approx(
        cohen_kappa_score(table["grade"], table["predicted"], weights="quadratic", labels=range(5))
    )
    tn, fp, fn, tp = confusion_matrix(truth, referred).ravel()
    assert found["referral"] == {
        "true_positive": tp, "false_positive": fp, "false_negative": fn, "true_negative": tn,
    }  # fmt: skip
    assert found["sensitivity"] == pytest.approx(tp / (tp + fn))
    assert found["specificity"] == pytest.approx(tn / (tn + fp))
    assert found["patients"] == 90
    assert found["photographs"] == 180


def test_areas_are_means_within_folds_and_the_pooled_one_is_named_so(folds: list[Fold]) -> None:
    found = measured(folds)
    own = [roc_auc_score(each.predictions["grade"] >= 2, each.predictions["p2"]) for each in folds]
    table = pd.concat([each.predictions for each in folds])
    assert found["referable_auc_within_folds"] == pytest.approx(np.mean(own), abs=1e-6)
    assert found["referable_auc_pooled"] == pytest.approx(roc_auc_score(table["grade"] >= 2, table["p2"]), abs=1e-6)
    assert found["referable_auc_pooled"] < found["referable_auc_within_folds"] - 0.02  # scores do not rank together
    assert found["spread"]["referable_auc"] == pytest.approx(np.std(own, ddof=1), abs=1e-6)
    assert [each["referable_auc"] for each in found["by_fold"]] == pytest.approx(own, abs=1e-6)


def test_patients_are_drawn_within_folds(folds: list[Fold]) -> None:
    together = OutOfFold(folds)
    found = CrossValidation({0: together}).measure().as_dict()
    for name in ("accuracy", "kappa", "referable_auc_within_folds", "sensitivity", "specificity"):
        low, high = found["intervals"][name]
        assert low < found[name] < high, name
    assert np.bincount(together.strata).tolist() == [30, 30, 30]


def test_a_fold_without_a_threshold_leaves_the_referral_out(folds: list[Fold]) -> None:
    found = measured([*folds[:2], fold(2, 0.0, None)])
    assert found["referral"] is None
    assert "sensitivity" not in found


def test_seeds_are_averaged_and_their_spread_stands_beside(folds: list[Fold]) -> None:
    other = [replace(each, predictions=each.predictions.assign(predicted=0)) for each in folds]
    found = CrossValidation({3: OutOfFold(folds), 7: OutOfFold(other)}).measure().as_dict()
    own, poor = measured(folds), measured(other)
    assert found["seeds"] == [3, 7]
    assert found["photographs"] == 180  # not twice as many
    for name in ("accuracy", "kappa", "sensitivity", "referable_auc_within_folds", "referable_auc_pooled"):
        assert found[name] == pytest.approx((own[name] + poor[name]) / 2), name
    assert found["referral"] == {name: own["referral"][name] + poor["referral"][name] for name in own["referral"]}
    assert [each["seed"] for each in found["by_seed"]] == [3, 7]
    assert found["by_seed"][1]["accuracy"] == poor["accuracy"]
    assert found["by_seed"][0]["by_fold"] == own["by_fold"]
    assert found["spread_over_seeds"]["accuracy"] == pytest.approx(abs(own["accuracy"] - poor["accuracy"]) / 2**0.5)
    assert found["by_fold"][0]["accuracy"] == pytest.approx(
        (own["by_fold"][0]["accuracy"] + poor["by_fold"][0]["accuracy"]) / 2
    )


def test_intervals_average_the_seeds_within_each_resample_of_patients(folds: list[Fold]) -> None:
    """So a seed that says the same narrows nothing, as one more patient would."""
    twice = CrossValidation({0: OutOfFold(folds), 1: OutOfFold(folds)}).measure().as_dict()
    once = measured(folds)
    for name, limits in once["intervals"].items():
        assert twice["intervals"][name] == (pytest.approx(limits) if limits and name[-5:] != "grade" else limits), name
    assert set(twice["spread_over_seeds"].values()) == {0}


def test_predictions_of_several_seeds_have_a_column_that_says_whose_they_are(folds: list[Fold]) -> None:
    assert "seed" not in CrossValidation({5: OutOfFold(folds)}).table
    table = CrossValidation({5: OutOfFold(folds), 6: OutOfFold(folds)}).table
    assert table["seed"].value_counts().to_dict() == {5: 180, 6: 180}
