"""Lesions on a healthy eye are the grade's, on its retina, and no larger than life."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tools.phantoms.lesions import SIGNS, paint_lesions

SEEDS = range(6)


def healthy(side: int, cut: float = 0) -> NDArray[np.uint8]:
    """A flat retina in a black square; `cut`: share of the radius that is missing at the top."""
    place = (np.arange(side) + 0.5) / side * 2 - 1
    retina = (np.hypot(place, place[:, None]) < 1) & (place[:, None] > cut - 1)
    return np.where(retina[..., None], np.array((150, 80, 40), np.uint8), np.uint8(0))


def painted(grade: int, seed: int, side: int = 512) -> NDArray[np.uint8]:
    return paint_lesions(np.random.default_rng(seed), healthy(side), grade)


def spots(darker: NDArray[np.bool_]) -> int:
    return cv2.connectedComponents(darker.astype(np.uint8))[0] - 1


def test_grade_0_stays_as_it_is() -> None:
    photograph = healthy(128)
    np.testing.assert_array_equal(paint_lesions(np.random.default_rng(0), photograph, 0), photograph)


@pytest.mark.parametrize("grade", range(1, 5))
def test_nothing_shows_beyond_the_retina_and_something_on_it(grade: int) -> None:
    for seed in SEEDS:
        photograph = healthy(256, cut=0.2)
        picture = paint_lesions(np.random.default_rng(seed), photograph, grade)
        assert (picture.shape, picture.dtype) == (photograph.shape, np.uint8)
        assert picture[photograph.max(axis=2) == 0].max() == 0
        assert (picture != photograph).any()


def test_mild_has_microaneurysms_alone_a_few_and_small() -> None:
    """At 512 pixels, 13 mm of retina, one of 0.125 mm is five wide. Measured to half its depth, edges included."""
    for seed in SEEDS:
        picture = painted(1, seed).astype(int)
        green = picture[healthy(512)[..., 1] > 0][:, 1]
        darker = (picture[..., 1] < 77) & (healthy(512)[..., 1] > 0)
        assert (picture <= healthy(512)).all()
        assert 1 <= spots(darker) <= SIGNS[1].microaneurysms[1]
        assert (green < (80 + green.min()) / 2).sum() <= 40 * spots(darker)


def test_severe_bleeds_more_than_moderate_and_only_moderate_or_worse_has_what_shines() -> None:
    pictures = [[painted(grade, seed)[..., 1] for seed in SEEDS] for grade in range(1, 5)]
    retina = healthy(512)[..., 1] > 0
    blood = [[spots((green < 74) & retina) for green in eyes] for eyes in pictures]
    shining = np.array([[(green > 90).sum() for green in eyes] for eyes in pictures])
    assert np.median(blood[0]) < np.median(blood[1]) < np.median(blood[2])
    assert shining[0].max() == 0
    assert (shining[1:] > 0).mean(axis=1).min() > 0.5


def test_every_proliferative_eye_has_a_sign_of_it() -> None:
    """New vessels, blood in front of the retina or laser scars: more than its haemorrhages and exudates alone cover."""
    without, with_it = (
        [(np.abs(painted(grade, seed).astype(int) - healthy(512)).max(axis=2) > 8).mean() for seed in range(12)]
        for grade in (2, 4)
    )
    assert np.median(with_it) > 2 * np.median(without)


def test_lesions_are_as_large_on_a_larger_copy() -> None:
    """Of the same eye at twice the size, about the same share is covered: edges take half a pixel at either."""
    shares = [
        np.mean([(painted(3, seed, side) != healthy(side)).any(axis=2).mean() for seed in SEEDS])
        for side in (512, 1024)
    ]
    assert shares[0] == pytest.approx(shares[1], rel=0.25)
