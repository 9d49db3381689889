"""The referral in the numbers that a reviewer asks for: two-by-two tables, missed photographs, thresholds."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cache.splits import patients_of
from pipeline.errors import RunError
from pipeline.grades import GRADES, REFERABLE
from trainer.evaluation.bootstrap import Floats
from trainer.evaluation.metrics import graded, referral_scores
from trainer.evaluation.operating_point import AtThreshold, TwoByTwo, least_ppv, threshold_table, two_by_two
from trainer.evaluation.results import Results, worse_eyes
from trainer.evaluation.ungradable import Decided
from trainer.reporting.disclosure import unknown_patients
from trainer.reporting.gallery import WORST, confidence
from trainer.reporting.measured import Measured
from trainer.reporting.tables import UNGRADABLE_COUNTS, UNGRADABLE_FRACTIONS, ungradable_lines, ungradable_rows

SEVERE = 3
"""Missed photographs of this grade or worse are shown one by one."""


class Table(NamedTuple):
    """A two-by-two table, and what it counts."""

    what: str
    counts: TwoByTwo


class Missed(NamedTuple):
    """Photographs of a grade, and how many of them are below the threshold."""

    grade: str
    photographs: int
    missed: int


@dataclass(frozen=True)
class UngradableTable:
    """The referral with ungradable photographs left out, and with them referred."""

    rows: list[tuple[str, Decided]]
    """See `ungradable_rows`."""
    line: str
    """How many ungradable photographs are counted, in words."""
    name: str = ""
    """Name of the external set; "" for the run's own cache."""
    fractions: ClassVar = UNGRADABLE_FRACTIONS
    counts: ClassVar = UNGRADABLE_COUNTS


@dataclass(frozen=True)
class Referral:
    """What the page shows about the referral besides the operating card; empty without a threshold."""

    tables: tuple[Table, ...] = ()
    thresholds: tuple[AtThreshold, ...] = ()
    missed: tuple[Missed, ...] = ()
    least_ppv: float | None = None
    """See `trainer.evaluation.operating_point.least_ppv`."""
    ungradable: UngradableTable | None = None


def referral(measured: Measured) -> Referral:
    """The referral of the photographs measured, at the threshold of the operating card."""
    known, card = measured.predictions, measured.results.operating
    scores, truth = referral_scores(known), (known["grade"] >= REFERABLE).to_numpy()
    if card is None:
        return Referral()
    referred = scores >= card.threshold
    tables = [Table("photographs", two_by_two(referred, truth))]
    if measured.cache is not None and unknown_patients(measured) < len(known):
        worse = worse_eyes(known, patients_of(measured.cache.manifest, known["id"]))
        table = two_by_two(referral_scores(worse) >= card.threshold, (worse["grade"] >= REFERABLE).to_numpy())
        tables.insert(0, Table("patients, the worse eye decides", table))
    missed = tuple(
        Missed(f"{grade} {GRADES[grade]}", int(of_grade.sum()), int((of_grade & ~referred).sum()))
        for grade in range(REFERABLE, len(GRADES))
        for of_grade in [(known["grade"] == grade).to_numpy()]
    )
    return Referral(
        tuple(tables),
        tuple(_thresholds(measured, scores, truth)),
        missed,
        least_ppv(card),
        ungradable_table(measured.results),
    )


def ungradable_table(results: Results, name: str = "") -> UngradableTable | None:
    """The table of ungradable photographs; None if there are none, or if an earlier version measured.

    name: of the external set; "" for the run's own cache.
    """
    measured = results.ungradable
    if measured is None:
        return None
    return UngradableTable(ungradable_rows(measured), " ".join(ungradable_lines(measured)), name)


def missed_severe(measured: Measured) -> pd.DataFrame:
    """The severe and proliferative photographs below the threshold, lowest p(referable) first, at most WORST. They have
    a column `sure`, for `pictures`."""
    known, card = measured.predictions, measured.results.operating
    if card is None:
        return known.iloc[:0].assign(sure=[])
    scores = referral_scores(known)
    missed = np.flatnonzero((known["grade"].to_numpy() >= SEVERE) & (scores < card.threshold))
    chosen = known.iloc[missed[np.argsort(scores[missed], kind="stable")][:WORST]]
    return chosen.assign(sure=confidence(chosen))


def _thresholds(measured: Measured, scores: Floats, truth: NDArray[np.bool_]) -> list[AtThreshold]:
    """Thresholds chosen on validation, and their figures on the photographs measured. Empty if the predictions for
    validation are missing or of another cache."""
    run = measured.run
    try:
        val = graded(run.read_predictions("val"))
        run.read_own_metrics("val")
    except RunError:
        return []
    return threshold_table(referral_scores(val), (val["grade"] >= REFERABLE).to_numpy(), scores, truth)
