import numpy as np
import pytest
from scipy.stats import binomtest

from trainer.evaluation.bootstrap import Figures, Floats, Resamples, interval, intervals, p_value

RIGHT = np.array([2, 2, 2, 2, 1, 1, 1, 1, 1, 0])
"""Of the two photographs of each of ten patients, how many are graded rightly."""


def accuracy(weights: Floats) -> Figures:
    return {"accuracy": weights.T @ RIGHT / (2 * weights.sum(axis=0))}


def test_ten_patients_give_the_interval_that_their_exact_distribution_has() -> None:
    # A draw adds 0, 1 or 2 right ones with chances 1/10, 5/10 and 4/10; ten draws are that distribution convolved.
    exact = np.ones(1)
    for _ in range(10):
        exact = np.convolve(exact, [0.1, 0.5, 0.4])
    assert exact.sum() == pytest.approx(1)
    reached = exact.cumsum()
    low, high = np.searchsorted(reached, [0.025, 0.975]) / 20
    for tail in (0.025, 0.975):
        assert min(abs(reached - tail)) > 0.01  # 20,000 rounds err by a tenth of that
    rounds = Resamples(10, rounds=20_000).figures(accuracy)["accuracy"]
    assert interval(0.65, rounds) == (low, high)
    assert np.bincount(np.rint(20 * rounds).astype(int), minlength=21) / 20_000 == pytest.approx(exact, abs=0.015)


def test_every_round_draws_as_many_patients_as_there_are_and_the_seed_decides_which() -> None:
    drawn: list[Floats] = []

    def look(weights: Floats) -> Figures:
        drawn.append(weights)
        return {"first": weights[0]}

    first = Resamples(7, rounds=300).figures(look)["first"]
    assert np.concatenate(drawn, axis=1).shape == (7, 300)
    assert all((weights.sum(axis=0) == 7).all() for weights in drawn)
    assert (Resamples(7, rounds=300).figures(look)["first"] == first).all()
    assert (Resamples(7, rounds=300, seed=1).figures(look)["first"] != first).any()


def test_the_interval_holds_the_truth_as_often_as_it_says_where_one_over_photographs_does_not() -> None:
    """60 patients whose eyes are alike: 19 of 20 intervals should hold the true 70 %."""
    random = np.random.default_rng(0)
    covered = {"patients": 0, "photographs": 0}
    for trial in range(300):
        right = np.repeat(random.random(60) < 0.7, 2).astype(float)
        for kind, sums in (("patients", right.reshape(60, 2).sum(axis=1)), ("photographs", right)):

            def share(weights: Floats, sums: Floats = sums) -> Figures:
                return {"share": weights.T @ sums / (weights.sum(axis=0) * 120 / len(sums))}

            found = interval(right.mean(), Resamples(len(sums), rounds=400, seed=trial).figures(share)["share"])
            assert found
            covered[kind] += found[0] <= 0.7 <= found[1]
    assert 0.91 <= covered["patients"] / 300 <= 0.98
    assert covered["photographs"] / 300 < 0.88


@pytest.mark.parametrize(("right", "n"), [(1, 1), (0, 1), (12, 12), (0, 30)])
def test_a_share_of_all_or_none_has_clopper_and_pearsons_interval(right: int, n: int) -> None:
    exact = binomtest(right, n).proportion_ci(0.95, "exact")
    assert interval(right / n, np.full(50, right / n), n) == pytest.approx((exact.low, exact.high))


def test_what_resamples_cannot_tell_has_no_interval() -> None:
    nan = float("nan")
    assert interval(nan, np.full(9, nan)) is None
    assert interval(0.4, np.full(9, 0.4), 5) is None  # every resample is as the sample: width would be claimed as 0
    assert interval(1.0, np.ones(9)) is None
    assert interval(0.5, np.array([nan, 0.4, 0.6, nan])) == pytest.approx((0.405, 0.595))


def test_figures_of_each_grade_have_an_interval_each() -> None:
    values = {"one": np.array([0.5]), "each": np.array([[0.5, float("nan"), 1.0]])}
    rounds = {"one": np.array([0.4, 0.6]), "each": np.array([[0.4, float("nan"), 1.0], [0.6, float("nan"), 1.0]])}
    found = intervals(values, rounds, {"each": np.array([3, 0, 4])})
    assert found["one"] == pytest.approx((0.405, 0.595))
    assert found["each"] == [pytest.approx((0.405, 0.595)), None, pytest.approx((0.025 ** (1 / 4), 1))]


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0] * 19, 2 * 1 / 20),  # never 0: 19 rounds cannot show more
        ([1.0] * 16 + [-1.0] * 3, 2 * 4 / 20),
        ([-1.0] * 16 + [0.0] * 3, 2 * 4 / 20),  # none is above 0, and a difference of 0 counts on both sides
        ([0.0] * 19, 1.0),
        ([float("nan")] * 5, None),
    ],
)
def test_the_p_value_counts_the_rounds_on_the_other_side(differences: list[float], p: float | None) -> None:
    assert p_value(np.array(differences)) == (None if p is None else pytest.approx(p))
