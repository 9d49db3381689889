from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.cache.cache import open_cache
from pipeline.errors import CacheError
from tests.trainer.conftest import Trained
from trainer.evaluation.characteristics import characteristics, frames, kept_groups, sizes, thirds, value_groups
from trainer.run_folder import RunFolder


def test_a_frame_cuts_a_circle_that_reaches_past_it() -> None:
    circles = [(50, 50, 49), (50, 40, 49), (50, 50.5, 50), (30, 50, 49), (np.nan, np.nan, np.nan)]
    table = pd.DataFrame(circles, columns=["cx", "cy", "radius"]).assign(width=100, height=[100, 80, 100, 100, 100])
    assert frames(table).tolist() == [
        "whole circle",
        "circle cut off",  # above and below: 9 px of 49
        "whole circle",  # by 0.5 px of 50: the finder is no better than that
        "circle cut off",  # on the left
        "no circle found",
    ]


def test_rare_sizes_are_one_group() -> None:
    table = pd.DataFrame({"width": [1024] * 12 + [640] * 10 + [512] * 9, "height": [683] * 12 + [480] * 10 + [512] * 9})
    assert sizes(table).value_counts(sort=False).to_dict() == {
        "1024 x 683 px": 12,
        "640 x 480 px": 10,
        "other sizes": 9,
    }


def test_thirds_are_thirds_and_part_no_equals() -> None:
    named = thirds(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, np.nan]))
    assert named.tolist() == ["palest third"] * 2 + ["middle third"] * 2 + ["reddest third"] * 2 + ["no light"]
    assert thirds(np.full(9, 0.4)).nunique() == 1


def test_groups_of_a_run_are_those_of_its_photographs(trained: Trained) -> None:
    """The photographs of the tiny cache are right eyes of one size, the redder the higher their grade."""
    cache, table = open_cache(trained.cache), RunFolder(trained.run).read_predictions("test")
    found = characteristics(cache, table["id"])
    assert set(found) == {"Colour"}
    by_grade = found["Colour"][table["grade"].argsort()].tolist()
    assert by_grade == sorted(by_grade, key=["palest third", "middle third", "reddest third"].index)
    assert found["Colour"].nunique() == 3


def test_each_value_of_a_column_is_a_group_and_an_empty_cell_is_not_stated() -> None:
    groups = value_groups(pd.Series(["Topcon", " ", "Canon", "", "Topcon\n ", "10", "9"]))
    assert groups.tolist() == ["Topcon", "not stated", "Canon", "not stated", "Topcon", "10", "9"]
    assert [name for name in groups.cat.categories if (groups == name).any()] == [
        "9", "10", "Canon", "Topcon", "not stated",
    ]  # fmt: skip
    odd = value_groups(pd.Series(["nan", "3", "b", "-inf", "1", "2"]))  # pandas calls the first a number
    assert odd.cat.categories.tolist() == ["1", "2", "3", "-inf", "b", "nan", "not stated"]


def test_more_than_ten_numbers_become_quartiles_and_words_stay_groups() -> None:
    ages = [str(age) for age in range(30, 50)] + ["", "NA"]
    groups = value_groups(pd.Series(ages))
    assert groups.value_counts(sort=False).to_dict() == {
        "30 to 34": 5, "35 to 39": 5, "40 to 44": 5, "45 to 49": 5, "NA": 1, "not stated": 1,
    }  # fmt: skip
    assert value_groups(pd.Series([str(n) for n in range(10)])).nunique() == 10
    assert value_groups(pd.Series([str(n / 8) for n in range(12)])).tolist()[0] == "0 to 0.25"
    equal = value_groups(pd.Series(["50"] * 30 + [str(n) for n in range(60, 70)]))
    assert (equal == equal[0]).sum() == 30


def test_a_column_that_was_not_kept_or_makes_no_groups_is_told(make_cache: Callable[..., Path]) -> None:
    pictures = {f"{n}_left": np.full((32, 32, 3), n, np.uint8) for n in range(60)}
    cells = {"site": dict.fromkeys(pictures, "North"), "name": {id: f"x{id}" for id in pictures}}
    path = make_cache(pictures, dict.fromkeys(pictures, 0), kept=cells)
    cache = open_cache(path)
    assert kept_groups(cache, "train", ["site", "site"])["site"].to_dict() == cells["site"]
    with pytest.raises(CacheError, match=r"no column 'sex' was kept; the columns kept are: site, name"):
        kept_groups(cache, "train", ["site", "sex"])
    with pytest.raises(CacheError, match=r"column 'name' has 60 different values, at most 50 make groups"):
        kept_groups(cache, "train", ["name"])
    with pytest.raises(CacheError, match=r"none; `tools preprocess --keep-column` keeps one"):
        kept_groups(open_cache(make_cache(pictures, name="bare")), "train", ["site"])
