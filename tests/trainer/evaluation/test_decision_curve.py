"""Net benefit against arithmetic written out."""

import numpy as np
import pytest

from trainer.evaluation.decision_curve import THRESHOLDS, DecisionCurve
from trainer.evaluation.weighted_metrics import Sample

SCORES = [0.05, 0.15, 0.15, 0.25, 0.35, 0.45, 0.6, 0.8, 0.1, 0.02]
REFERABLE = [0, 0, 1, 0, 1, 0, 1, 1, 0, 0]


def sample(scores: list[float] = SCORES, referable: list[int] = REFERABLE) -> Sample:
    p = np.zeros((len(scores), 5), np.float32)
    p[:, 0], p[:, 2] = 1 - np.array(scores), scores
    return Sample(2 * np.array(referable), np.zeros(len(scores), np.int64), p, np.arange(len(scores)))


def at(threshold: float, prevalence: float | None = None, weights: np.ndarray | None = None) -> dict[str, float]:
    place = int(np.flatnonzero(threshold == THRESHOLDS)[0])
    found = DecisionCurve(sample(), prevalence).figures(np.ones((10, 1)) if weights is None else weights)
    return {name: float(value[0, place]) for name, value in found.items()}


def test_the_thresholds_run_from_2_to_50_percent() -> None:
    assert THRESHOLDS.tolist() == [n / 100 for n in range(2, 51)]


def test_net_benefit_written_out() -> None:
    # At 0.3: 0.35, 0.45, 0.6 and 0.8 are referred; 3 of them are referable. 4 of 10 photographs are.
    found = at(0.3)
    assert found["net_benefit"] == pytest.approx(3 / 10 - 1 / 10 * 0.3 / 0.7)
    assert found["refer_all"] == pytest.approx(4 / 10 - 6 / 10 * 0.3 / 0.7)
    assert found["gain"] == pytest.approx(found["net_benefit"] - found["refer_all"])
    # At 0.5 referring all costs more than it brings, and referring nobody is better.
    found = at(0.5)
    assert found["net_benefit"] == pytest.approx(2 / 10)
    assert found["refer_all"] == pytest.approx(4 / 10 - 6 / 10)
    assert found["gain"] == found["net_benefit"]


def test_a_photograph_at_the_threshold_is_referred() -> None:
    # 0.25 in float32 is exact: 6 photographs lie below it, of which one is referable.
    assert at(0.25)["net_benefit"] == pytest.approx(3 / 10 - 2 / 10 / 3)


def test_at_another_prevalence_the_photographs_are_weighed() -> None:
    # Of the referable 3 of 4 are referred at 0.3, of the others 1 of 6.
    q, rate = 0.1, 0.3 / 0.7
    found = at(0.3, q)
    assert found["net_benefit"] == pytest.approx(3 / 4 * q - 1 / 6 * (1 - q) * rate)
    assert found["refer_all"] == pytest.approx(q - (1 - q) * rate)
    # The same by weights: q / (4 / 10) for the referable, (1 - q) / (6 / 10) for the others.
    weights = np.where(REFERABLE, q / 0.4, (1 - q) / 0.6)[:, None]
    assert at(0.3, weights=weights)["net_benefit"] == pytest.approx(found["net_benefit"])
    assert at(0.3, 0.4)["net_benefit"] == pytest.approx(at(0.3)["net_benefit"])


def test_the_net_benefit_is_the_mean_worth_of_single_photographs() -> None:
    """A referred photograph is worth 1 where it is referable, and costs the odds of the threshold where it is not."""
    random = np.random.default_rng(0)
    referable = random.random(500) < 0.2
    scores = np.clip(random.normal(0.2 + 0.3 * referable, 0.15), 0, 1).astype(np.float32)
    measured = sample(scores.tolist(), referable.tolist())
    found = DecisionCurve(measured, None).figures(np.ones((500, 1)))["net_benefit"][0]
    worth = [np.where(referable, 1.0, -t / (1 - t)) @ (measured.p_referable >= t) / 500 for t in THRESHOLDS]
    assert found == pytest.approx(worth)


def test_a_resample_of_one_kind_says_nothing() -> None:
    weights = np.array(REFERABLE, np.float64)[:, None]
    for prevalence in (None, 0.1):
        assert all(np.isnan(value) for value in at(0.3, prevalence, weights).values())
