"""Photographs that cannot be graded, and the referral measured both ways: without them, and with each of them referred.

A photograph that nobody can grade is a reason to see the patient. A network's sensitivity without these photographs is
that of the good photographs alone; with them it is that of the whole way from camera to referral.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cache.manifest import UNGRADABLE, flagged
from pipeline.cache.splits import patients_of
from pipeline.grades import REFERABLE, UNKNOWN
from trainer.evaluation.bootstrap import Figures, Floats, Interval, Resamples, intervals, single
from trainer.evaluation.metrics import plain_value, referable_scores
from trainer.evaluation.weighted_metrics import Masks, patients_behind, shares, tally
from trainer.network.metadata import Operating

_NO_GRADE: Final = 4
_REFERRED: Final = np.isin(np.arange(5), (1, 3, _NO_GRADE))
_HAS, _HAS_NOT = np.isin(np.arange(5), (2, 3)), np.isin(np.arange(5), (0, 1))
SHARES: Final[Mapping[str, Masks]] = {
    "sensitivity": (_HAS & _REFERRED, _HAS),
    "specificity": (_HAS_NOT & ~_REFERRED, _HAS_NOT),
    "referred": (_REFERRED, np.ones(5, bool)),
}
"""Over five cells: neither, referred only, referable only, both, and referred without a grade."""


@dataclass(frozen=True)
class Decided:
    """Photographs, or patients, that were referred or not. Shares from 0 to 1, None where not defined."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int
    no_grade: int
    """Ungradable and without a grade: referred, and neither right nor wrong."""
    sensitivity: float | None
    specificity: float | None
    referred: float
    """Of all of these."""
    intervals: dict[str, Interval | None]
    """95 %, of the three shares, by patients."""

    @classmethod
    def of(cls, cells: NDArray[np.int64], patients: NDArray[np.int64]) -> "Decided | None":
        """cells (n,): numbers in SHARES; patients (n,): numbered from 0. None where n is 0."""
        if not len(cells):
            return None
        n_patients = int(patients.max()) + 1
        counts = tally(patients, n_patients, cells, 5)

        def figures(weights: Floats) -> Figures:
            return shares(weights.T @ counts, SHARES)

        values = figures(np.ones((n_patients, 1)))
        found = intervals(values, Resamples(n_patients).figures(figures), patients_behind(counts, SHARES))
        passed, wrong, missed, right, no_grade = np.bincount(cells, minlength=5).tolist()
        plain = {name: plain_value(value[0]) for name, value in values.items()}
        limits = {name: single(each) for name, each in found.items()}
        return cls(
            true_positive=right,
            false_positive=wrong,
            false_negative=missed,
            true_negative=passed,
            no_grade=no_grade,
            **plain,
            intervals=limits,
        )


@dataclass(frozen=True)
class BothWays:
    """The same photographs, or patients, decided in two ways; None where nobody is left."""

    left_out: Decided | None
    """Without the ungradable photographs."""
    referred: Decided | None
    """With them, each of them referred."""


@dataclass(frozen=True)
class Ungradable:
    """The ungradable photographs of a measured set, and the referral both ways."""

    ungradable: int
    """How many count."""
    graded: int
    """How many of them have a grade all the same."""
    not_counted: int
    """Others of the cache: nothing tells their patient, or the patient is in no split."""
    photographs: BothWays | None
    """None where none counts."""
    patients: BothWays | None
    """The worse eye decides, and an ungradable one refers."""


def measure_ungradable(
    manifest: pd.DataFrame, split: str, predictions: pd.DataFrame, operating: Operating | None
) -> Ungradable | None:
    """The referral of a split's predictions with the manifest's ungradable photographs; None without any of these, and
    without a threshold.

    Of "all" every ungradable photograph counts. Of another split those count whose patient is in it.
    """
    bad = manifest[flagged(manifest, UNGRADABLE)]
    if operating is None or bad.empty:
        return None
    owners, not_counted = patients_of(manifest, bad["id"]), 0
    if split != "all":
        placed = manifest[manifest["split"] != ""]
        patients = patients_of(manifest, placed["id"])
        not_counted = int((~owners.isin(patients)).sum())
        counted = owners.isin(patients[placed["split"] == split])
        bad, owners = bad[counted], owners[counted]
    if bad.empty:
        return Ungradable(0, 0, not_counted, None, None) if not_counted else None
    good = predictions[(predictions["grade"] != UNKNOWN) & ~predictions["id"].isin(bad["id"])]
    scores = referable_scores(good)
    table = pd.DataFrame(
        {
            "patient": pd.factorize(np.concatenate([patients_of(manifest, good["id"]), owners]))[0],
            "grade": np.concatenate([good["grade"], bad["grade"]]),
            "referred": np.concatenate([scores >= operating.threshold, np.ones(len(bad), bool)]),
        }
    )
    return Ungradable(
        ungradable=len(bad),
        graded=int((bad["grade"] != UNKNOWN).sum()),
        not_counted=not_counted,
        photographs=_both_ways(table, len(good)),
        patients=_both_ways(table, len(good), worse=True),
    )


def _both_ways(table: pd.DataFrame, gradable: int, *, worse: bool = False) -> BothWays:
    """`table`: patient (int64 from 0), grade and whether referred, the gradable photographs first."""

    def decided(rows: pd.DataFrame) -> Decided | None:
        if worse:
            rows = rows.groupby("patient", as_index=False).max()
        known, has = rows["grade"] != UNKNOWN, rows["grade"] >= REFERABLE
        cells = np.where(known, 2 * has + rows["referred"], _NO_GRADE).astype(np.int64)
        return Decided.of(cells, pd.factorize(rows["patient"])[0].astype(np.int64))

    return BothWays(decided(table.iloc[:gradable]), decided(table))
