"""The referral with and without ungradable photographs: every number here is counted by hand."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from trainer.evaluation.metrics import predictions_table
from trainer.evaluation.ungradable import Decided, Ungradable, measure_ungradable
from trainer.network.metadata import Operating

POINT = Operating(1.0, 0.5, "sensitivity", 0.9)
Row = tuple[str, str, int, str, str, int]
"""id, patient, grade, split, flags, and the grade that the network is sure of; -1: no prediction."""
ROWS: list[Row] = [
    ("a_l", "a", 2, "test", "", 2),  # found
    ("a_r", "a", -1, "", "ungradable", -1),
    ("b_l", "b", 3, "test", "", 0),  # missed, but for the other eye
    ("b_r", "b", -1, "", "cropped ungradable", -1),
    ("c_l", "c", 0, "test", "", 0),  # passed rightly, but for the other eye
    ("c_r", "c", 0, "", "ungradable", -1),
    ("d_l", "d", 0, "test", "", 4),  # referred wrongly
    ("e_l", "e", 1, "test", "blank", 1),  # passed rightly
    ("f_l", "f", 4, "train", "", -1),
    ("f_r", "f", -1, "", "ungradable", -1),  # of train
    ("g_l", "g_l", -1, "", "ungradable", -1),  # nothing tells whose
    ("h_l", "h", -1, "", "ungradable", -1),  # both eyes of h are
    ("h_r", "h", 4, "", "ungradable", -1),
]


def measured(split: str, rows: list[Row] = ROWS, operating: Operating | None = POINT) -> Ungradable | None:
    table = pd.DataFrame(rows, columns=["id", "patient", "grade", "split", "flags", "given"])
    seen = table[table["given"] >= 0] if split != "all" else table
    p = np.eye(5, dtype=np.float32)[seen["given"].clip(lower=0)]
    return measure_ungradable(table, split, predictions_table(seen["id"], seen["grade"].to_numpy(), p), operating)


def counts(decided: Decided | None) -> tuple[int, int, int, int, int]:
    assert decided is not None
    return (
        decided.true_positive,
        decided.false_positive,
        decided.false_negative,
        decided.true_negative,
        decided.no_grade,
    )


def test_of_a_split_those_count_whose_patient_is_in_it_and_the_others_are_said() -> None:
    found = measured("test")
    assert found is not None
    assert (found.ungradable, found.graded, found.not_counted) == (3, 1, 3)  # a, b, c; not g and the two of h
    assert found.photographs is not None
    assert found.patients is not None
    assert counts(found.photographs.left_out) == (1, 1, 1, 2, 0)
    # the right eye of c has grade 0 and is referred: a false positive; those of a and b have no grade
    assert counts(found.photographs.referred) == (1, 2, 1, 2, 2)
    assert counts(found.patients.left_out) == (1, 1, 1, 2, 0)
    # b is no longer missed, c is referred wrongly
    assert counts(found.patients.referred) == (2, 2, 0, 1, 0)


def test_sensitivity_specificity_and_the_share_referred_follow_from_the_counts() -> None:
    found = measured("test")
    assert found is not None
    assert found.photographs is not None
    left_out, referred = found.photographs.left_out, found.photographs.referred
    assert left_out is not None
    assert referred is not None
    assert (left_out.sensitivity, left_out.specificity, left_out.referred) == (1 / 2, 2 / 3, 2 / 5)
    assert (referred.sensitivity, referred.specificity, referred.referred) == (1 / 2, 2 / 4, 5 / 8)
    low, high = referred.intervals["referred"]  # type: ignore[misc]
    assert low < 5 / 8 < high  # type: ignore[operator]


def test_of_another_cache_all_count_and_a_graded_one_is_not_decided_twice() -> None:
    found = measured("all")
    assert found is not None
    assert (found.ungradable, found.graded, found.not_counted) == (7, 2, 0)
    assert found.photographs is not None
    assert found.patients is not None
    # h_r has grade 4: found; f_l is predicted 0 here and has 4: missed
    assert counts(found.photographs.left_out) == (1, 1, 2, 2, 0)
    assert counts(found.photographs.referred) == (2, 2, 2, 2, 5)
    assert counts(found.patients.referred) == (4, 2, 0, 1, 1)  # a b f h, c d, e; g has no grade


def test_without_ungradable_photographs_or_a_threshold_there_is_nothing() -> None:
    assert measured("test", [row for row in ROWS if "ungradable" not in row[4]]) is None
    assert measured("test", operating=None) is None
    assert measured("test", [ROWS[0], ROWS[8], ROWS[9]]) is None  # the only one is of train


def test_where_none_counts_the_others_are_said_all_the_same() -> None:
    found = measured("test", [ROWS[0], ROWS[10]])
    assert found == Ungradable(0, 0, 1, None, None)


@pytest.mark.parametrize("keep", [["h_l", "h_r"], ["a_l", "a_r"], ["c_r"]])
def test_the_barest_sets_have_stated_results_and_no_nan(keep: list[str]) -> None:
    found = measured("all", [row for row in ROWS if row[0] in keep])
    assert found is not None
    json.dumps(asdict(found), allow_nan=False)
    assert found.photographs is not None
    assert (found.photographs.left_out is None) == ("a_l" not in keep)
