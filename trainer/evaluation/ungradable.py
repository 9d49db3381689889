"""Ungradable photographs: the referral measured without them, and with each of them referred.

An ungradable photograph is a reason to see the patient. Without these photographs, sensitivity is that for good
photographs only. With them, it is that of the whole screening from camera to referral.
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
from trainer.evaluation.metrics import plain_value, referral_scores
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
"""Masks over five cells: neither, only referred, only referable, both, and referred without a grade."""


@dataclass(frozen=True)
class Decided:
    """Decisions to refer, of photographs or of patients. Shares are 0 to 1, None if not defined."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int
    no_grade: int
    """Ungradable photographs without a grade. They are referred, which is neither right nor wrong."""
    sensitivity: float | None
    specificity: float | None
    referred: float
    """Of all of these."""
    intervals: dict[str, Interval | None]
    """95 % intervals of the three shares, by a bootstrap over patients."""

    @classmethod
    def of(cls, cells: NDArray[np.int64], patients: NDArray[np.int64]) -> "Decided | None":
        """cells (n,): the cell of each decision, as in SHARES. patients (n,): numbered from 0. None if n is 0."""
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
    """The decisions for the same photographs, or patients, in two ways; None if there are none."""

    left_out: Decided | None
    """Without the ungradable photographs."""
    referred: Decided | None
    """With them, each of them referred."""


@dataclass(frozen=True)
class Ungradable:
    """The ungradable photographs of a measured set, and the referral both ways."""

    ungradable: int
    """Number of ungradable photographs that count."""
    graded: int
    """Number of them that have a grade nevertheless."""
    not_counted: int
    """Number of others in the cache: their patient is unknown, or in no split."""
    photographs: BothWays | None
    """None if none counts."""
    patients: BothWays | None
    """By patient: the worse eye decides, and an ungradable photograph refers the patient."""


def measure_ungradable(
    manifest: pd.DataFrame, split: str, predictions: pd.DataFrame, operating: Operating | None
) -> Ungradable | None:
    """The referral of a split with the manifest's ungradable photographs; None if there are none, or no threshold.

    For "all" every ungradable photograph counts. For a split those of its patients count.
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
    scores = referral_scores(good)
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
