"""Slope and intercept against scikit-learn, resample by resample; bins against arithmetic written out."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from trainer.evaluation.referable_calibration import ReferableCalibration, quantile_bins
from trainer.evaluation.weighted_metrics import Sample
from trainer.network.decision import CLIP


def sample(p: np.ndarray, referable: np.ndarray, patients: np.ndarray | None = None) -> Sample:
    """p (n,) goes into grade 2 as it is, in float32."""
    five = np.zeros((len(p), 5), np.float32)
    five[:, 0], five[:, 2] = 1 - p, p
    of = np.arange(len(p)) if patients is None else patients
    return Sample(2 * referable.astype(np.int64), np.zeros(len(p), np.int64), five, of)


def drawn(n: int, seed: int = 0, slope: float = 1.0, intercept: float = 0.0) -> Sample:
    """Two photographs a patient, whose outcome follows intercept + slope * log-odds of p."""
    random = np.random.default_rng(seed)
    odds = random.normal(-1, 1.5, n)
    return sample(expit(odds), random.random(n) < expit(intercept + slope * odds), np.arange(n) // 2)


def equal(measured: Sample) -> dict[str, float]:
    found = ReferableCalibration(measured).figures(measured.equal_weights)
    return {name: float(value[0]) for name, value in found.items() if value.ndim == 1}


def scikit_learns_slope(measured: Sample, own: np.ndarray) -> float:
    odds = logit(np.clip(measured.p_referable, CLIP, 1 - CLIP))
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
    return float(model.fit(odds[:, None], measured.grades >= 2, sample_weight=own).coef_[0, 0])


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.4, 1.0), (2.5, -2.0), (-0.3, 0.5)])
def test_the_slope_is_scikit_learns_and_the_intercept_makes_the_sums_equal(slope: float, intercept: float) -> None:
    measured = drawn(600, slope=slope, intercept=intercept)
    found = equal(measured)
    truth = measured.grades >= 2
    assert found["slope"] == pytest.approx(scikit_learns_slope(measured, np.ones(600)), abs=1e-4)
    assert expit(found["intercept"] + logit(measured.p_referable)).sum() == pytest.approx(truth.sum(), abs=1e-6)
    assert found["observed_expected"] == pytest.approx(truth.sum() / measured.p_referable.sum())
    assert found["brier"] == pytest.approx(brier_score_loss(truth, measured.p_referable))


def test_every_resample_has_the_figures_of_its_own_photographs() -> None:
    measured = drawn(120, seed=3)
    weights = np.random.default_rng(0).multinomial(60, [1 / 60] * 60, size=12).T.astype(np.float64)
    found = ReferableCalibration(measured).figures(weights)
    for number, patients in enumerate(weights.T):
        rows = np.repeat(np.arange(120), patients[measured.patients].astype(int))  # a photograph as often as drawn
        alone = sample(measured.p_referable[rows], measured.grades[rows] >= 2)
        assert found["slope"][number] == pytest.approx(scikit_learns_slope(alone, np.ones(len(rows))), abs=1e-3)
        for name in ("intercept", "observed_expected", "brier"):
            assert found[name][number] == pytest.approx(equal(alone)[name], abs=1e-3)


def test_probabilities_of_0_and_1_count_as_the_clip() -> None:
    measured = drawn(400)
    p = measured.p_referable.copy()
    p[:5], p[5:10] = 0, 1
    certain = sample(p, measured.grades >= 2)
    assert certain.p_referable.min() == 0
    assert equal(certain)["slope"] == pytest.approx(scikit_learns_slope(certain, np.ones(400)), abs=1e-4)


@pytest.mark.parametrize("upside_down", [False, True])
def test_without_an_overlap_there_is_no_slope(upside_down: bool) -> None:
    p = np.linspace(0.01, 0.99, 60)
    measured = ReferableCalibration(sample(p, (p < 0.5) if upside_down else (p > 0.5)))
    assert measured.lacks == "separated"
    found = measured.figures(np.ones((60, 1)))
    assert np.isnan(found["slope"]).all()
    assert np.isfinite(found["intercept"]).all()


def test_one_p_for_all_has_no_slope() -> None:
    assert ReferableCalibration(sample(np.full(60, 0.3), np.arange(60) < 30)).lacks == "alike"


def test_a_separated_resample_has_no_slope() -> None:
    p = np.linspace(0.01, 0.99, 40)
    measured = ReferableCalibration(sample(p, (p > 0.5) ^ (np.arange(40) == 30)))
    weights = np.ones((40, 2))
    weights[30, 1] = 0  # without the only mistake
    assert np.isnan(measured.figures(weights)["slope"]).tolist() == [False, True]


@pytest.mark.parametrize("referable", [0, 1, 9, 51, 60])
def test_with_few_patients_of_a_kind_there_is_neither_slope_nor_intercept(referable: int) -> None:
    measured = ReferableCalibration(sample(np.linspace(0, 1, 60), np.arange(60) % 60 < referable))
    assert measured.lacks == "few"
    found = measured.figures(np.ones((60, 1)))
    assert np.isnan(found["slope"]).all()
    assert np.isnan(found["intercept"]).all()
    assert np.isnan(found["observed_expected"]).all() == (referable == 0)
    assert np.isfinite(found["brier"]).all()


def test_bins_hold_alike_numbers_and_never_part_equal_probabilities() -> None:
    assert np.bincount(quantile_bins(np.linspace(0, 1, 200))).tolist() == [20] * 10
    assert np.bincount(quantile_bins(np.linspace(0, 1, 35))).tolist() == [11, 12, 12]
    assert quantile_bins(np.array([0.1, 0.2])).tolist() == [0, 0]
    tied = np.sort(np.repeat([0.0, 0.1, 0.2, 0.9], [70, 10, 5, 15]))
    bins = quantile_bins(tied)
    assert all(len(set(bins[tied == value])) == 1 for value in np.unique(tied))
    assert np.bincount(bins).tolist() == [70, 10, 5, 15]


def test_the_share_of_a_bin_counts_its_photographs() -> None:
    measured = ReferableCalibration(sample(np.linspace(0.9, 0.1, 20), np.arange(20) < 7))
    assert measured.figures(np.ones((20, 1)))["share"].tolist() == [[0.0, 0.7]]  # the first is of the lowest p
