"""Subgroups, such as clinics, cameras or sexes: the figures of each group, and how it differs from the rest.

Intervals are by a bootstrap over patients; each resample measures the group and the rest. P-values are by a permutation
test over patients (Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005; no p is 0: Phipson and Smyth,
Statistical Applications in Genetics and Molecular Biology 2010). Patients are exchanged between the group and the rest,
referable ones for referable ones and others for others, so the group keeps its share of referable patients. A patient
with photographs in both has the two parts exchanged.

The test does not need large groups. It is valid for shares of 0 or 1, which do not vary over resamples. Its limits: it
shows that a group differs, not why (more doubtful cases among its referable patients are a difference too); a kappa
that differs only because more of the group is referable is not a difference by it; p is at least 1 / (PERMUTATIONS +
1).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.grades import N_GRADES, REFERABLE
from pipeline.metrics import quadratic_kappas
from trainer.evaluation.bootstrap import Figures, Floats, Interval, Resamples, interval, intervals, single
from trainer.evaluation.metrics import plain_value
from trainer.evaluation.operating_point import REFERRAL_SHARES
from trainer.evaluation.weighted_metrics import SHARES, Ranking, Sample, patients_behind, shares

LEAST: Final = 10
"""A group needs this many referable patients, and this many others, to have figures."""
COMPARED: Final = ("sensitivity", "specificity", "referable_auc", "kappa")
"""Figures that are compared with the rest."""
LEVEL: Final = 0.05
"""A corrected p below this is significant."""
PERMUTATIONS: Final = 4999
"""With 4,999 the smallest p, 0.0002, is significant even after correction over 250 comparisons."""
AS_LARGE: Final = 100
"""No more permutations are drawn after this many with as large a difference: p is then known to a tenth of itself."""
_BLOCK: Final = 128
_ACCURACY: Final = {"accuracy": SHARES["accuracy"]}
_REFERRAL: Final = {name: REFERRAL_SHARES[name] for name in ("sensitivity", "specificity")}


@dataclass(frozen=True)
class Comparison:
    """A figure of a group, compared with that of all other photographs, including those with "not stated"."""

    difference: float | None
    """The group's figure minus the rest's; None if one of them is not defined."""
    interval: Interval | None
    """95 % interval; None if the group's or the rest's figure is the same in every resample."""
    p: float | None
    """Two-sided p-value of this comparison alone."""
    p_holm: float | None
    """Corrected over all comparisons of all groups measured together (Holm, Scandinavian J. of Statistics 1979)."""


@dataclass(frozen=True)
class Group:
    name: str
    photographs: int
    patients: int
    referable: int
    """Photographs of grade 2 or worse."""
    referable_patients: int
    """Patients with such a photograph."""
    figures: Mapping[str, float | None] | None
    """Accuracy and those of COMPARED; None for one that is not defined. None for a group that is too small (LEAST)."""
    intervals: Mapping[str, Interval | None] | None
    """95 % intervals by name of a figure."""
    against_rest: Mapping[str, Comparison] | None
    """Comparisons by name of a figure; None if the group or the rest is too small."""


@dataclass(frozen=True)
class Column:
    """The groups of one characteristic."""

    name: str
    groups: Sequence[Group]


@dataclass(frozen=True)
class Worst:
    """The worst group: that with the largest significant deficit, after correction, in any of COMPARED. If there is
    none, that with the lowest AUC for referable retinopathy; if several have it, the lowest sensitivity."""

    column: str
    group: str
    figure: str
    significant: bool


@dataclass(frozen=True)
class Subgroups:
    """The `subgroups` part of metrics_*.json."""

    columns: Sequence[Column]
    comparisons: int
    """Number of p-values that Holm's correction covers: all figures of COMPARED for all groups of all columns."""
    worst: Worst | None
    """None if fewer than two groups have figures."""
    level: float = LEVEL
    least: int = LEAST
    permutations: int = PERMUTATIONS


def measure_subgroups(sample: Sample, labels: Mapping[str, "pd.Series[Any]"], threshold: float | None) -> Subgroups:
    """Measures the groups of a sample of n photographs. labels: by column, their groups (n,), as ordered categories.
    threshold: photographs with at least this p(referable) are referred; None: those whose predicted grade is
    referable."""
    measured, resamples = [], Resamples(sample.n_patients)
    for column, names in labels.items():
        groups = [
            _measure_group(sample, str(name), (names == name).to_numpy(bool), threshold, resamples)
            for name in names.cat.categories
            if (names == name).any()
        ]
        measured.append(Column(column, groups))
    found = [comparison.p for column in measured for group in column.groups for comparison in _compared(group)]
    corrected = iter(holm([p for p in found if p is not None]))
    columns = [replace(column, groups=[_with_holm(group, corrected) for group in column.groups]) for column in measured]
    return Subgroups(columns, sum(p is not None for p in found), _worst(columns))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected by Holm's step-down method, in the same order. It keeps the probability of any false alarm
    among all of them below the level.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.arange(len(p_values), 0, -1) * np.asarray(p_values, np.float64)[order]
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return [float(p) for p in corrected]


class _Part:
    """Some photographs of a sample: the group, the rest, or all of them."""

    def __init__(self, sample: Sample, threshold: float | None) -> None:
        self.sample = sample
        self._has = sample.grades >= REFERABLE
        referred = sample.predicted >= REFERABLE if threshold is None else sample.referral_scores >= threshold
        self._referrals = sample.tally(2 * self._has + referred, 4)
        self._ranking = Ranking.of(self._has, sample.p_referable, sample.patients)

    @property
    def referable(self) -> NDArray[np.bool_]:
        """(patients,) whether the patient has a photograph of grade 2 or worse."""
        return np.asarray(self._referrals[:, 2:].sum(axis=1) > 0)

    @property
    def enough(self) -> bool:
        """Whether there are enough patients of both classes for figures."""
        referable = int(self.referable.sum())
        return referable >= LEAST and self.sample.n_patients - referable >= LEAST

    def figures(self, weights: Floats) -> Figures:
        """(rounds,) each, from weights (patients, rounds)."""
        counts = weights.T @ self.sample.confusions
        return {
            **shares(counts, _ACCURACY),
            **shares(weights.T @ self._referrals, _REFERRAL),
            "referable_auc": self._ranking.auc(weights),
            "kappa": quadratic_kappas(counts.reshape(-1, N_GRADES, N_GRADES)),
        }

    def behind(self) -> dict[str, NDArray[np.int64]]:
        """The number of patients behind each figure that is a share, by name."""
        return patients_behind(self._referrals, _REFERRAL) | patients_behind(self.sample.confusions, _ACCURACY)


class _Cut:
    """A sample cut into a group and the rest."""

    def __init__(self, sample: Sample, inside: NDArray[np.bool_], threshold: float | None) -> None:
        self._sample, self._inside, self._threshold = sample, inside, threshold
        self._members, self._parts = {}, {}
        for name, side in (("group", inside), ("rest", ~inside)):
            if side.any():
                members, codes = np.unique(sample.patients[side], return_inverse=True)
                self._parts[name] = _Part(sample.part(side, codes.astype(np.int64)), threshold)
                self._members[name] = members

    @property
    def group(self) -> _Part:
        return self._parts["group"]

    @property
    def rest(self) -> _Part | None:
        """None if the group is the whole sample."""
        return self._parts.get("rest")

    def resampled(self, resamples: Resamples) -> tuple[Figures, Figures]:
        """Figures of the group and of the rest in the same resamples of patients. Without a rest it has none."""

        def both(weights: Floats) -> Figures:
            found = {side: part.figures(weights[self._members[side]]) for side, part in self._parts.items()}
            return {f"{side} {name}": values for side, figures in found.items() for name, values in figures.items()}

        found = resamples.figures(both)
        group, rest = (
            {name.removeprefix(side): values for name, values in found.items() if name.startswith(side)}
            for side in ("group ", "rest ")
        )
        return group, rest

    def p_values(self, differences: Mapping[str, float]) -> dict[str, float | None]:
        """The p-value of each of COMPARED: how often permutations give a difference as large, in either direction.

        differences: those between the group and the rest. Drawing ends when each of them has been reached AS_LARGE
        times (Besag and Clifford, Biometrika 1991), because large p-values need not be known exactly.
        """
        pairs, units = np.unique(2 * self._sample.patients + self._inside, return_inverse=True)
        patient, inside = pairs // 2, pairs % 2 == 1  # (units,): a unit is what a patient has on one side
        whole = np.bincount(patient)[patient] == 1
        part = _Part(replace(self._sample, patients=units.astype(np.int64)), self._threshold)
        strata = [np.flatnonzero(whole & (part.referable == has)) for has in (False, True)]
        both = np.flatnonzero(~whole).reshape(-1, 2)  # the two units of a patient are neighbours
        random, as_large = np.random.default_rng(0), {name: np.empty(0, bool) for name in COMPARED}
        for start in range(0, PERMUTATIONS, _BLOCK):
            weights = np.repeat(inside[:, None].astype(np.float64), min(_BLOCK, PERMUTATIONS - start), axis=1)
            for stratum in strata:
                weights[stratum] = random.permuted(weights[stratum], axis=0)
            weights[both[:, 0]] = random.integers(2, size=(len(both), weights.shape[1]))
            weights[both[:, 1]] = 1 - weights[both[:, 0]]
            group, rest = part.figures(weights), part.figures(1 - weights)
            for name, found in as_large.items():
                # 1e-12: sums in another order differ in the last digit. One that is not defined counts as large.
                smaller = np.abs(group[name] - rest[name]) < abs(differences[name]) - 1e-12
                as_large[name] = np.append(found, ~smaller)
            if all(found.sum() >= AS_LARGE for found in as_large.values()):
                break
        return {name: None if np.isnan(differences[name]) else _p_value(as_large[name]) for name in COMPARED}


def _p_value(as_large: NDArray[np.bool_]) -> float:
    """The p-value, from whether each permutation, in the order of drawing, has as large a difference."""
    places = np.flatnonzero(as_large)
    if len(places) >= AS_LARGE:
        return float(AS_LARGE / (places[AS_LARGE - 1] + 1))
    return (len(places) + 1) / (len(as_large) + 1)


def _measure_group(
    sample: Sample, name: str, inside: NDArray[np.bool_], threshold: float | None, resamples: Resamples
) -> Group:
    cut = _Cut(sample, inside, threshold)
    group = Group(
        name=name,
        photographs=int(inside.sum()),
        patients=cut.group.sample.n_patients,
        referable=int((sample.grades[inside] >= REFERABLE).sum()),
        referable_patients=int(cut.group.referable.sum()),
        figures=None,
        intervals=None,
        against_rest=None,
    )
    if not cut.group.enough:
        return group
    ours = cut.group.figures(cut.group.sample.equal_weights)
    resampled, resampled_rest = cut.resampled(resamples)
    group = replace(
        group,
        figures={name: plain_value(value[0]) for name, value in ours.items()},
        intervals={name: single(each) for name, each in intervals(ours, resampled, cut.group.behind()).items()},
    )
    if cut.rest is None or not cut.rest.enough:
        return group
    theirs = cut.rest.figures(cut.rest.sample.equal_weights)
    differences = {name: ours[name].item() - theirs[name].item() for name in COMPARED}
    p, against = cut.p_values(differences), {}
    for name, difference in differences.items():
        one, other = resampled[name], resampled_rest[name]
        limits = interval(difference, one - other) if _varies(one) and _varies(other) else None
        against[name] = Comparison(plain_value(difference), interval=limits, p=p[name], p_holm=None)
    return replace(group, against_rest=against)


def _varies(values: Floats) -> bool:
    """Whether resamples (rounds,) of a figure differ at all."""
    known = values[~np.isnan(values)]
    return bool(len(known)) and bool(known.min() < known.max())


def _compared(group: Group) -> list[Comparison]:
    return list(group.against_rest.values()) if group.against_rest else []


def _with_holm(group: Group, corrected: Iterator[float]) -> Group:
    if group.against_rest is None:
        return group
    against = {
        figure: comparison if comparison.p is None else replace(comparison, p_holm=next(corrected))
        for figure, comparison in group.against_rest.items()
    }
    return replace(group, against_rest=against)


def _worst(columns: Sequence[Column]) -> Worst | None:
    measured = [(column.name, group) for column in columns for group in column.groups if group.figures]
    if len(measured) < 2:
        return None
    deficits = [
        (comparison.difference, Worst(column, group.name, figure, True))
        for column, group in measured
        for figure, comparison in (group.against_rest or {}).items()
        if comparison.p_holm is not None and comparison.p_holm < LEVEL and (comparison.difference or 0) < 0
    ]
    if deficits:
        return min(deficits, key=lambda each: each[0] or 0)[1]

    def rank(place: tuple[str, Group]) -> tuple[float, float]:
        figures = place[1].figures or {}
        return figures["referable_auc"] or 0, figures["sensitivity"] or 0

    column, group = min(measured, key=rank)
    return Worst(column, group.name, "referable_auc", False)
