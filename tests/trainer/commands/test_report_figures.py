"""The figures in the tables of the page against scikit-learn, and arithmetic written out, from predictions_test.csv."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    cohen_kappa_score,
    confusion_matrix,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from pipeline.cache.cache import open_cache
from tests.report_tables import first_number, rows_of, shown

P = [f"p{grade}" for grade in range(5)]
GRADES = ("no DR", "mild", "moderate", "severe", "proliferative")


@pytest.fixture(scope="module")
def page(clinic: Path) -> str:
    return (clinic / "run" / "report.html").read_text()


@pytest.fixture(scope="module")
def table(clinic: Path) -> pd.DataFrame:
    found = pd.read_csv(clinic / "run" / "predictions_test.csv")
    return found.assign(score=found[["p2", "p3", "p4"]].sum(axis=1), has=found["grade"] >= 2)


@pytest.fixture(scope="module")
def metrics(clinic: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((clinic / "run" / "metrics_test.json").read_text())
    return fields


def headline(grade: Any, predicted: Any, p: Any) -> list[float]:
    """In the order of the page."""
    areas = [roc_auc_score(grade == each, p[:, each]) for each in np.unique(grade)]
    return [
        accuracy_score(grade, predicted),
        balanced_accuracy_score(grade, predicted),
        cohen_kappa_score(grade, predicted, weights="quadratic"),
        float(np.mean(areas)),
        roc_auc_score(grade >= 2, p[:, 2:].sum(axis=1)),
        recall_score(grade >= 2, predicted >= 2),
        recall_score(grade < 2, predicted < 2),
    ]


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_headline_figures_by_photograph_by_eye_and_by_patient(page: str, table: pd.DataFrame) -> None:
    patient, visit = table["id"].str[2:], table["id"].str[0].map({"a": 1, "b": 1, "c": 2})
    eyes = table.groupby([patient, visit])
    p_of_eye = eyes[P].mean().to_numpy()
    at_least = table[P].iloc[:, ::-1].cumsum(axis=1).iloc[:, ::-1].groupby(patient).max().to_numpy(copy=True)
    at_least[:, 0] = 1
    p_of_patient = at_least - np.pad(at_least[:, 1:], ((0, 0), (0, 1)))
    worst = table.groupby(patient)[["grade", "predicted"]].max()
    columns = [
        headline(table["grade"], table["predicted"], table[P].to_numpy()),
        headline(eyes["grade"].max().to_numpy(), p_of_eye.argmax(axis=1), p_of_eye),
        headline(worst["grade"].to_numpy(), worst["predicted"].to_numpy(), p_of_patient),
    ]
    found = list(rows_of(page, "Headline figures").values())
    assert len(found) == 7
    for row, values in zip(found, np.transpose(columns).tolist(), strict=True):
        assert row[:3] == shown(*values)
    # 12 of the 24 patients of train, three photographs each, are healthy: the smaller of two grades alike often.
    assert found[0][3] == shown((table["grade"] == 0).mean())[0]
    assert found[2][3] == 0


def test_the_referral_and_its_two_by_two_tables(page: str, table: pd.DataFrame, metrics: dict[str, Any]) -> None:
    threshold = metrics["operating"]["threshold"]
    referred, has = table["score"] >= threshold, table["has"]
    assert f"<b>{threshold:.3f}</b>" in page
    assert {name: row[0] for name, row in rows_of(page, "Operating card").items()} == dict(
        Sensitivity=shown(recall_score(has, referred))[0],
        Specificity=shown(recall_score(~has, ~referred))[0],
        PPV=shown(precision_score(has, referred))[0],
        NPV=shown(precision_score(~has, ~referred))[0],
        Prevalence=shown(has.mean())[0],
    )
    patient = table["id"].str[2:]
    for what, truth, decided in (
        ("photographs", has, referred),
        ("patients, the worse eye decides", has.groupby(patient).any(), referred.groupby(patient).any()),
    ):
        tn, fp, fn, tp = confusion_matrix(truth, decided).ravel()
        assert rows_of(page, f"Referral, {what}") == {"Referred": [tp, fp], "Not referred": [fn, tn]}
    four = table["grade"] == 4
    missed = rows_of(page, "Missed")
    assert list(missed.values()) == [[0, 0], [0, 0], [four.sum(), (four & ~referred).sum()]]


def test_the_curves_and_the_net_benefit(page: str, table: pd.DataFrame) -> None:
    has, score = table["has"].to_numpy(), table["score"].to_numpy()
    false_positive, sensitivity, _ = roc_curve(has, score, drop_intermediate=False)
    rows = rows_of(page, "ROC curve")
    assert len(rows) == 5
    for rate, (value,) in rows.items():
        assert [value] == shown(np.interp(first_number(rate) + 1e-9, false_positive, sensitivity))
    precision, recall, _ = precision_recall_curve(has, score)
    for rate, (value,) in rows_of(page, "Precision-recall curve").items():
        assert [value] == shown(precision[recall >= first_number(rate) - 1e-9][-1])
    n = len(table)
    for name, row in rows_of(page, "Net benefit").items():
        threshold = first_number(name)
        odds = threshold / (1 - threshold)
        own = ((score >= threshold) & has).sum() / n - ((score >= threshold) & ~has).sum() / n * odds
        everybody = has.mean() - (1 - has.mean()) * odds
        assert row == [float(f"{1 / odds:.3g}"), *shown(own, everybody, own - max(everybody, 0))]


def test_each_grade_against_the_rest(page: str, table: pd.DataFrame) -> None:
    grade, predicted = table["grade"], table["predicted"]
    counts = confusion_matrix(grade, predicted, labels=range(5))
    assert list(rows_of(page, "Confusion matrix").values()) == counts.tolist()
    for each, row in enumerate(rows_of(page, "Figures by grade").values()):
        true, given = grade == each, predicted == each
        assert row == [
            true.sum(),
            *shown(
                recall_score(true, given) if true.any() else None,
                recall_score(~true, ~given),
                precision_score(true, given) if given.any() else None,
                roc_auc_score(true, table[f"p{each}"]) if true.any() else None,
            ),
        ]


def test_calibration(page: str, table: pd.DataFrame, metrics: dict[str, Any]) -> None:
    has, score, p = table["has"].to_numpy(), table["score"].to_numpy(), table[P].to_numpy()
    odds = logit(score)
    line = LogisticRegression(C=np.inf, tol=1e-9).fit(odds[:, None], has)
    rows = {name: row[-1] for name, row in rows_of(page, "Calibration of p(referable)").items()}
    assert rows["Calibration slope"] == shown(line.coef_.item())[0]
    assert rows["Observed by expected (O:E)"] == shown(has.sum() / score.sum())[0]
    assert rows["Brier score of the referral"] == shown(brier_score_loss(has, score))[0]
    assert expit(odds + rows["Calibration intercept"]).mean() == pytest.approx(has.mean(), abs=0.0005)
    assert f"has a Brier score of {has.mean() * (1 - has.mean()):.3f}" in page
    raw = p ** metrics["calibration"]["temperature"]  # softmax(z) from softmax(z / T)
    for place, probabilities in enumerate((raw / raw.sum(axis=1, keepdims=True), p)):
        sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == table["grade"]
        bins = np.minimum((sure * 15).astype(int), 14)
        error = sum(abs(sure[bins == each].sum() - right[bins == each].sum()) for each in range(15)) / len(table)
        brier = np.mean(np.sum((probabilities - np.eye(5)[table["grade"]]) ** 2, axis=1))
        rows = list(rows_of(page, "Calibration of the predicted grade").values())
        assert [row[place] for row in rows] == shown(error, brier)


def test_deferral(page: str, table: pd.DataFrame, metrics: dict[str, Any]) -> None:
    threshold, n = metrics["operating"]["threshold"], len(table)
    order = np.argsort(-abs(logit(table["score"]) - logit(threshold)), kind="stable")
    has, referred = table["has"].to_numpy()[order], (table["score"] >= threshold).to_numpy()[order]
    for name, row in rows_of(page, "Deferral").items():
        kept = n - round(first_number(name) * n)
        truth, decided = has[:kept], referred[:kept]
        assert row == [
            kept,
            decided.sum(),
            *shown((truth != decided).mean(), recall_score(truth, decided), recall_score(~truth, ~decided)),
        ]
    area = np.mean(np.cumsum(has != referred) / np.arange(1, n + 1))
    assert f'risk-coverage curve: <span class="value">{area:.3f}</span>' in page


def test_subgroups(page: str, table: pd.DataFrame, metrics: dict[str, Any]) -> None:
    number = table["id"].str.extract(r"/(\d+)_")[0].astype(int)
    site = np.where(number < 130, np.array(["North", "South", "not stated"])[number % 3], "Hill")
    rows = rows_of(page, "Figures of subgroups")
    for name in ("North", "South", "not stated"):
        part = table[site == name]
        referred = part["score"] >= metrics["operating"]["threshold"]
        assert rows[name] == [
            len(part),
            part["id"].str[2:].nunique(),
            *shown(
                recall_score(part["has"], referred),
                recall_score(~part["has"], ~referred),
                roc_auc_score(part["has"], part["score"]),
                cohen_kappa_score(part["grade"], part["predicted"], weights="quadratic"),
                accuracy_score(part["grade"], part["predicted"]),
            ),
        ]


def test_photographs_and_patients_of_each_split(page: str, clinic: Path) -> None:
    manifest = open_cache(clinic / "cache").manifest
    for name, row in rows_of(page, "Photographs by split and grade").items():
        part = manifest[manifest["split"] == name]
        assert row == [*((part["grade"] == each).sum() for each in range(5)), len(part), part["patient"].nunique()]
    assert "420 photographs: 32 x 32 px (420)" in page
