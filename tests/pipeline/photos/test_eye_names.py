"""A photograph's name tells patient and eye, as public sets name theirs."""

import pytest

from pipeline.photos.eye_names import eye_name


@pytest.mark.parametrize(
    ("name", "patient", "eye"),
    [
        ("17_left", "17", "left"),
        ("train/17_right-600-FA.jpeg", "17", "right"),
        ("P001_OD.png", "P001", "right"),
        ("P001-os", "P001", "left"),
        ("IMG_17_R.JPG", "IMG_17", "right"),
        ("1_l2.jpg", "1", "left"),
        ("12.3.jpg", "12", ""),
        ("scan.png", "", ""),
        ("left.png", "", ""),
        ("", "", ""),
    ],
)
def test_names(name: str, patient: str, eye: str) -> None:
    assert eye_name(name) == (patient, eye)
