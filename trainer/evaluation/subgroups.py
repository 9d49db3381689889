"""Whether a model is as good for one clinic, camera or sex as for another: figures of the groups of a split, and how
each group differs from the rest.

Intervals are of a bootstrap over patients: one resample measures the group and the rest. P values are of a permutation
test over patients (Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005; no p is 0: Phipson and Smyth,
Statistical Applications in Genetics and Molecular Biology 2010). Patients change places between the group and the rest,
referable ones with referable ones and others with others, so the group keeps its share of referable patients. A patient
with photographs on both sides changes the two sides. The test needs no large groups, and holds where a share is 0 or 1,
which no resample varies. Its limits: it tells that a group differs, not why (more doubtful cases among its referable
patients are a difference too); a kappa that differs only because more of the group is referable is no difference by it;
p is never below 1 / (PERMUTATIONS + 1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.grades import N_GRADES, REFERABLE
from pipeline.metrics import quadratic_kappas
from trainer.evaluation.bootstrap import Figures, Floats, Limits, bootstrap, interval, intervals
from trainer.evaluation.metrics import plain_value
from trainer.evaluation.operating_point import REFERRAL_SHARES
from trainer.evaluation.weighted_metrics import SHARES, Ranking, Sample, patients_behind, shares

LEAST: Final = 10
"""Referable patients, and patients without referable retinopathy, below which a group gets no figures."""
COMPARED: Final = ("sensitivity", "specificity", "referable_auc", "kappa")
"""Figures that are compared with the rest."""
LEVEL: Final = 0.05
"""A corrected p below it is called significant."""
PERMUTATIONS: Final = 4999
"""So that the smallest p, 0.0002, is still significant after correction over 250 comparisons."""
_BLOCK: Final = 128
_REFERRAL: Final = {name: REFERRAL_SHARES[name] for name in ("sensitivity", "specificity")}


@dataclass(frozen=True)
class Comparison:
    """A figure of a group against that of the rest of the photographs, those with "not stated" among them."""

    difference: float | None
    """The group's minus the rest's; None where one of them is not defined."""
    interval: Limits
    """95 %; None where the group's or the rest's figure is the same in every resample."""
    p: float | None
    """Two-sided, of this comparison alone."""
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
    """Patients with such a photograph in the group."""
    figures: Mapping[str, float | None] | None
    """accuracy and those of COMPARED, None: undefined. None for a group that is too small, see LEAST."""
    intervals: Mapping[str, Limits] | None
    """95 %, by name of a figure."""
    against_rest: Mapping[str, Comparison] | None
    """By name of a figure; None where the group or the rest is too small."""


@dataclass(frozen=True)
class Column:
    """The groups of one characteristic."""

    name: str
    groups: Sequence[Group]


@dataclass(frozen=True)
class Worst:
    """Of the comparisons that are significant after correction the largest deficit in any of COMPARED; where there is
    none, the group with the lowest AUC for referable retinopathy, of equal ones the lowest sensitivity."""

    column: str
    group: str
    figure: str
    significant: bool


@dataclass(frozen=True)
class Subgroups:
    columns: Sequence[Column]
    comparisons: int
    """How many p values Holm's correction is over: all groups of all these columns, all figures of COMPARED."""
    worst: Worst | None
    """None where fewer than two groups have figures."""

    def as_dict(self) -> dict[str, Any]:
        """The `subgroups` part of metrics_*.json."""
        return {**asdict(self), "level": LEVEL, "least": LEAST, "permutations": PERMUTATIONS}


def measure_subgroups(sample: Sample, labels: Mapping[str, "pd.Series[Any]"], threshold: float | None) -> Subgroups:
    """The groups of a sample of n photographs; `labels`: by column, the names of their (n,) groups, as ordered
    categories. `threshold`: the p(referable) from which on to refer; None: where the predicted grade is referable."""
    measured = []
    for column, names in labels.items():
        groups = [
            _measure_group(sample, str(name), (names == name).to_numpy(bool), threshold)
            for name in names.cat.categories
            if (names == name).any()
        ]
        measured.append(Column(column, groups))
    found = [comparison.p for column in measured for group in column.groups for comparison in _compared(group)]
    corrected = iter(holm([p for p in found if p is not None]))
    columns = [replace(column, groups=[_with_holm(group, corrected) for group in column.groups]) for column in measured]
    return Subgroups(columns, sum(p is not None for p in found), _worst(columns))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected by Holm's step-down method, in their order: the chance of one false alarm or more among all of
    them stays below the level.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.arange(len(p_values), 0, -1) * np.asarray(p_values, np.float64)[order]
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return [float(p) for p in corrected]


class _Units:
    """A sample cut into a group and the rest. A unit is what one patient has on one side."""

    def __init__(self, sample: Sample, inside: NDArray[np.bool_], threshold: float | None) -> None:
        pairs, units = np.unique(2 * sample.patients + inside, return_inverse=True)
        self.patient, self.inside = pairs // 2, pairs % 2 == 1  # (units,)
        self.n_patients = sample.n_patients
        cut = replace(sample, patients=units.astype(np.int64))
        self.has = sample.grades >= REFERABLE
        referred = sample.predicted >= REFERABLE if threshold is None else sample.p_referable >= threshold
        self.confusions = cut.confusions
        self._referrals = cut.tally(2 * self.has + referred, 4)
        self._ranking = Ranking.of(self.has, sample.p_referable, cut.patients)
        self.referable = self._referrals[:, 2:].sum(axis=1)  # (units,) photographs of grade 2 or worse

    def figures(self, weights: Floats) -> Figures:
        """(rounds,) each, from weights (units, rounds)."""
        counts = weights.T @ self.confusions
        return {
            **shares(counts, {"accuracy": SHARES["accuracy"]}),
            **shares(weights.T @ self._referrals, _REFERRAL),
            "referable_auc": self._ranking.auc(weights),
            "kappa": quadratic_kappas(counts.reshape(-1, N_GRADES, N_GRADES)),
        }

    def behind(self) -> dict[str, NDArray[np.int64]]:
        """By name of a share, how many patients of the group it is a share of."""
        referral = patients_behind(self._referrals[self.inside], _REFERRAL)
        return referral | patients_behind(self.confusions[self.inside], {"accuracy": SHARES["accuracy"]})

    def enough(self, side: NDArray[np.bool_]) -> bool:
        """Whether a side, (units,), is large enough for figures."""
        referable = int((self.referable[side] > 0).sum())
        return referable >= LEAST and int(side.sum()) - referable >= LEAST

    def resampled(self) -> tuple[Figures, Figures]:
        """Figures of the group and of the rest in the same resamples of the patients."""

        def both(weights: Floats) -> Figures:
            drawn = weights[self.patient]
            group = self.figures(drawn * self.inside[:, None])
            rest = self.figures(drawn * ~self.inside[:, None])
            return group | {f"rest {name}": rest[name] for name in rest}

        found = bootstrap(self.n_patients, both)
        rest = {name.removeprefix("rest "): values for name, values in found.items() if name.startswith("rest ")}
        return {name: found[name] for name in rest}, rest

    def permuted(self, seed: int = 0) -> Figures:
        """(PERMUTATIONS,) differences between the group and the rest when patients change places."""
        random = np.random.default_rng(seed)
        units_of = np.bincount(self.patient, minlength=self.n_patients)
        whole = units_of[self.patient] == 1
        strata = [np.flatnonzero(whole & ((self.referable > 0) == has)) for has in (False, True)]
        cut = np.flatnonzero(~whole).reshape(-1, 2)  # outside and inside of one patient are neighbours
        blocks = []
        for start in range(0, PERMUTATIONS, _BLOCK):
            width = min(_BLOCK, PERMUTATIONS - start)
            weights = np.repeat(self.inside[:, None].astype(np.float64), width, axis=1)
            for stratum in strata:
                weights[stratum] = random.permuted(weights[stratum], axis=0)
            weights[cut[:, 0]] = random.integers(2, size=(len(cut), width))
            weights[cut[:, 1]] = 1 - weights[cut[:, 0]]
            group, rest = self.figures(weights), self.figures(1 - weights)
            blocks.append({name: group[name] - rest[name] for name in COMPARED})
        return {name: np.concatenate([block[name] for block in blocks]) for name in COMPARED}


def _measure_group(sample: Sample, name: str, inside: NDArray[np.bool_], threshold: float | None) -> Group:
    units = _Units(sample, inside, threshold)
    group = Group(
        name=name,
        photographs=int(inside.sum()),
        patients=int(units.inside.sum()),
        referable=int(units.has[inside].sum()),
        referable_patients=int((units.referable[units.inside] > 0).sum()),
        figures=None,
        intervals=None,
        against_rest=None,
    )
    if not units.enough(units.inside):
        return group
    ours, theirs = (units.figures(side[:, None].astype(np.float64)) for side in (units.inside, ~units.inside))
    resampled, resampled_rest = units.resampled()
    group = replace(
        group,
        figures={name: plain_value(value[0]) for name, value in ours.items()},
        intervals=intervals(ours, resampled, units.behind()),
    )
    if not units.enough(~units.inside):
        return group
    permuted, against = units.permuted(), {}
    for figure in COMPARED:
        difference = ours[figure].item() - theirs[figure].item()
        one, other = resampled[figure], resampled_rest[figure]
        limits = interval(difference, one - other) if _varies(one) and _varies(other) else None
        against[figure] = Comparison(plain_value(difference), limits, _p_value(difference, permuted[figure]), None)
    return replace(group, against_rest=against)


def _varies(values: Floats) -> bool:
    """Whether resamples (rounds,) of a figure differ at all."""
    known = values[~np.isnan(values)]
    return bool(len(known)) and bool(known.min() < known.max())


def _p_value(difference: float, permuted: Floats) -> float | None:
    """The share of permutations, the sample itself among them, whose difference is as large in either direction."""
    known = permuted[~np.isnan(permuted)]
    if np.isnan(difference) or not len(known):
        return None
    as_large = np.abs(known) >= abs(difference) - 1e-12  # sums in another order differ in the last digit
    return (int(as_large.sum()) + 1) / (len(known) + 1)


def _compared(group: Group) -> list[Comparison]:
    return list(group.against_rest.values()) if group.against_rest else []


def _with_holm(group: Group, corrected: Any) -> Group:
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
