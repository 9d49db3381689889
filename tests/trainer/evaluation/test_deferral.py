"""Deferral against arithmetic written out."""

import numpy as np
import pytest

from trainer.evaluation.bootstrap import Resamples
from trainer.evaluation.deferral import RiskCoverage, confidence_quantiles
from trainer.evaluation.weighted_metrics import Sample
from trainer.network.decision import DecisionRule, confidence


def sample(scores: list[float], grades: list[int]) -> Sample:
    p = np.zeros((len(scores), 5), np.float32)
    p[:, 0], p[:, 2] = 1 - np.array(scores), scores
    return Sample(np.array(grades), np.zeros(len(scores), np.int64), p, np.arange(len(scores)))


def test_confidence_is_the_distance_in_log_odds() -> None:
    found = confidence(np.array([0.5, 0.8, 0.2, 0.0]), 0.5)
    assert found[:3] == pytest.approx([0, np.log(4), np.log(4)])
    assert found[3] == pytest.approx(np.log((1 - 1e-6) / 1e-6))  # as sure as a float32 can tell
    assert confidence(np.array([0.3]), 0.1)[0] == pytest.approx(np.log(0.3 / 0.7) - np.log(0.1 / 0.9))


def test_the_curve_its_area_and_its_bounds() -> None:
    # By confidence: 0.95 right, 0.1 right, 0.8 wrong, 0.6 right, 0.45 wrong.
    curve = RiskCoverage(sample([0.45, 0.95, 0.6, 0.1, 0.8], [3, 4, 2, 0, 1]), 0.5)
    coverage, risk = curve.curve()
    assert coverage == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert risk == pytest.approx([0, 0, 1 / 3, 1 / 4, 2 / 5])
    found = curve.measure(Resamples(5))
    assert found.area == pytest.approx(np.mean([0, 0, 1 / 3, 1 / 4, 2 / 5]))
    assert found.random == pytest.approx(2 / 5)
    assert found.ideal == pytest.approx(np.mean([0, 0, 0, 1 / 4, 2 / 5]))
    first, last = found.shares[0], found.shares[-1]
    assert (first.photographs, first.risk, first.sensitivity, first.specificity) == (5, 2 / 5, 2 / 3, 1 / 2)
    assert (last.photographs, last.risk, last.sensitivity, last.specificity) == (3, 1 / 3, 1.0, 1 / 2)


def test_the_interval_resamples_patients() -> None:
    random = np.random.default_rng(0)
    grades = random.integers(0, 5, 120)
    scores = np.clip(grades / 4 + random.normal(0, 0.3, 120), 0.01, 0.99)
    found = RiskCoverage(sample(scores.tolist(), grades.tolist()), 0.5).measure(Resamples(120))
    low, high = found.interval
    assert low < found.area < high
    assert found.ideal < found.area < found.random


def test_weights_carry_what_share_of_validation_is_less_sure() -> None:
    scores = np.linspace(0.01, 0.99, 201)
    rule = DecisionRule(threshold=0.5, quantiles=confidence_quantiles(scores, 0.5))
    for share in (0.0, 0.1, 0.5):
        least = rule.least_confidence(share)
        assert (confidence(scores, 0.5) < least).mean() == pytest.approx(share, abs=0.01)
    with pytest.raises(ValueError, match="do not say how sure they are"):
        DecisionRule().least_confidence(0.1)
