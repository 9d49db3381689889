from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, cohen_kappa_score, recall_score, roc_auc_score

from trainer.evaluation import subgroups
from trainer.evaluation.characteristics import ordered
from trainer.evaluation.subgroups import COMPARED, Comparison, Group, Subgroups, holm, measure_subgroups
from trainer.evaluation.weighted_metrics import Sample
from trainer.reporting.subgroups import subgroup_lines, worst_line


def drawn(patients: int, seed: int = 0, skill: float = 2.0) -> Sample:
    """Two photographs of each patient, of one grade: 0 or 2 to 4 in equal shares, told apart by `skill`."""
    random = np.random.default_rng(seed)
    grades = random.choice([0, 0, 0, 2, 3, 4], patients).repeat(2)
    logits = random.normal(0, 1, (2 * patients, 5))
    logits[np.arange(2 * patients), grades] += skill
    p = np.exp(logits)
    p = (p / p.sum(axis=1, keepdims=True)).astype(np.float32)
    return Sample(grades.astype(np.int64), p.argmax(axis=1).astype(np.int64), p, np.arange(patients).repeat(2))


def spoilt(sample: Sample, inside: NDArray[np.bool_]) -> Sample:
    """The same with the probabilities of some photographs dealt out among themselves."""
    order = np.arange(len(sample.grades))
    order[inside] = np.random.default_rng(9).permutation(order[inside])
    return replace(sample, probabilities=sample.probabilities[order], predicted=sample.predicted[order])


def by_site(sample: Sample, sites: str, threshold: float | None = 0.4, seed: int = 1) -> Subgroups:
    """Patients dealt out to sites at random."""
    return measure_subgroups(sample, {"site": dealt(sample, sites, seed)}, threshold)


def dealt(sample: Sample, sites: str, seed: int = 1) -> "pd.Series[str]":
    names = np.random.default_rng(seed).choice(list(sites), sample.n_patients)[sample.patients]
    return ordered(names, sorted(set(sites)))


def group_of(found: Subgroups, name: str) -> Group:
    return next(group for column in found.columns for group in column.groups if group.name == name)


def against_rest(found: Subgroups, name: str) -> "dict[str, Comparison]":
    return dict(group_of(found, name).against_rest or {})


def figures_by_scikit_learn(sample: Sample, part: NDArray[np.bool_], threshold: float) -> dict[str, float]:
    grades, predicted = sample.grades[part], sample.predicted[part]
    truth, score = grades >= 2, sample.probabilities[part, 2:].sum(axis=1, dtype=np.float64)
    return {
        "accuracy": accuracy_score(grades, predicted),
        "sensitivity": recall_score(truth, score >= threshold),
        "specificity": recall_score(~truth, score < threshold),
        "referable_auc": roc_auc_score(truth, score),
        "kappa": cohen_kappa_score(grades, predicted, labels=range(5), weights="quadratic"),
    }


@pytest.mark.parametrize("threshold", [0.4, 0.6])
def test_figures_of_a_group_and_its_differences_are_scikit_learns(threshold: float) -> None:
    sample = drawn(150)
    sites = dealt(sample, "ABB")
    found = measure_subgroups(sample, {"site": sites}, threshold)
    for name in "AB":
        part, group = (sites == name).to_numpy(), group_of(found, name)
        ours, theirs = (figures_by_scikit_learn(sample, mask, threshold) for mask in (part, ~part))
        assert group.photographs == 2 * group.patients == part.sum()
        assert group.referable == 2 * group.referable_patients == (sample.grades[part] >= 2).sum()
        assert group.figures == pytest.approx(ours)
        for figure, comparison in against_rest(found, name).items():
            assert comparison.difference == pytest.approx(ours[figure] - theirs[figure])
            low, high = comparison.interval  # type: ignore[misc]
            assert low < comparison.difference < high  # type: ignore[operator]
            assert group.intervals[figure][0] <= ours[figure] <= group.intervals[figure][1]  # type: ignore[index]


def test_without_a_threshold_the_predicted_grade_refers() -> None:
    sample = drawn(60)
    truth, given = sample.grades >= 2, sample.predicted >= 2
    figures = group_of(by_site(sample, "A", threshold=None), "A").figures
    assert figures is not None
    assert figures["sensitivity"] == pytest.approx(recall_score(truth, given))


def test_a_site_that_is_made_worse_is_found_and_named() -> None:
    sample = drawn(300)
    sites = dealt(sample, "ABCD")
    found = measure_subgroups(spoilt(sample, (sites == "C").to_numpy()), {"site": sites}, 0.4)
    bad = against_rest(found, "C")
    assert bad["referable_auc"].p_holm < 0.05  # type: ignore[operator]
    assert bad["referable_auc"].interval[1] < 0  # type: ignore[index, operator]
    assert found.worst is not None
    assert (found.worst.column, found.worst.group, found.worst.significant) == ("site", "C", True)
    deficits = {figure: comparison.difference for figure, comparison in bad.items() if comparison.p_holm < 0.05}  # type: ignore[operator]
    assert found.worst.figure == min(deficits, key=lambda figure: deficits[figure] or 0)
    assert worst_line(found).startswith("Worst group: site = C. ")


def test_random_splits_are_not_significant_and_their_p_values_are_even() -> None:
    found = [by_site(drawn(150, seed), "AB", seed=100 + seed) for seed in range(20)]
    comparisons = [c for each in found for column in each.columns for group in column.groups
                   for c in (group.against_rest or {}).values()]  # fmt: skip
    p = np.array([c.p for c in comparisons])
    assert len(p) == 20 * 2 * 4
    assert 0.4 < p.mean() < 0.7  # evenly spread from 0 to 1: 0.5; differences of shares tie, which makes p larger
    assert (p < 0.05).mean() < 0.1
    assert sum(each.worst.significant for each in found if each.worst) <= 1
    line = worst_line(found[0])
    assert line.startswith("No group is significantly worse than the rest (p below 0.05 after Holm's correction over 8")
    assert "Lowest AUC for referable retinopathy: site = " in line


def test_a_share_of_all_does_not_make_the_rest_significantly_worse() -> None:
    """Of 12 referable patients of A all are found, of 100 of B 95: likely where both are alike (0.95**12 = 0.54).
    Resamples of A never miss one, so an interval of the difference would be too narrow: there is none."""
    found_of = np.array([1] * 12 + [1] * 95 + [0] * 5 + [0] * 112, float)
    p = np.stack([1 - found_of, 0 * found_of, found_of, 0 * found_of, 0 * found_of], axis=1).astype(np.float32)
    grades = np.array([2] * 112 + [0] * 112)
    sample = Sample(grades, p.argmax(axis=1), p, np.arange(224))
    sites = ordered(np.array(["A"] * 12 + ["B"] * 100 + ["A"] * 12 + ["B"] * 100), ["A", "B"])
    compared = against_rest(measure_subgroups(sample, {"site": sites}, 0.5), "A")["sensitivity"]
    assert compared.difference == pytest.approx(0.05)
    assert compared.interval is None
    assert compared.p is not None
    assert compared.p > 0.5  # by Fisher's exact test of 12 : 0 and 95 : 5 it is 1


def test_p_is_that_of_all_permutations_where_these_can_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 referable patients of A 5 are found, of 10 of B 10. Among all ways to deal out the 5 that are missed, those
    where one site has all of them are 2 * C(10, 5) / C(20, 5) = 504 / 15504 = 0.0325 (Fisher's exact test)."""
    from scipy.stats import fisher_exact

    monkeypatch.setattr(subgroups, "AS_LARGE", 10**9)
    found_of = np.array([1] * 5 + [0] * 5 + [1] * 10 + [0] * 20, float)
    p = np.stack([1 - found_of, 0 * found_of, found_of, 0 * found_of, 0 * found_of], axis=1).astype(np.float32)
    sample = Sample(np.array([2] * 20 + [0] * 20), p.argmax(axis=1), p, np.arange(40))
    sites = ordered(np.array((["A"] * 10 + ["B"] * 10) * 2), ["A", "B"])
    compared = against_rest(measure_subgroups(sample, {"site": sites}, 0.5), "A")["sensitivity"]
    exact = fisher_exact([[5, 5], [10, 0]]).pvalue
    assert compared.p == pytest.approx(exact, abs=0.01)
    assert exact == pytest.approx(0.0325, abs=0.001)


def test_eyes_of_one_patient_change_sides_together() -> None:
    """Left eyes are read well and right ones badly: every patient lies on both sides."""
    sample = drawn(80)
    left = np.arange(160) % 2 == 0
    eyes = ordered(np.where(left, "left", "right"), ["left", "right"])
    alike = measure_subgroups(sample, {"eye": eyes}, 0.4)
    assert all(c.p_holm > 0.05 for c in against_rest(alike, "left").values())  # type: ignore[operator]
    worse = measure_subgroups(spoilt(sample, ~left), {"eye": eyes}, 0.4)
    assert worse.worst is not None
    assert (worse.worst.group, worse.worst.significant) == ("right", True)


def test_small_groups_are_listed_without_figures() -> None:
    """Of A 9 patients are referable, of B 10 are, and 40 others lie in each; of C nobody is referable."""
    grades = np.array([2] * 9 + [0] * 40 + [3] * 10 + [0] * 40 + [0] * 30)
    names = np.array(["A"] * 49 + ["B"] * 50 + ["C"] * 30)
    p = np.random.default_rng(0).dirichlet(np.ones(5), 129).astype(np.float32)
    sample = Sample(grades, p.argmax(axis=1), p, np.arange(129))
    found = measure_subgroups(sample, {"site": ordered(names, ["A", "B", "C"])}, 0.5)
    assert [group.figures is None for group in found.columns[0].groups] == [True, False, True]
    assert [group.referable_patients for group in found.columns[0].groups] == [9, 10, 0]
    assert group_of(found, "B").against_rest is None, "the rest has 9 referable patients"
    assert (found.comparisons, found.worst) == (0, None)
    lines = subgroup_lines(found)
    assert lines[0] == "Fewer than two groups have 10 referable patients and 10 others: groups are not compared."
    assert lines[1].startswith("Groups with fewer than 10 referable patients, or fewer than 10 others, are listed")


def test_one_group_alone_has_no_rest() -> None:
    found = by_site(drawn(60), "A")
    assert group_of(found, "A").figures is not None
    assert group_of(found, "A").against_rest is None


def test_the_correction_is_over_all_groups_of_all_columns() -> None:
    sample = drawn(150)
    labels = {"site": dealt(sample, "ABC"), "sex": dealt(sample, "FM", seed=2)}
    found = measure_subgroups(sample, labels, 0.4)
    every = [c for column in found.columns for group in column.groups for c in (group.against_rest or {}).values()]
    assert found.comparisons == len(every) == (3 + 2) * len(COMPARED)
    assert [c.p_holm for c in every] == pytest.approx(holm_by_hand([c.p or 0 for c in every]))
    assert "over all 20 comparisons: each group of site and sex" in subgroup_lines(found)[1]


def holm_by_hand(p_values: list[float]) -> list[float]:
    """As the paper says it: the i-th smallest of k times k - i, never smaller than the one before, at most 1."""
    corrected, before = [0.0] * len(p_values), 0.0
    for i, (p, place) in enumerate(sorted((p, place) for place, p in enumerate(p_values))):
        before = max(before, min(1.0, (len(p_values) - i) * p))
        corrected[place] = before
    return corrected


@pytest.mark.parametrize("p", [[], [0.5], [0.01, 0.04, 0.03, 0.005], [0.2, 0.2, 0.001], [0.9, 0.8, 0.6]])
def test_holm(p: list[float]) -> None:
    assert holm(p) == pytest.approx(holm_by_hand(p))


def test_the_paper_example_of_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_drawing_ends_early_for_a_p_that_is_large_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = drawn(100)
    quick = against_rest(by_site(sample, "AB"), "A")
    monkeypatch.setattr(subgroups, "AS_LARGE", 10**9)
    slow = against_rest(by_site(sample, "AB"), "A")
    for figure in COMPARED:
        assert quick[figure].p == pytest.approx(slow[figure].p, rel=0.35)
        assert quick[figure].interval == slow[figure].interval
