"""The referral's tables against scikit-learn and arithmetic written out."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from tests.trainer.recorded import CARD, recorded
from trainer.evaluation.operating_point import threshold_table
from trainer.reporting.measured import Measured
from trainer.reporting.referral import missed_severe, referral

NAMES = ("true_negative", "false_positive", "false_negative", "true_positive")


@pytest.fixture
def measured() -> Measured:
    """200 photographs of 100 patients, both eyes each; the score is the truth with noise."""
    random = np.random.default_rng(0)
    grades = random.choice(5, 200, p=(0.6, 0.1, 0.15, 0.08, 0.07))
    score = np.clip(grades / 4 + random.normal(0, 0.25, 200), 0.01, 0.99).astype(np.float32)
    table = pd.DataFrame(
        {"id": [f"{n // 2}_{'left' if n % 2 else 'right'}" for n in range(200)], "grade": grades, "predicted": 0}
        | {"p0": 1 - score, "p1": 0.0, "p2": score, "p3": 0.0, "p4": 0.0}
    )
    manifest = pd.DataFrame({"id": table["id"], "patient": [str(n // 2) for n in range(200)]})
    run = SimpleNamespace(read_predictions=lambda split: table, read_own_metrics=lambda split: {})
    results = recorded(operating=CARD).results
    return SimpleNamespace(  # type: ignore[return-value]
        predictions=table,
        cache=SimpleNamespace(manifest=manifest),
        results=results,
        run=run,
    )


def test_the_two_by_two_tables_are_scikit_learns(measured: Measured) -> None:
    by_patient, by_photograph = referral(measured).tables
    table = measured.predictions
    truth, referred = table["grade"] >= 2, table["p2"] >= 0.5
    tn, fp, fn, tp = confusion_matrix(truth, referred).ravel()
    found = [
        getattr(by_photograph.counts, name)
        for name in ("true_negative", "false_positive", "false_negative", "true_positive")
    ]
    assert found == [tn, fp, fn, tp]
    patients = table["id"].str.partition("_")[0]
    tn, fp, fn, tp = confusion_matrix(truth.groupby(patients).any(), referred.groupby(patients).any()).ravel()
    found = [
        getattr(by_patient.counts, name)
        for name in ("true_negative", "false_positive", "false_negative", "true_positive")
    ]
    assert found == [tn, fp, fn, tp]
    assert sum(found) == 100


def test_missed_eyes_are_counted_by_grade_and_the_severe_ones_shown(measured: Measured) -> None:
    table = measured.predictions
    missed = table[(table["grade"] >= 2) & (table["p2"] < 0.5)]
    assert {row.grade[0]: row.missed for row in referral(measured).missed} == {
        str(grade): int((missed["grade"] == grade).sum()) for grade in (2, 3, 4)
    }
    shown = missed_severe(measured)
    assert set(shown["id"]) == set(missed["id"][missed["grade"] >= 3])
    assert shown["p2"].is_monotonic_increasing


def test_other_thresholds_are_chosen_on_validation_and_measured_here() -> None:
    val, here = np.array([0.1, 0.3, 0.6, 0.8, 0.9]), np.array([0.2, 0.55, 0.7, 0.95])
    rows = threshold_table(val, np.array([False, False, True, True, True]), here, np.array([False, True, False, True]))
    assert [cut.threshold for cut in rows] == pytest.approx([0.45] * 7)  # tells validation apart, whatever is wished
    assert (rows[0].sensitivity, rows[0].specificity, rows[0].ppv, rows[0].npv) == (1.0, 0.5, 2 / 3, 1.0)
    assert threshold_table(val, np.zeros(5, bool), here, np.ones(4, bool)) == []


def test_one_referred_eye_refers_the_patient(measured: Measured) -> None:
    referred, referable = [False, True, False, False, True], [True, False, False, True, False]
    score = np.where(referred, 0.9, 0.1).astype(np.float32)
    measured.predictions = pd.DataFrame(  # type: ignore[misc]
        {"id": ["a1", "a2", "b1", "b2", "c1"], "grade": np.where(referable, 2, 0), "predicted": 0}
        | {"p0": 1 - score, "p1": 0.0, "p2": score, "p3": 0.0, "p4": 0.0}
    )
    measured.cache.manifest = pd.DataFrame({"id": measured.predictions["id"], "patient": list("aabbc")})  # type: ignore[union-attr]
    by_patient = referral(measured).tables[0]
    assert by_patient.counts == (1, 1, 1, 0)  # a rightly, c wrongly, b missed
