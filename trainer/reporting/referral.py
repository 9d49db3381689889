"""The referral in numbers that a reviewer asks for: two-by-two tables, missed eyes, thresholds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipeline.cache.splits import patients_of
from pipeline.errors import RunError
from pipeline.grades import GRADES, REFERABLE
from trainer.evaluation.metrics import graded, referable_scores
from trainer.evaluation.operating_point import least_ppv, threshold_table, two_by_two
from trainer.evaluation.results import worse_eyes
from trainer.reporting.disclosure import untold_patients
from trainer.reporting.gallery import WORST, confidence
from trainer.reporting.measured import Measured
from trainer.reporting.tables import UNGRADABLE_COUNTS, UNGRADABLE_SHARES, ungradable_lines, ungradable_rows

SEVERE = 3
"""From this grade on a missed eye is listed by itself."""


def referral(measured: Measured) -> dict[str, Any]:
    """What the page's section on referral shows besides the operating card."""
    known, operating = measured.predictions, measured.operating
    scores, truth = referable_scores(known), (known["grade"] >= REFERABLE).to_numpy()
    if operating is None:
        return {"tables": [], "thresholds": [], "missed": [], "least_ppv": None, "ungradable": None}
    referred = scores >= operating.threshold
    tables = [{"what": "photographs", **two_by_two(referred, truth)._asdict()}]
    if measured.cache is not None and untold_patients(measured) < len(known):
        worse = worse_eyes(known, patients_of(measured.cache.manifest, known["id"]))
        table = two_by_two(referable_scores(worse) >= operating.threshold, (worse["grade"] >= REFERABLE).to_numpy())
        tables.insert(0, {"what": "patients, the worse eye decides", **table._asdict()})
    return {
        "tables": tables,
        "thresholds": _thresholds(measured, scores, truth),
        "missed": [
            {
                "grade": f"{grade} {GRADES[grade]}",
                "photographs": int((known["grade"] == grade).sum()),
                "missed": int(((known["grade"] == grade) & ~referred).sum()),
            }
            for grade in range(REFERABLE, len(GRADES))
        ],
        "least_ppv": least_ppv(measured.metrics["operating"]),
        "ungradable": ungradable_table(measured.metrics),
    }


def ungradable_table(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """The referral both ways, as page and card show it; None where no photograph is ungradable, or it was measured by
    an earlier version."""
    measured = metrics.get("ungradable_referral")
    if measured is None:
        return None
    return {
        "shares": UNGRADABLE_SHARES,
        "counts": UNGRADABLE_COUNTS,
        "rows": ungradable_rows(measured),
        "line": " ".join(ungradable_lines(measured)),
    }


def missed_severe(measured: Measured) -> pd.DataFrame:
    """The severe and proliferative photographs below the threshold, the least suspected first, at most WORST."""
    known, operating = measured.predictions, measured.operating
    if operating is None:
        return known.iloc[:0].assign(sure=[])
    scores = referable_scores(known)
    missed = np.flatnonzero((known["grade"].to_numpy() >= SEVERE) & (scores < operating.threshold))
    chosen = known.iloc[missed[np.argsort(scores[missed], kind="stable")][:WORST]]
    return chosen.assign(sure=confidence(chosen))


def _thresholds(measured: Measured, scores: Any, truth: Any) -> list[dict[str, Any]]:
    """Thresholds chosen on validation and what they show here; none where validation's predictions are not at hand, or
    are of another cache than the run's own."""
    run = measured.run
    try:
        val = graded(run.read_predictions("val"))
        run.read_own_metrics("val")
    except RunError:
        return []
    found = threshold_table(referable_scores(val), (val["grade"] >= REFERABLE).to_numpy(), scores, truth)
    return [row._asdict() for row in found]
