from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from pipeline.cache.baselines import no_image_baselines
from pipeline.metrics import confusion_counts, quadratic_kappa

COURSE = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "course"


def table(*rows: tuple[str, int, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["patient", "grade", "split"])


@pytest.mark.skipif(not COURSE.exists(), reason="needs ../shared/data/course")
def test_the_course_tables_score_84_percent_without_a_photograph() -> None:
    parts = []
    for split in ("train", "test"):
        ids = pd.read_csv(COURSE / f"{split}_img.csv", header=None, dtype=str)[0]
        grades = pd.read_csv(COURSE / f"{split}_label.csv", header=None)[0]
        parts.append(
            pd.DataFrame(
                {"patient": ids.str.replace(r"_(left|right)$", "", regex=True), "grade": grades, "split": split}
            )
        )
    found = no_image_baselines(pd.concat(parts))
    assert found is not None
    assert (found.photographs, found.leaked, found.majority_grade) == (7026, 5618, 0)
    assert round(100 * found.majority.accuracy, 2) == 73.36
    assert found.majority.kappa == 0
    assert round(100 * found.fellow_eye.accuracy, 2) == 84.73
    assert round(found.fellow_eye.kappa, 3) == 0.723


def test_the_fellow_eye_lends_its_training_grade_and_strangers_get_the_majority() -> None:
    found = no_image_baselines(
        table(
            ("a", 2, "train"),
            ("b", 2, "train"),
            ("c", 0, "train"),
            ("a", 2, "test"),
            ("c", 1, "test"),
            ("d", 4, "test"),
        )
    )
    assert found is not None
    assert (found.leaked, found.majority_grade) == (2, 2)
    assert found.fellow_eye.counts[2, 2] == found.fellow_eye.counts[1, 0] == found.fellow_eye.counts[4, 2] == 1
    assert found.fellow_eye.accuracy == pytest.approx(1 / 3)


def test_a_patient_with_several_training_photographs_passes_on_the_worst() -> None:
    found = no_image_baselines(table(("a", 1, "train"), ("a", 3, "train"), ("b", 1, "train"), ("a", 3, "val")), "val")
    assert found is not None
    assert found.fellow_eye.accuracy == 1


def test_nothing_leaks_then_both_baselines_agree() -> None:
    found = no_image_baselines(table(("a", 0, "train"), ("b", 3, "test"), ("c", 0, "test")))
    assert found is not None
    assert found.leaked == 0
    assert (found.fellow_eye.counts == found.majority.counts).all()


def test_photographs_without_a_grade_count_nowhere() -> None:
    found = no_image_baselines(table(("a", 0, "train"), ("b", -1, "train"), ("b", 0, "test"), ("a", -1, "test")))
    assert found is not None
    assert (found.photographs, found.leaked) == (1, 0)


@pytest.mark.parametrize("rows", [[("a", -1, "train"), ("b", 1, "test")], [("a", 1, "train"), ("b", -1, "test")], []])
def test_without_grades_on_both_sides_there_is_no_baseline(rows: list[tuple[str, int, str]]) -> None:
    assert no_image_baselines(table(*rows)) is None


@pytest.mark.parametrize("seed", range(20))
def test_counts_and_kappa_are_those_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    grades = random.choice(5, size=1 + 7 * seed, p=random.dirichlet(np.ones(5)))
    predicted = np.where(random.random(len(grades)) < 0.5, grades, random.integers(0, 5, len(grades)))
    counts = confusion_counts(grades, predicted)
    assert (counts == confusion_matrix(grades, predicted, labels=range(5))).all()
    if len({*grades, *predicted}) > 1:
        expected = cohen_kappa_score(grades, predicted, weights="quadratic", labels=range(5))
        assert quadratic_kappa(counts) == pytest.approx(expected)


@pytest.mark.parametrize("predicted", [[0, 0, 0], [0, 1, 4], [3, 3, 3]])
def test_a_split_of_one_grade_has_kappa_zero(predicted: list[int]) -> None:
    assert quadratic_kappa(confusion_counts([0, 0, 0], predicted)) == 0
