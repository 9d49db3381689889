"""Folders named by grades and splits: a name counts only together with those beside it."""

import pytest

from tools.sources.folders import folder_splits, grade_folders
from tools.sources.scales import ICDR, open_scale


def grades(*folders: str) -> dict[str, int] | None:
    found = grade_folders(folders, ICDR)
    return None if found is None else found.grades


def test_digits_and_words() -> None:
    assert grades("0", "1", "2", "4") == {"0": 0, "1": 1, "2": 2, "4": 4}
    assert grades("x/No_DR", "x/Mild", "x/Proliferate_DR") == {"x/No_DR": 0, "x/Mild": 1, "x/Proliferate_DR": 4}
    assert grades("grade_0", "grade_1") == {"grade_0": 0, "grade_1": 1}
    assert grades("0 - No_DR", "3 - Severe") == {"0 - No_DR": 0, "3 - Severe": 3}
    assert grades("train/anodr", "test/anodr", "test/bmilddr") == {"train/anodr": 0, "test/anodr": 0, "test/bmilddr": 1}


def test_the_folder_above_may_be_split_or_grade_first() -> None:
    assert grades("0/train", "0/test", "1/train") == {"0/train": 0, "0/test": 0, "1/train": 1}


@pytest.mark.parametrize(
    "folders",
    [
        ("0", "1", "2", "3", "4", "5"),  # parts of a download
        ("1", "2", "3", "4", "12", "265"),  # patients
        ("a/1", "a/2", "b/5", "b/6"),  # patients of two parts
        ("0", "1", "2", "images"),
        ("Normal", "Cataract", "Glaucoma"),
        ("healthy", "MA"),
        ("0",),  # one part, one patient
        ("1. No DR signs", "2. Mild (or early) NPDR", "7. Advanced PDR"),  # another scale
        ("", "train", "test"),
    ],
)
def test_what_does_not_read_as_grades_all_through_is_none(folders: tuple[str, ...]) -> None:
    assert grades(*folders) is None


def test_one_to_four_and_nought_and_one_can_be_read_in_two_ways() -> None:
    for names in (("1", "2", "3", "4"), ("0", "1")):
        found = grade_folders(names, ICDR)
        assert found is not None
        assert "--layout folders" in found.doubt
    found = grade_folders(("1", "2", "3", "4"), ICDR, insist=True)
    assert found is not None
    assert found.grades == {"1": 1, "2": 2, "3": 3, "4": 4}


def test_folders_of_another_scale() -> None:
    found = grade_folders(("1. No DR signs", "5. Very Severe NPDR", "7. Advanced PDR"), open_scale("paraguay"))
    assert found is not None
    assert list(found.grades.values()) == [0, 3, 4]


def test_splits_of_folders() -> None:
    assert folder_splits(["x/train/0", "x/val/0", "x/other/0", ""]) == {
        "x/train/0": "train",
        "x/val/0": "val",
        "x/other/0": "",
        "": "",
    }
    assert folder_splits(["train", "val", "val_single"])["val_single"] == ""
    assert folder_splits(["a. Training Set", "b. Testing Set"]) == {
        "a. Training Set": "train",
        "b. Testing Set": "test",
    }
