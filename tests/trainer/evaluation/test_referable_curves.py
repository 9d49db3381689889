"""Both curves against scikit-learn, resample by resample."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_curve

from trainer.evaluation.referable_curves import RATES, RECALLS, ReferableCurves
from trainer.evaluation.weighted_metrics import Sample


def sample(scores: list[float] | np.ndarray, referable: list[int] | np.ndarray, patients: list[int]) -> Sample:
    p = np.zeros((len(scores), 5), np.float32)
    p[:, 0], p[:, 2] = 1 - np.asarray(scores), scores
    return Sample(2 * np.asarray(referable), np.zeros(len(scores), np.int64), p, np.asarray(patients))


@pytest.mark.parametrize("places", [1, 2, 6])  # with one place most scores tie
def test_every_resample_has_the_curves_that_scikit_learn_gives_it(places: int) -> None:
    random = np.random.default_rng(places)
    referable = random.integers(0, 2, 60)
    scores = np.clip(0.3 * referable + random.random(60) * 0.7, 0, 1).round(places)
    measured = sample(scores, referable, (np.arange(60) // 2).tolist())
    weights = random.multinomial(30, [1 / 30] * 30, size=20).T.astype(np.float64)
    found = ReferableCurves(measured).figures(weights)
    for number, drawn in enumerate(weights.T):
        own = drawn[measured.patients]
        keep, p = own > 0, measured.p_referable
        fpr, tpr, _ = roc_curve(referable[keep], p[keep], sample_weight=own[keep], drop_intermediate=False)
        # At a step upwards: the upper end.
        expected = [max(np.interp(rate, fpr, tpr), tpr[np.isclose(fpr, rate)].max(initial=0)) for rate in RATES]
        assert found["sensitivity"][number] == pytest.approx(expected, abs=1e-6)
        precision, recall, _ = precision_recall_curve(referable[keep], p[keep], sample_weight=own[keep])
        reach = [np.flatnonzero(recall >= wanted - 1e-9)[-1] for wanted in RECALLS]  # the highest threshold
        assert found["precision"][number] == pytest.approx(precision[reach])


def test_two_steps_written_out() -> None:
    # By falling score: referable, not, referable, not.
    found = ReferableCurves(sample([0.9, 0.7, 0.5, 0.1], [1, 0, 1, 0], [0, 1, 2, 3])).figures(np.ones((4, 1)))
    at = dict(zip(RATES.tolist(), found["sensitivity"][0].tolist(), strict=True))
    assert (at[0.0], at[0.49], at[0.5], at[1.0]) == (0.5, 0.5, 1.0, 1.0)
    by = dict(zip(RECALLS.tolist(), found["precision"][0].tolist(), strict=True))
    assert (by[0.01], by[0.5]) == (1.0, 1.0)
    assert (by[0.51], by[1.0]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_a_resample_of_one_kind_has_no_curves() -> None:
    found = ReferableCurves(sample([0.9, 0.1], [1, 0], [0, 1])).figures(np.array([[2.0, 0.0], [0.0, 2.0]]))
    assert np.isnan(found["sensitivity"]).all()
    assert np.isnan(found["precision"]).all()
