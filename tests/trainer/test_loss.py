import numpy as np
import pytest

from trainer.loss import BETA, class_weights

COURSE = [20656, 1955, 4210, 698, 581]


def test_none_weighs_every_photograph_alike() -> None:
    assert class_weights("none", COURSE).tolist() == [1, 1, 1, 1, 1]


def test_inverse_gives_every_grade_the_same_total_weight() -> None:
    totals = class_weights("inverse", COURSE) * COURSE
    assert totals == pytest.approx([sum(COURSE) / 5] * 5)


def test_effective_follows_the_sum_of_a_geometric_series() -> None:
    effective = [sum(BETA**power for power in range(n)) for n in COURSE]
    expected = 1 / np.array(effective)
    weights = class_weights("effective", COURSE)
    assert weights / weights[0] == pytest.approx(expected / expected[0])


@pytest.mark.parametrize("method", ["none", "inverse", "effective"])
def test_the_mean_over_the_photographs_is_one_and_an_absent_grade_counts_nothing(method: str) -> None:
    photographs = np.array([40, 0, 7, 1, 0])
    weights = class_weights(method, photographs)
    assert (weights * photographs).sum() == pytest.approx(photographs.sum())
    assert (weights[photographs == 0] == 0).all()
    assert np.isfinite(weights).all()
