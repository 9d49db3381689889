import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from pipeline.cache.cache import open_cache
from tests.trainer.conftest import Trained
from trainer.evaluation.subgroups import frames, measure_part, sizes, subgroups, thirds
from trainer.network.metadata import Operating
from trainer.run_folder import RunFolder


def predictions(grades: list[int], p_referable: list[float]) -> pd.DataFrame:
    """Of photographs p0, p1, ...: what is not given to grade 2 is given to grade 0."""
    p = np.array(p_referable)
    columns = {"p0": 1 - p, "p1": 0 * p, "p2": p, "p3": 0 * p, "p4": 0 * p}
    predicted = np.where(p > 0.5, 2, 0)
    return pd.DataFrame({"id": [f"p{n}" for n in range(len(p))], "grade": grades, "predicted": predicted, **columns})


def test_figures_of_a_group_are_those_of_its_photographs() -> None:
    random = np.random.default_rng(0)
    grades = random.choice([0, 2], 60).tolist()
    table = predictions(grades, random.random(60).round(2).tolist())
    patients = pd.Series([f"patient{n // 2}" for n in range(60)])
    group = measure_part("left", table, patients, Operating(1.0, 0.3, "sensitivity", 0.9))
    truth, referred = np.array(grades) >= 2, table["p2"] >= 0.3
    assert (group.photographs, group.patients, group.referable) == (60, 30, truth.sum())
    assert group.figures["accuracy"] == pytest.approx(accuracy_score(grades, table["predicted"]))
    assert group.figures["referable_auc"] == pytest.approx(roc_auc_score(truth, table["p2"]))
    assert group.figures["sensitivity"] == pytest.approx(referred[truth].mean())
    assert group.figures["specificity"] == pytest.approx((~referred)[~truth].mean())
    for name, (low, high) in group.intervals.items():
        assert low < group.figures[name] < high


def test_without_an_operating_point_the_likeliest_grade_refers() -> None:
    table = predictions([0, 0, 2, 2], [0.1, 0.6, 0.4, 0.9])
    group = measure_part("all", table, pd.Series(list("abcd")), None)
    assert (group.figures["sensitivity"], group.figures["specificity"]) == (0.5, 0.5)


def test_a_group_of_one_kind_has_no_auc() -> None:
    group = measure_part("healthy", predictions([0, 0], [0.1, 0.2]), pd.Series(["a", "b"]), None)
    assert group.figures["referable_auc"] is None
    assert group.figures["sensitivity"] is None
    assert group.figures["specificity"] == 1.0


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


def test_groups_of_a_run_add_up_to_its_photographs(trained: Trained) -> None:
    """The photographs of the tiny cache are right eyes of one size, the redder the higher their grade."""
    cache, table = open_cache(trained.cache), RunFolder(trained.run).read_predictions("test")
    found = subgroups(cache, table, table["id"], None)
    assert set(found) == {"Colour"}
    assert [group.name for group in found["Colour"]] == ["palest third", "middle third", "reddest third"]
    assert sum(group.photographs for group in found["Colour"]) == len(table) == 5
    assert found["Colour"][0].referable == 0
    assert found["Colour"][-1].referable == found["Colour"][-1].photographs
