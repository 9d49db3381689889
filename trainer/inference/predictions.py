"""predictions.csv of `trainer predict`: one row for each photograph, written batch by batch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Final

import numpy as np

from pipeline.cache.manifest import UNGRADABLE
from pipeline.photos.discovery import Refusal
from pipeline.storage.csv_files import csv_lines, defused, to_csv
from trainer.inference.inputs import Photograph
from trainer.inference.predictor import Prediction, Predictor
from trainer.kinds import PROBABILITIES
from trainer.network.decision import confidence
from trainer.network.image_statistics import FLAG

COLUMNS: Final = ("id", "source", "predicted", *PROBABILITIES, "referable", "p_referable", "flags")
DEFERRAL: Final = ("defer", "defer_why")
"""The columns after `referable` that `--defer` adds."""
UNSURE: Final = "unsure"
REASONS: Final = ("blank", UNGRADABLE, FLAG.rstrip(":"), UNSURE)
"""Reasons to leave a photograph to a human: it is blank, it is ungradable, it is unlike the training photographs, or
the network is too uncertain."""


@dataclass
class Tally:
    """Numbers of photographs by result."""

    grades: Counter[int] = field(default_factory=Counter)
    """By predicted grade."""
    referable: int = 0
    """Photographs to refer."""
    deferred: int = 0
    """Photographs left to a human."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Photographs left to a human, by reason; one may have several."""
    flags: Counter[str] = field(default_factory=Counter)
    """By flag."""
    refused: list[Refusal] = field(default_factory=list)
    last: Prediction | None = None
    """The last prediction, which is the only one if one photograph was given."""


def write_predictions(
    file: IO[bytes], predictor: Predictor, photographs: Sequence[Photograph], least: float | None = None
) -> Tally:
    """Predicts the photographs and writes a row for each that is not refused, in UTF-8.

    least: the confidence below which a photograph is left to a human; adds the columns DEFERRAL. None: no such columns.
    Memory does not grow with the number of photographs. Raises RunError if the model's output is not finite.
    """
    tally, threshold = Tally(), predictor.rule.threshold
    file.write(csv_lines([with_deferral(COLUMNS, *DEFERRAL) if least is not None else COLUMNS]))
    for batch in predictor.batches(photographs, "predicting"):
        tally.refused += batch.refused
        predictions = predictor.predict(batch)
        file.write(csv_lines(cells(each, threshold, least) for each in predictions))
        tally.grades.update(each.grade for each in predictions)
        tally.referable += sum(each.referable(threshold) for each in predictions)
        if least is not None:
            why = [reasons(each, threshold, least) for each in predictions]
            tally.deferred += sum(map(bool, why))
            tally.reasons.update(reason for each in why for reason in each)
        tally.last = predictions[-1] if predictions else tally.last
        tally.flags.update(flag for each in predictions for flag in each.flags)
    return tally


def refusals_csv(refused: Sequence[Refusal]) -> bytes:
    """The table of refused photographs, sorted by name. No spreadsheet takes a name for a formula."""
    return to_csv([(defused(each.source), defused(each.reason)) for each in sorted(refused)], Refusal._fields)


def cells(prediction: Prediction, threshold: float, least: float | None = None) -> tuple[object, ...]:
    """A row of the table. No spreadsheet takes a name in it for a formula."""
    photograph, grade, p, flags = prediction
    referable = int(prediction.referable(threshold)), prediction.p_referable
    row = (defused(photograph.id), defused(photograph.source), grade, *p, *referable, " ".join(flags))
    if least is None:
        return row
    why = reasons(prediction, threshold, least)
    return with_deferral(row, int(bool(why)), " ".join(why))


def with_deferral(row: tuple[object, ...], defer: object, why: object) -> tuple[object, ...]:
    """A row with two more cells after `referable`."""
    at = COLUMNS.index("referable") + 1
    return (*row[:at], defer, why, *row[at:])


def reasons(prediction: Prediction, threshold: float, least: float) -> tuple[str, ...]:
    """Those of REASONS that hold for a photograph; empty if it is not left to a human."""
    flags = {flag.partition(":")[0] for flag in prediction.flags}
    unsure = bool(confidence(np.array([prediction.p_referable]), threshold)[0] < least)
    return tuple(reason for reason in REASONS if reason in flags or (reason == UNSURE and unsure))
