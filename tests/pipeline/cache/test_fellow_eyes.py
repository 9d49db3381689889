"""Which photographs show the patient's other eye."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache.cache import open_cache
from pipeline.cache.eyes import fellow_eyes
from tests.conftest import write_cache

random = np.random.default_rng(0)


def picture() -> np.ndarray:
    """A picture of 64 px with structure of its own."""
    coarse = random.integers(0, 256, (16, 16, 3), np.uint8)
    return np.kron(coarse, np.ones((4, 4, 1), np.uint8))


def fellows(folder: Path, split: str, *, any_split: bool = False) -> dict[str, list[str]]:
    """Photograph of the split -> photographs of the other eye."""
    with open_cache(folder) as cache:
        ids, pairs = cache.manifest["id"], fellow_eyes(cache, split, any_split=any_split)
    found: dict[str, list[str]] = {}
    for row, fellow in zip(*pairs, strict=True):
        found.setdefault(ids[row], []).append(ids[fellow])
    return found


def test_a_fellow_is_the_same_patients_other_eye(tmp_path: Path) -> None:
    pictures = {id: picture() for id in ("1_left", "1_right", "2_left", "3_right", "alone")}
    cache = write_cache(tmp_path / "cache", pictures, dict.fromkeys(pictures, 0), dict.fromkeys(pictures, "train"))
    assert fellows(cache, "train") == {"1_left": ["1_right"], "1_right": ["1_left"]}
    assert fellows(cache, "test") == {}


def test_an_eye_with_several_photographs_has_all_of_them_as_fellows(tmp_path: Path) -> None:
    pictures = {id: picture() for id in ("a/1_left", "b/1_left", "1_right")}
    cache = write_cache(tmp_path / "cache", pictures, dict.fromkeys(pictures, 0), dict.fromkeys(pictures, "val"))
    assert fellows(cache, "val") == {
        "a/1_left": ["1_right"],
        "b/1_left": ["1_right"],
        "1_right": ["a/1_left", "b/1_left"],
    }


def test_a_fellow_is_of_the_same_visit(tmp_path: Path) -> None:
    visits = {"a/1_left": "2019", "a/1_right": "2019", "b/1_left": "2021", "b/1_right": "2021"}
    pictures = {id: picture() for id in visits}
    cache = write_cache(
        tmp_path / "cache",
        pictures,
        dict.fromkeys(pictures, 0),
        dict.fromkeys(pictures, "test"),
        kept={"Visit_ID": visits},
    )
    assert fellows(cache, "test") == {
        "a/1_left": ["a/1_right"],
        "a/1_right": ["a/1_left"],
        "b/1_left": ["b/1_right"],
        "b/1_right": ["b/1_left"],
    }


def test_a_fellow_is_in_the_same_split_or_has_no_grade_and_no_split(tmp_path: Path) -> None:
    splits = {
        "1_left": "train", "1_right": "test",  # two splits: no fellows
        "2_left": "train", "2_right": "",  # ungraded: it counts
        "3_left": "train", "b/3_left": "test", "3_right": "",  # ungraded, of a patient of two splits
        "4_left": "train", "4_right": "",  # graded, and left out of all splits
    }  # fmt: skip
    pictures = {id: picture() for id in splits}
    grades = {id: 1 for id, split in splits.items() if split or id == "4_right"}
    cache = write_cache(tmp_path / "cache", pictures, grades, splits)
    assert fellows(cache, "train") == {"2_left": ["2_right"]}
    assert fellows(cache, "test") == {}
    assert fellows(cache, "all")["1_left"] == ["1_right"]  # of another data set all photographs are measured
    elsewhere = fellows(cache, "test", any_split=True)  # or one split of it
    assert elsewhere == {"1_right": ["1_left"], "b/3_left": ["3_right"]}


@pytest.mark.parametrize("flag", ["blank", "ungradable"])
def test_a_photograph_that_shows_nothing_is_no_fellow(tmp_path: Path, flag: str) -> None:
    pictures = {id: picture() for id in ("1_left", "1_right")}
    flags = dict.fromkeys(pictures, "") | {"1_right": flag}
    cache = write_cache(
        tmp_path / "cache", pictures, dict.fromkeys(pictures, 0), dict.fromkeys(pictures, "train"), flags=flags
    )
    assert fellows(cache, "train") == {"1_right": ["1_left"]}


@pytest.mark.parametrize(
    "copy", [lambda image: image, lambda image: image[:, ::-1], lambda image: np.uint8(0.8 * image)]
)
def test_a_copy_that_is_named_as_the_other_eye_is_no_fellow(
    tmp_path: Path, copy: Callable[[np.ndarray], np.ndarray]
) -> None:
    left = picture()
    pictures = {"1_left": left, "1_right": np.ascontiguousarray(copy(left)), "2_left": picture(), "2_right": picture()}
    cache = write_cache(tmp_path / "cache", pictures, dict.fromkeys(pictures, 0), dict.fromkeys(pictures, "train"))
    assert fellows(cache, "train") == {"2_left": ["2_right"], "2_right": ["2_left"]}
