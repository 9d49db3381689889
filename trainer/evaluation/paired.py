"""Paired comparison of two runs on the same test photographs: differences with intervals."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from pipeline.cache.cache import open_cache
from pipeline.cache.splits import patients_of
from pipeline.errors import CacheError, RunError
from trainer.evaluation.bootstrap import Figures, Floats, Interval, Resamples, interval, p_value
from trainer.evaluation.metrics import plain_value
from trainer.evaluation.weighted_metrics import Sample
from trainer.run_folder import RunFolder

PAIRED: Final = ("accuracy", "kappa", "auc")


@dataclass(frozen=True)
class Difference:
    """The difference of a figure between two runs; None if a run does not define it."""

    run: str
    against: str
    photographs: int
    patients: int
    figure: str
    value: float | None
    value_against: float | None
    difference: float | None
    """`value` minus `value_against`."""
    interval: Interval | None
    """95 % interval; None if all resamples give the same difference."""
    p: float | None
    """Two-sided p-value of this comparison alone: of twenty equally good runs, one has p < 0.05 by chance."""


def pair(run: RunFolder, against: RunFolder) -> list[Difference]:
    """Accuracy, kappa and AUC of a run minus those of another, on the graded test photographs of both.

    Both runs are measured on every resample of the patients, so photographs that are hard for both cancel out. Raises
    RunError if the runs were not measured on the same photographs, with how these differ, or if the patients are
    unknown.
    """
    one, other = (each.read_predictions("test") for each in (run, against))
    differ = unlike(one, other)
    if differ:
        raise RunError(f"they were measured on different test photographs: {differ}")
    other = other.set_index("id").loc[one["id"]].reset_index()
    patients = _patients(one["id"], run, against)
    try:
        sample, sample_against = Sample.of(one, patients), Sample.of(other, patients)
    except ValueError as error:
        raise RunError(f"they cannot be measured: {error}") from error

    def differences(weights: Floats) -> Figures:
        ours, theirs = sample.figures(weights), sample_against.figures(weights)
        return {name: ours[name] - theirs[name] for name in PAIRED}

    resampled = Resamples(sample.n_patients).figures(differences)
    found = differences(sample.equal_weights)
    ours, theirs = (each.figures(each.equal_weights) for each in (sample, sample_against))
    return [
        Difference(
            run=run.title,
            against=against.title,
            photographs=len(sample.grades),
            patients=sample.n_patients,
            figure=name,
            value=plain_value(ours[name][0]),
            value_against=plain_value(theirs[name][0]),
            difference=plain_value(found[name][0]),
            interval=interval(found[name].item(), resampled[name]),
            p=p_value(resampled[name]),
        )
        for name in PAIRED
    ]


def unlike(one: pd.DataFrame, other: pd.DataFrame) -> str:
    """How the photographs of two tables of predictions differ, in words; "" if they are the same."""
    ours, theirs = one.set_index("id")["grade"], other.set_index("id")["grade"]
    shared = ours.index.intersection(theirs.index)
    regraded = shared[ours[shared].to_numpy() != theirs[shared].to_numpy()]
    kinds = {
        "only in the first": ours.index.difference(theirs.index),
        "only in the second": theirs.index.difference(ours.index),
        "of another grade": regraded,
    }
    return ", ".join(f"{len(ids):,} {what} ({ids[0]} ...)" for what, ids in kinds.items() if len(ids))


def _patients(ids: "pd.Series[str]", *runs: RunFolder) -> "pd.Series[str]":
    """(n,) patients of the photographs, from the first run whose cache has all of them."""
    problems = []
    for run in runs:
        path = run.read_config().cache
        try:
            manifest = open_cache(path).manifest
        except CacheError as error:
            problems.append(error.message)
            continue
        if np.isin(ids, manifest["id"]).all():
            return patients_of(manifest, ids)
        problems.append(f"{path} does not hold all of them")
    raise RunError(f"whose eyes these are is not known: {'; '.join(dict.fromkeys(problems))}")
