"""The `referable` part of metrics_*.json."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binomtest

from trainer.evaluation.bootstrap import Resamples
from trainer.evaluation.referable import Referable, measure_referable
from trainer.evaluation.weighted_metrics import Sample


def drawn(patients: int, slope: float = 1.0) -> Sample:
    """Both eyes of each patient are alike."""
    random = np.random.default_rng(0)
    odds = np.repeat(random.normal(-1, 1.5, patients), 2)
    has = np.repeat(random.random(patients) < expit(slope * odds[::2]), 2)
    p = np.zeros((2 * patients, 5), np.float32)
    p[:, 0], p[:, 3] = 1 - expit(odds), expit(odds)
    return Sample(3 * has.astype(np.int64), np.zeros(2 * patients, np.int64), p, np.arange(2 * patients) // 2)


def measured(sample: Sample, prevalence: float | None) -> Referable:
    return measure_referable(sample, Resamples(sample.n_patients), prevalence)


def test_every_value_lies_in_its_interval_and_all_of_it_is_json() -> None:
    found = json.loads(json.dumps(asdict(measured(drawn(300), None)), allow_nan=False))
    assert (found["photographs"], found["patients"]) == (600, 300)
    for curve in ("roc", "precision_recall"):
        band = found[curve]
        assert len(band["x"]) == len(band["y"]) == len(band["intervals"])
        limits = [(y, each) for y, each in zip(band["y"], band["intervals"], strict=True) if each]
        assert len(limits) > 90
        assert all(low - 1e-9 <= y <= high + 1e-9 for y, (low, high) in limits)
    calibration = found["calibration"]
    for name, (low, high) in calibration["intervals"].items():
        assert low < calibration[name] < high
    assert calibration["intervals"]["slope"][0] < 1 < calibration["intervals"]["slope"][1]
    assert calibration["lacks"] is None
    assert sum(bin["photographs"] for bin in calibration["bins"]) == 600
    assert all(bin["low"] <= bin["mean"] <= bin["high"] for bin in calibration["bins"])
    assert all(bin["interval"][0] <= bin["share"] <= bin["interval"][1] for bin in calibration["bins"])


def test_probabilities_that_are_too_extreme_have_a_slope_below_1() -> None:
    calibration = measured(drawn(300, slope=0.4), None).calibration
    assert calibration.intervals["slope"][1] < 1  # type: ignore[index,operator]


def test_two_eyes_that_are_alike_widen_the_band() -> None:
    eyes = drawn(300)
    strangers = Sample(eyes.grades, eyes.predicted, eyes.probabilities, np.arange(600))
    widths = []
    for each in (eyes, strangers):
        band = measured(each, None).roc
        assert band is not None
        low, high = band.intervals[20]  # type: ignore[misc]
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(2**0.5, rel=0.2)  # half as many patients as photographs


def test_what_a_sample_cannot_define_is_none() -> None:
    few = drawn(300)
    for grades in (np.zeros(600, np.int64), np.full(600, 4)):
        found = measured(Sample(grades, few.predicted, few.probabilities, few.patients), 0.1)
        assert found.roc is found.precision_recall is found.net_benefit is None
        assert found.calibration.slope is found.calibration.intercept is None
        assert found.calibration.lacks == "few"
        assert (found.calibration.observed_expected is None) == (grades[0] == 0)
        json.dumps(asdict(found), allow_nan=False)


def test_a_network_that_errs_on_no_photograph_has_a_curve_without_a_band() -> None:
    p = np.zeros((80, 5), np.float32)
    score = np.repeat(np.linspace(0.02, 0.98, 40), 2)
    p[:, 0], p[:, 4] = 1 - score, score
    found = measured(Sample(4 * (score > 0.5), np.zeros(80, np.int64), p, np.arange(80) // 2), None)
    assert found.roc is not None
    assert found.roc.y == [1.0] * 101
    assert found.roc.intervals == [None] * 101  # all resamples agree, and say nothing of the next patient
    exact = binomtest(5, 5).proportion_ci(0.95, "exact")  # the last bin holds both eyes of five patients
    assert found.calibration.bins[-1].interval == pytest.approx((exact.low, 1))
    assert (found.calibration.lacks, found.calibration.slope) == ("separated", None)
    assert found.calibration.intercept is not None
    assert found.calibration.intervals["slope"] is None


def test_a_slope_that_many_resamples_lack_has_no_interval() -> None:
    p = np.zeros((60, 5), np.float32)
    score = np.linspace(0.02, 0.98, 60)
    p[:, 0], p[:, 4] = 1 - score, score
    has = (score > 0.5) ^ (np.arange(60) == 35)  # one mistake, which a third of the resamples lack
    found = measured(Sample(4 * has, np.zeros(60, np.int64), p, np.arange(60)), None).calibration
    assert found.slope is not None
    assert found.intervals["slope"] is None
