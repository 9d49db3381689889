import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, roc_auc_score

from pipeline.cache.eyes import EyeTable
from trainer.evaluation.eyes import eye_rows, mean_eyes
from trainer.evaluation.metrics import predictions_table
from trainer.evaluation.results import Results, assess
from trainer.network.decision import DecisionRule
from trainer.network.metadata import Operating


def manifest(rows: list[tuple[str, str, str, int]]) -> pd.DataFrame:
    """(id, patient, eye, grade) of test photographs."""
    return pd.DataFrame(rows, columns=["id", "patient", "eye", "grade"]).assign(split="test", flags="")


def by_eye(table: pd.DataFrame, p: list[list[float]], rule: DecisionRule, visits: list[str] | None = None) -> Results:
    probabilities = np.array(p, np.float32)
    kept = pd.DataFrame({"visit": visits}) if visits else pd.DataFrame(index=table.index)
    predictions = predictions_table(table["id"], table["grade"].to_numpy(), probabilities, rule.ordinal_thresholds)
    operating = Operating(1.0, rule.threshold, "sensitivity", 0.9)
    eyes = EyeTable.of(table, kept)
    return assess(table, "test", predictions, probabilities, operating, eyes=eyes, rule=rule)


def test_an_eye_is_of_one_patient_one_visit_and_one_side() -> None:
    table = manifest([("a", "1", "left", 0), ("b", "1", "left", 0), ("c", "1", "right", 0), ("d", "2", "left", 0)])
    assert EyeTable.of(table, pd.DataFrame(index=table.index)).eyes.nunique() == 3
    told = EyeTable.of(table, pd.DataFrame({"site": "x", "Visit_ID": ["1", "2", "1", "1"]}))
    assert told.visit == "Visit_ID"
    assert told.eyes.nunique() == 4
    dated = EyeTable.of(table, pd.DataFrame({"study_date": ["2019-01-01"] * 2 + ["2020-01-01"] * 2}))
    assert (dated.visit, dated.eyes.nunique()) == ("study_date", 3)


def test_a_photograph_whose_eye_or_patient_is_not_known_is_an_eye_of_its_own() -> None:
    table = manifest([("a", "1", "", 0), ("b", "1", "", 0), ("c", "", "left", 0), ("d", "", "left", 0)])
    found = EyeTable.of(table, pd.DataFrame(index=table.index))
    assert found.eyes.nunique() == 4
    assert not found.known.any()


def test_the_mean_of_the_probabilities_is_read_by_the_rule_and_the_worst_grade_is_the_eyes() -> None:
    table = manifest([("a", "1", "left", 1), ("b", "1", "left", 2), ("c", "1", "right", 0), ("d", "2", "", 0)])
    p = [[0.6, 0, 0, 0, 0.4], [0.5, 0, 0.1, 0, 0.4], [0.9, 0, 0.1, 0, 0], [1, 0, 0, 0, 0]]
    # The mean of the first eye is (0.55, 0, 0.05, 0, 0.4): the likeliest grade is 0, the expected one 1.7.
    found = by_eye(table, p, DecisionRule(threshold=0.42)).by_eye
    assert found is not None
    assert (found.metrics.photographs, found.patients, found.metrics.grades) == (3, 2, (2, 0, 1, 0, 0))
    assert found.metrics.accuracy == pytest.approx(2 / 3)
    assert found.operating is not None
    assert found.operating.sensitivity == 1  # 0.45 of p(referable), one photograph alone has 0.4
    assert (found.eyes.several, found.eyes.disagreeing, found.eyes.eye_unknown) == (1, 1, 1)  # type: ignore[union-attr]
    cut = by_eye(table, p, DecisionRule(ordinal_thresholds=(0.5, 1.5, 2.5, 3.5))).by_eye
    assert cut is not None
    assert cut.metrics.accuracy == 1


def test_where_no_eye_has_two_graded_photographs_there_is_nothing_by_eye() -> None:
    table = manifest([("a", "1", "left", 1), ("b", "1", "left", -1), ("c", "1", "right", 0)])
    p = np.eye(5)[[1, 1, 0]].tolist()
    assert by_eye(table, p, DecisionRule()).by_eye is None
    twice = table.assign(grade=1)
    assert by_eye(twice, p, DecisionRule()).by_eye is not None
    assert by_eye(twice, p, DecisionRule(), visits=["1", "2", "1"]).by_eye is None


def test_figures_by_eye_are_scikit_learns_of_the_means() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 5, 80)
    rows = [(f"{n}_{k}", str(n // 2), ("left", "right")[n % 2], int(truth[n])) for n in range(80) for k in range(3)]
    table = manifest(rows)
    p = random.dirichlet(np.ones(5), 240).astype(np.float32)
    means = p.astype(np.float64).reshape(80, 3, 5).mean(axis=1)
    results = by_eye(table, p.tolist(), DecisionRule(threshold=0.6))
    found = results.by_eye
    assert found is not None
    assert (results.metrics.photographs, found.metrics.photographs, found.patients) == (240, 80, 40)
    assert found.metrics.accuracy == pytest.approx(accuracy_score(truth, means.argmax(axis=1)))
    assert found.metrics.kappa == pytest.approx(cohen_kappa_score(truth, means.argmax(axis=1), weights="quadratic"))
    assert found.metrics.referable_auc == pytest.approx(roc_auc_score(truth >= 2, means[:, 2:].sum(axis=1)))
    assert found.as_dict()["eyes"] == {"several": 80, "disagreeing": 0, "eye_unknown": 0, "visit": ""}
    low, high = found.intervals["accuracy"]
    assert low < found.metrics.accuracy < high


def test_the_floor_without_an_image_counts_eyes() -> None:
    table = manifest([("a", "1", "left", 0), ("b", "1", "left", 3), ("c", "2", "left", 0), ("d", "2", "left", -1)])
    eyes = EyeTable.of(table, pd.DataFrame(index=table.index))
    assert eye_rows(table, eyes)[["patient", "grade", "split"]].to_numpy().tolist() == [
        ["1", 3, "test"], ["2", 0, "test"],
    ]  # fmt: skip


def test_eyes_in_any_order_keep_their_patients() -> None:
    table = manifest([("a", "2", "left", 0), ("b", "1", "left", 1), ("c", "2", "left", 2), ("d", "1", "left", 3)])
    predictions = predictions_table(table["id"], table["grade"].to_numpy(), np.eye(5, dtype=np.float32)[[0, 1, 0, 1]])
    eyes = EyeTable.of(table, pd.DataFrame(index=table.index))
    found = mean_eyes(predictions, table["patient"], table, table=eyes, rule=DecisionRule())
    assert found is not None
    assert dict(zip(found.patients, found.predictions["grade"], strict=True)) == {"1": 3, "2": 2}
    assert dict(zip(found.patients, found.predictions["predicted"], strict=True)) == {"1": 1, "2": 0}
