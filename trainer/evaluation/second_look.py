"""Grades worth a second look: photographs whose given grade is contradicted by networks that were not trained on their
patients.

Photographs are ranked by the expected distance of the given grade g from the truth, in grades, by the calibrated
out-of-fold probabilities p:

    distance = sum over grades k of p(k) * |k - g|

It is 0 if the networks are certain of the given grade, and 4 if they are certain of the other end of the scale. If all
errors counted the same, the distance would be 1 - p(g), the self-confidence by which confident learning ranks
(Northcutt, Jiang and Chuang, Confident Learning, Journal of Artificial Intelligence Research 70, 2021). Grades are
ordered, so severe for none counts more than mild for none. Networks can be wrong: such a grade should be checked, and
is not a mistake by itself.
"""

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cache.splits import patients_of
from pipeline.grades import N_GRADES, UNKNOWN
from trainer.evaluation.bootstrap import Floats
from trainer.evaluation.out_of_fold import CrossValidation
from trainer.kinds import PROBABILITIES

COLUMNS: Final = (
    *("rank", "id", "patient", "split", "fold", "grade", "likeliest", "p_grade", "p_likeliest", "distance"),
    "fellow_eye_agrees",
)
"""Columns of second_look.csv."""


def distances(grades: NDArray[np.int64], probabilities: Floats) -> Floats:
    """(n,) expected distances, 0 to 4, from given grades (n,) 0-4 and probabilities (n, 5)."""
    away = np.abs(np.arange(N_GRADES) - grades[:, None])
    return np.asarray((probabilities * away).sum(axis=1), np.float64)


def second_look(found: CrossValidation, manifest: pd.DataFrame) -> pd.DataFrame:
    """The photographs for which the networks find another grade likelier than the given one, with `COLUMNS`, the most
    contradicted first.

    rank: from 1. split: in the cache that was folded. likeliest: the grade with the highest probability, which is the
    mean over seeds. fellow_eye_agrees: 1 if the patient's other eye was given the likeliest grade, 0 if not, empty if
    it has no grade.
    """
    table = found.first.table
    probabilities = np.mean([each.table[list(PROBABILITIES)].to_numpy(np.float64) for each in found.each], axis=0)
    grades, likeliest = table["grade"].to_numpy(np.int64), probabilities.argmax(axis=1)
    places = np.arange(len(table))
    rows = manifest.set_index("id").loc[table["id"]]
    looked = pd.DataFrame(
        {
            "id": table["id"],
            "patient": patients_of(manifest, table["id"]),
            "split": rows["split"].to_numpy(),
            "fold": table["fold"],
            "grade": grades,
            "likeliest": likeliest,
            "p_grade": probabilities[places, grades],
            "p_likeliest": probabilities[places, likeliest],
            "distance": distances(grades, probabilities),
            "eye": rows["eye"].to_numpy(),
        }
    )
    doubted = looked[looked["likeliest"] != looked["grade"]]
    doubted = doubted.sort_values(["distance", "id"], ascending=[False, True], ignore_index=True)
    doubted["fellow_eye_agrees"] = _fellow_eye_agrees(doubted, manifest)
    return doubted.assign(rank=doubted.index + 1)[list(COLUMNS)].round(4)


def _fellow_eye_agrees(doubted: pd.DataFrame, manifest: pd.DataFrame) -> "pd.Series[int]":
    """(n,) Int64."""
    known = manifest.assign(patient=patients_of(manifest, manifest["id"]))
    known = known.loc[(known["grade"] != UNKNOWN) & (known["eye"] != ""), ["patient", "eye", "grade"]]
    pairs = doubted.loc[doubted["eye"] != "", ["id", "patient", "eye", "likeliest"]].merge(known, on="patient")
    fellows = pairs[pairs["eye_x"] != pairs["eye_y"]]
    agrees = (fellows["grade"] == fellows["likeliest"]).groupby(fellows["id"]).any()
    return doubted["id"].map(agrees.astype("Int64")).astype("Int64")
