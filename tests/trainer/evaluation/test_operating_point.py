import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_score

from pipeline.photos.preparation import Recipe
from trainer.evaluation.bootstrap import Resamples
from trainer.evaluation.operating_point import (
    Referral,
    Wish,
    by_bayes,
    choose_operating,
    choose_threshold,
    least_ppv,
)
from trainer.evaluation.weighted_metrics import Sample
from trainer.network.metadata import Metadata, Operating


@given(
    st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=40),
    st.sampled_from([1e-12, 0.5, 0.8, 0.9, 1.0]),
)
def test_validation_shows_what_was_wished_and_most_of_the_other(drawn: list[tuple[int, bool]], level: float) -> None:
    scores, referable = np.array([score / 8 for score, _ in drawn]), np.array([sick for _, sick in drawn])
    if referable.all() or not referable.any():
        with pytest.raises(ValueError, match="of its photographs show referable"):
            choose_threshold(scores, referable, Wish())
        return

    def shown(threshold: float) -> tuple[int, int]:
        """(referable referred, others passed)."""
        return int((scores[referable] >= threshold).sum()), int((scores[~referable] < threshold).sum())

    every = [shown(threshold) for threshold in [*np.unique(scores), 2.0]]
    for wanted, wished in (("sensitivity", 0), ("specificity", 1)):
        threshold = choose_threshold(scores, referable, Wish(wanted, level))  # type: ignore[arg-type]
        of = (int(referable.sum()), int((~referable).sum()))[wished]
        fitting = [found for found in every if found[wished] >= max(level * of - 1e-9, 1)]
        assert shown(threshold) == max(fitting, key=lambda found: (found[1 - wished], found[wished]))
        assert not np.isclose(scores, threshold, atol=1e-3)[scores > 0].any()  # rounding moves nobody across


def test_at_equal_specificity_the_most_sensitive_threshold_is_chosen() -> None:
    # Nobody healthy has more than 0.5: 0.9 of the ten ill ones would do from 0.6 on, but all of them can be had.
    scores = np.array([0.1, 0.2, 0.5, *np.linspace(0.55, 1.0, 10)])
    referable = np.arange(13) >= 3
    assert choose_threshold(scores, referable, Wish("sensitivity", 0.9)) == pytest.approx(0.525)
    assert choose_threshold(scores, referable, Wish("specificity", 0.6)) == pytest.approx(0.525)


def test_a_ppv_of_one_is_never_bare(sample: Sample) -> None:
    card = Referral(sample, Operating(1.0, 0.6, "sensitivity", 0.9), None).card(Resamples(sample.n_patients))
    assert least_ppv(card) is None
    # 10 of 10 ill and none of 20 others referred: the exact interval of the specificity begins at 0.025 ** (1 / 20).
    scores = np.repeat([0.9, 0.1], [10, 20])
    probabilities = np.stack([1 - scores, 0 * scores, scores, 0 * scores, 0 * scores], axis=1).astype(np.float32)
    few = Sample(np.repeat([2, 0], [10, 20]), probabilities.argmax(axis=1), probabilities, np.arange(30))
    card = Referral(few, Operating(1.0, 0.5, "sensitivity", 0.9), None).card(Resamples(30))
    assert card.ppv == 1
    lowest = 0.025 ** (1 / 20)
    assert least_ppv(card) == pytest.approx((1 / 3) / (1 / 3 + (1 - lowest) * 2 / 3))


def test_the_threshold_lies_half_way_between_two_scores() -> None:
    scores = np.array([0.1, 0.2, 0.4, 0.5, 0.6, 0.8])
    referable = np.array([False, False, True, False, True, True])
    assert choose_threshold(scores, referable, Wish("sensitivity", 1.0)) == pytest.approx(0.3)
    assert choose_threshold(scores, referable, Wish("sensitivity", 0.6)) == pytest.approx(0.55)
    assert choose_threshold(scores, referable, Wish("specificity", 1.0)) == pytest.approx(0.55)
    assert choose_threshold(scores, referable, Wish("specificity", 0.6)) == pytest.approx(0.3)
    assert choose_threshold(scores, ~referable, Wish("specificity", 1.0)) == pytest.approx(0.9)
    certain = np.array([1.0, 1.0])  # nobody can be passed and nobody referred, but by a threshold above every score
    assert choose_threshold(certain, np.array([True, False]), Wish("specificity", 1.0)) > 1


@pytest.fixture
def sample() -> Sample:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(5), 60).astype(np.float32)
    return Sample(random.integers(0, 5, 60), probabilities.argmax(axis=1), probabilities, np.arange(60) // 2)


def test_the_card_is_scikit_learns_two_by_two_table(sample: Sample) -> None:
    card = Referral(sample, Operating(1.0, 0.6, "sensitivity", 0.9), prevalence=None).card(Resamples(sample.n_patients))
    has, referred = sample.grades >= 2, sample.p_referable >= 0.6
    (true_negative, false_positive), (false_negative, true_positive) = confusion_matrix(has, referred)
    assert card.sensitivity == pytest.approx(true_positive / (true_positive + false_negative))
    assert card.specificity == pytest.approx(true_negative / (true_negative + false_positive))
    assert card.ppv == pytest.approx(precision_score(has, referred))
    assert card.npv == pytest.approx(precision_score(~has, ~referred))
    assert card.prevalence == pytest.approx(has.mean())
    assert card.at_prevalence is None
    for name, limits in card.intervals.items():
        assert limits[0] < getattr(card, name) < limits[1], name


def test_at_the_samples_own_prevalence_bayes_gives_its_predictive_values(sample: Sample) -> None:
    own = float((sample.grades >= 2).mean())
    card = Referral(sample, Operating(1.0, 0.6, "sensitivity", 0.9), own).card(Resamples(sample.n_patients))
    assert card.at_prevalence.ppv == pytest.approx(card.ppv)
    assert card.at_prevalence.npv == pytest.approx(card.npv)
    # At another prevalence only the test's own uncertainty is left, not how many happened to be ill.
    narrow, wide = card.at_prevalence.intervals["ppv"], card.intervals["ppv"]
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


def test_predictive_values_by_arithmetic() -> None:
    # Of 1,000 eyes 100 are ill; 90 of these and 180 of the 900 others are referred: 90 / 270 and 720 / 730.
    ppv, npv = by_bayes(np.array([0.9]), np.array([0.8]), 0.1)
    assert (ppv[0], npv[0]) == (pytest.approx(90 / 270), pytest.approx(720 / 730))
    ppv, npv = by_bayes(np.array([0.0]), np.array([1.0]), 0.1)
    assert np.isnan(ppv[0])
    assert npv[0] == pytest.approx(0.9)


@pytest.mark.parametrize(("threshold", "ppv", "npv"), [(0.0, 0.5, None), (1.5, None, 0.5)])
def test_where_all_or_none_are_referred_one_value_is_not_defined(
    threshold: float, ppv: float | None, npv: float | None
) -> None:
    sample = Sample(np.array([0, 4]), np.array([0, 4]), np.eye(5, dtype=np.float32)[[0, 4]], np.arange(2))
    card = Referral(sample, Operating(1.0, threshold, "specificity", 0.9), 0.5).card(Resamples(sample.n_patients))
    assert (card.ppv, card.npv) == (ppv, npv)
    assert (card.at_prevalence.ppv, card.at_prevalence.npv) == (ppv, npv)


def test_validation_without_both_sides_makes_no_operating_point_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    logits = np.random.default_rng(0).normal(size=(20, 5))
    assert choose_operating(logits, np.zeros(20, np.int64)) is None
    assert "none of its photographs show referable retinopathy" in caplog.text
    assert choose_operating(logits, np.full(20, 3)) is None
    assert "all of its photographs show referable retinopathy" in caplog.text


def test_validation_graded_all_rightly_leaves_probabilities_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    grades = np.arange(5)
    found = choose_operating(8 * np.eye(5)[grades], grades)
    assert found is not None
    assert found.temperature == 1
    assert "cannot calibrate" in caplog.text


def test_validation_graded_worse_than_by_chance_cannot_calibrate_either(caplog: pytest.LogCaptureFixture) -> None:
    grades = np.arange(5)
    found = choose_operating(-3 * np.eye(5)[grades], grades)
    assert found is not None
    assert found.temperature == 1
    assert "fits no temperature from 0.1 to 10 and cannot calibrate" in caplog.text


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": float("nan")}, "temperature must be positive"),
        ({"threshold": float("nan")}, "threshold must be at least 0"),
        ({"wanted": "accuracy"}, "accuracy 0.9"),
        ({"level": 1.5}, "1.5"),
    ],
)
def test_an_operating_point_that_cannot_be_is_refused(fields: dict[str, object], problem: str) -> None:
    good = {"temperature": 1.0, "threshold": 0.5, "wanted": "sensitivity", "level": 0.9}
    with pytest.raises(ValueError, match=problem):
        Operating(**(good | fields))  # type: ignore[arg-type]


def test_weights_carry_their_operating_point_and_older_ones_have_none() -> None:
    metadata = Metadata("resnet18", 64, Recipe(64), epoch=1, operating=Operating(1.2, 0.3, "specificity", 0.95))
    assert Metadata.from_header(metadata.as_header()) == metadata
    ((key, text),) = metadata.as_header().items()
    fields = json.loads(text)
    del fields["operating"]
    assert Metadata.from_header({key: json.dumps(fields)}).operating is None
    for broken in ({"temperature": 1}, {**asdict(metadata)["operating"], "temperature": -1}, "0.3"):
        with pytest.raises(ValueError, match=r"which model it is|temperature must be positive"):
            Metadata.from_header({key: json.dumps(fields | {"operating": broken})})
