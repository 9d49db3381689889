"""Eyes that were photographed several times: one decision for all photographs of an eye and visit.

The calibrated probabilities of the photographs are averaged, and the decision rule is applied to the mean. If graders
gave the photographs of an eye different grades, the worst is the eye's grade: a lesion in one photograph is in the
eye, and another photograph may miss it.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.cache.eyes import EyeTable
from pipeline.grades import UNKNOWN
from trainer.evaluation.metrics import predictions_table, with_fellows
from trainer.kinds import FELLOWS, PROBABILITIES
from trainer.network.decision import DecisionRule


@dataclass(frozen=True)
class EyeCounts:
    """Numbers of eyes behind the figures by eye."""

    several: int
    """Eyes with two or more graded photographs."""
    disagreeing: int
    """Those of them whose photographs have different grades; the worst counts."""
    eye_unknown: int
    """Graded photographs whose eye is not known, each an eye of its own."""
    visit: str
    """See `EyeTable`."""


@dataclass(frozen=True, eq=False)
class MeanEyes:
    """Predictions and truth by eye."""

    predictions: pd.DataFrame
    """A row for each eye, whose name is the id; see trainer.evaluation.metrics."""
    patients: "pd.Series[str]"
    """(n,) The patient of each eye."""
    counts: EyeCounts


def mean_eyes(
    predictions: pd.DataFrame,
    patients: "pd.Series[str]",
    manifest: pd.DataFrame,
    *,
    table: EyeTable,
    rule: DecisionRule,
) -> MeanEyes | None:
    """The eyes of graded predictions (n,) with their patients (n,); None if no eye has two photographs.

    Photographs without a grade are left out, so figures by photograph and by eye are of the same photographs.
    """
    rows = pd.Index(manifest["id"]).get_indexer(pd.Index(predictions["id"]))
    names = table.eyes.to_numpy()[rows]
    if len(np.unique(names)) == len(names):
        return None
    grades = predictions["grade"].groupby(names).agg(["max", "min", "size"])
    p = predictions[list(PROBABILITIES)].astype(np.float64).groupby(names).mean().to_numpy()
    ids, worst = pd.Series(grades.index), grades["max"].to_numpy()
    means = predictions_table(ids, worst, p.astype(np.float32), rule.ordinal_thresholds)
    fellows = predictions[FELLOWS].groupby(names).max().to_numpy() if FELLOWS in predictions else None
    return MeanEyes(
        with_fellows(means, rule, fellows),
        patients.groupby(names).first().reset_index(drop=True),
        EyeCounts(
            several=int((grades["size"] > 1).sum()),
            disagreeing=int((grades["max"] != grades["min"]).sum()),
            eye_unknown=int((~table.known.to_numpy()[rows]).sum()),
            visit=table.visit,
        ),
    )


def eye_rows(manifest: pd.DataFrame, table: EyeTable) -> pd.DataFrame:
    """The graded photographs of a manifest, one row for each eye and split: patient, split, and the worst grade."""
    graded_ones = manifest.assign(name=table.eyes)[manifest["grade"] != UNKNOWN]
    return graded_ones.groupby(["name", "split"], as_index=False).agg({"patient": "first", "grade": "max"})
