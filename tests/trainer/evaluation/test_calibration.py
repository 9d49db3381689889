import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from trainer.evaluation.calibration import brier_by_photograph, expected_calibration_error, fit_temperature, reliability
from trainer.network.decision import probabilities


def drawn(n: int, seed: int, sharper: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, 5) of a network that is as much too sure of itself, and grades drawn as it should have said."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (n, 5))
    grades = np.array([random.choice(5, p=p / p.sum()) for p in probabilities(logits).astype(np.float64)])
    return sharper * logits, grades


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_and_brier_score_are_those_of_torchmetrics_and_scikit_learn(seed: int) -> None:
    logits, grades = drawn(300, seed, 2.0)
    p = probabilities(logits)
    expected = multiclass_calibration_error(torch.tensor(p), torch.tensor(grades), num_classes=5, n_bins=15, norm="l1")
    assert expected_calibration_error(reliability(p, grades)) == pytest.approx(expected.item(), abs=1e-6)
    brier = brier_score_loss(grades, p, labels=range(5), scale_by_half=False)
    assert brier_by_photograph(p, grades).mean() == pytest.approx(brier, abs=1e-6)


def test_probabilities_are_torchs_softmax_and_do_not_overflow() -> None:
    logits = np.random.default_rng(0).normal(0, 400, (50, 5))
    expected = torch.softmax(torch.tensor(logits) / 0.7, dim=1).float().numpy()
    assert probabilities(logits, 0.7) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("sharper", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_how_much_too_sure_the_network_is(sharper: float) -> None:
    logits, grades = drawn(4000, 0, sharper)
    found = fit_temperature(logits, grades)
    assert found == pytest.approx(sharper, rel=0.08)
    before, after = (
        expected_calibration_error(reliability(probabilities(logits, t), grades)) for t in (1.0, found or 0)
    )
    assert after < 0.03
    assert sharper == 1 or after < before / 2


def test_the_temperature_is_the_one_that_torchs_lbfgs_finds() -> None:
    logits, grades = drawn(200, 1, 2.0)
    temperature = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([temperature], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(torch.tensor(logits) / temperature, torch.tensor(grades))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)
    assert fit_temperature(logits, grades) == pytest.approx(temperature.item(), abs=1e-4)


@pytest.mark.parametrize("grades", [[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]])
def test_there_is_no_temperature_where_more_certainty_or_less_is_always_better(grades: list[int]) -> None:
    assert fit_temperature(5 * np.eye(5), np.array(grades)) is None


def test_bins_hold_every_photograph_once_and_empty_ones_say_so() -> None:
    p = np.array([[1, 0, 0, 0, 0], [0.2, 0.2, 0.2, 0.2, 0.2], [0.61, 0.39, 0, 0, 0], [0.61, 0.39, 0, 0, 0]], np.float32)
    bins = reliability(p, np.array([0, 3, 0, 1]))
    assert len(bins) == 15
    assert (bins[0].low, bins[-1].high) == (0, 1)
    assert bins[-1][2:] == (1, 1.0, 1.0)  # a probability of 1 belongs to the last one
    assert bins[9][2:] == (2, pytest.approx(0.61), 0.5)
    assert sum(each.photographs for each in bins) == 4
    assert bins[5][2:] == (0, None, None)
    # (|1 - 1| + |0.2 - 0| + 2 |0.61 - 0.5|) / 4
    assert expected_calibration_error(bins) == pytest.approx(0.42 / 4)
