"""A threshold chosen anew on another hospital's photographs, against arithmetic written out."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from sklearn.metrics import recall_score

from tests.conftest import write_cache
from tests.report_tables import rows_of, shown
from tests.trainer.conftest import Trained
from trainer.evaluation.operating_point import Wish, choose_threshold
from trainer.evaluation.refit import draw, refit
from trainer.network.metadata import Operating
from trainer.reporting.external import refit_rows
from trainer.reporting.narrative import refit_line

OPERATING = Operating(1.0, 0.7, "sensitivity", 0.9)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Both eyes of 300 patients, a fifth of them referable; the scores are lower than where the threshold is from."""
    random = np.random.default_rng(0)
    grades = np.where(random.random(600) < 0.2, 3, 0)
    score = np.clip(0.3 + 0.25 * (grades > 0) + random.normal(0, 0.1, 600), 0.01, 0.99).astype(np.float32)
    names = [f"{n // 2}_{'left' if n % 2 else 'right'}" for n in range(600)]
    columns = {"p0": 1 - score, "p1": 0.0, "p2": score, "p3": 0.0, "p4": 0.0}
    return pd.DataFrame({"id": names, "grade": grades, "predicted": 0, **columns}).astype({"grade": "int64"})


@pytest.fixture(scope="module")
def patients(table: pd.DataFrame) -> "pd.Series[str]":
    return table["id"].str.partition("_")[0]


def test_whole_patients_are_drawn_and_both_kinds_in_proportion(table: pd.DataFrame, patients: "pd.Series[str]") -> None:
    codes, truth = np.arange(600) // 2, (table["grade"] >= 2).to_numpy()
    ill = pd.Series(truth).groupby(codes).any()
    for n in (25, 101, 400):
        for seed in range(5):
            chosen = draw(codes, truth, n, seed)
            assert n - 1 <= chosen.sum() <= n
            by_patient = pd.Series(chosen).groupby(codes)
            assert (by_patient.all() == by_patient.any()).all()
            drawn = by_patient.any()
            assert ill[drawn].sum() == pytest.approx(ill.mean() * drawn.sum(), abs=1.01)
    assert (draw(codes, truth, 100, 1) == draw(codes, truth, 100, 1)).all()
    assert (draw(codes, truth, 100, 1) != draw(codes, truth, 100, 2)).any()


def test_the_threshold_is_chosen_on_those_drawn_and_measured_on_the_rest(
    table: pd.DataFrame, patients: "pd.Series[str]"
) -> None:
    found = refit(table, patients, OPERATING, 100)
    truth, score = (table["grade"] >= 2).to_numpy(), table["p2"].to_numpy(np.float64)
    chosen = draw(np.arange(600) // 2, truth, 100, seed=0)
    assert (found.photographs, found.patients, found.rest) == (100, 50, 500)
    assert found.referable == truth[chosen].sum()
    assert found.before.threshold == 0.7
    assert found.after.threshold == choose_threshold(score[chosen], truth[chosen], Wish("sensitivity", 0.9))
    assert (score[chosen & truth] >= found.after.threshold).mean() >= 0.9
    for cut in (found.before, found.after):
        referred = score[~chosen] >= cut.threshold
        assert cut.sensitivity == pytest.approx(recall_score(truth[~chosen], referred))
        assert cut.specificity == pytest.approx(recall_score(~truth[~chosen], ~referred))
        for name in ("sensitivity", "specificity"):
            low, high = cut.intervals[name]  # type: ignore[misc]
            assert low <= getattr(cut, name) <= high
    assert found.before.sensitivity < 0.2, "the old threshold misses most here"
    assert found.after.sensitivity > 0.8


def test_of_each_size_the_means_are_those_of_fifty_draws(table: pd.DataFrame, patients: "pd.Series[str]") -> None:
    found = refit(table, patients, OPERATING, 200)
    truth, score, codes = (table["grade"] >= 2).to_numpy(), table["p2"].to_numpy(np.float64), np.arange(600) // 2
    assert [size.photographs for size in found.sizes] == [25, 50, 100, 200]
    for size in found.sizes:
        shown = []
        for seed in range(50):
            chosen = draw(codes, truth, size.photographs, seed)
            if min(truth[chosen].sum(), (~truth[chosen]).sum()) < 5:
                continue
            cut = choose_threshold(score[chosen], truth[chosen], Wish("sensitivity", 0.9))
            referred, ill = score[~chosen] >= cut, truth[~chosen]
            shown.append([recall_score(ill, referred), recall_score(~ill, ~referred)])
        sensitivity, specificity = np.array(shown).T
        assert size.draws == len(shown)
        assert size.sensitivity == pytest.approx(sensitivity.mean())
        assert [size.sensitivity_low, size.sensitivity_high] == pytest.approx(np.quantile(sensitivity, [0.1, 0.9]))
        assert size.specificity == pytest.approx(specificity.mean())
        assert [size.specificity_low, size.specificity_high] == pytest.approx(np.quantile(specificity, [0.1, 0.9]))
        assert size.near == pytest.approx((sensitivity >= 0.85).mean())
    enough = [size.photographs for size in found.sizes if size.draws == 50 and size.near >= 0.9]
    assert found.enough == (enough[0] if enough else None)
    assert len(refit_rows(found)) == 2 + 4
    assert refit_line(found).startswith(f"From {found.enough} photographs on" if enough else "With up to 200")


def test_a_wanted_specificity_is_what_is_refitted(table: pd.DataFrame, patients: "pd.Series[str]") -> None:
    found = refit(table, patients, Operating(1.0, 0.2, "specificity", 0.95), 200)
    assert found.after.specificity == pytest.approx(0.95, abs=0.04)
    assert "a specificity of 90.0 % or more" in refit_line(found)
    assert found.sizes[-1].near > 0.9


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (4, r"too few: the photographs drawn have \d that (is|are) referable, of 5 needed"),
        (590, r"too few: the rest has \d that (is|are) referable, of 5 needed"),
    ],
)
def test_too_few_of_a_kind_are_said(table: pd.DataFrame, patients: "pd.Series[str]", n: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        refit(table, patients, OPERATING, n)


def test_evaluate_and_report_show_it(trained: Trained, trainer: Callable[..., Result], tmp_path: Path) -> None:
    run = trained.copy("run")
    random = np.random.default_rng(3)
    pictures = {f"{n}_left": random.integers(0, 255, (32, 32, 3), np.uint8) for n in range(60)}
    write_cache(tmp_path / "clinic", pictures, {id: n % 5 for n, id in enumerate(pictures)})
    output = trainer("evaluate", "run", "--cache", "clinic", "--refit", 30).output
    found = json.loads((run / "external/clinic/metrics.json").read_text())["refit"]
    assert found["photographs"] == found["patients"] == 30
    assert found["rest"] == 30
    table = pd.read_csv(run / "external/clinic/predictions.csv")
    truth = (table["grade"] >= 2).to_numpy()
    score = table[["p2", "p3", "p4"]].sum(axis=1).to_numpy()
    rest = ~draw(np.arange(60), truth, 30, seed=0)
    for cut in (found["before"], found["after"]):
        referred = score[rest] >= cut["threshold"]
        assert cut["sensitivity"] == recall_score(truth[rest], referred)
        assert cut["specificity"] == recall_score(~truth[rest], ~referred)
    assert "chosen on 30 photographs of 30 patients, on the other 30" in output
    trainer("report", "run", "--card", "card.md")
    for text in (Path("run/report.html").read_text(), Path("card.md").read_text()):
        assert "chosen on 30 photographs of 30 patients, on the other 30" in text
        assert "--cache clinic --name clinic --refit 30" in text
    rows = list(rows_of(Path("run/report.html").read_text(), "Thresholds chosen anew, clinic").values())
    for row, cut in zip(rows, (found["before"], found["after"]), strict=False):
        assert row == shown(cut["threshold"], cut["sensitivity"], cut["specificity"])
    stderr = trainer("evaluate", "run", "--cache", "clinic", "--refit", 2).stderr
    assert "clinic: no threshold is chosen anew on 2 photographs: too few: the photographs drawn have" in stderr
    assert json.loads((run / "external/clinic/metrics.json").read_text())["refit"] is None
