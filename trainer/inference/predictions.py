"""The table of predictions: a row for each photograph, written batch by batch."""

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
"""The columns beside `referable` where photographs are left to a human."""
UNSURE: Final = "unsure"
REASONS: Final = ("blank", UNGRADABLE, FLAG.rstrip(":"), UNSURE)
"""Why a photograph is left to a human: nobody could decide on it, it is unlike all training photographs, or the
network is less sure than asked for."""


@dataclass
class Tally:
    """What became of photographs."""

    grades: Counter[int] = field(default_factory=Counter)
    """Photographs by predicted grade."""
    referable: int = 0
    """Those that are to be referred."""
    deferred: int = 0
    """Those that are left to a human."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Of these by reason; a photograph may have several."""
    flags: Counter[str] = field(default_factory=Counter)
    """Photographs by flag."""
    refused: list[Refusal] = field(default_factory=list)
    last: Prediction | None = None
    """The last photograph's: of one photograph its own."""


def write_predictions(
    file: IO[bytes], predictor: Predictor, photographs: Sequence[Photograph], least: float | None = None
) -> Tally:
    """Predicts the photographs and writes a row for each that is not refused, as UTF-8.

    least: the confidence below which a photograph is left to a human, with two columns that say so and why; None: no
    such columns.

    A thousand photographs need no more memory than a hundred. Raises RunError where the model's output is not finite.
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
    """The table of photographs that were refused, by name; names are defused."""
    return to_csv([(defused(each.source), defused(each.reason)) for each in sorted(refused)], Refusal._fields)


def cells(prediction: Prediction, threshold: float, least: float | None = None) -> tuple[object, ...]:
    """A row of the table; names are defused, for people open it in spreadsheets."""
    photograph, grade, p, flags = prediction
    referable = int(prediction.referable(threshold)), prediction.p_referable
    row = (defused(photograph.id), defused(photograph.source), grade, *p, *referable, " ".join(flags))
    if least is None:
        return row
    why = reasons(prediction, threshold, least)
    return with_deferral(row, int(bool(why)), " ".join(why))


def with_deferral(row: tuple[object, ...], defer: object, why: object) -> tuple[object, ...]:
    """A row with two cells beside `referable`."""
    at = COLUMNS.index("referable") + 1
    return (*row[:at], defer, why, *row[at:])


def reasons(prediction: Prediction, threshold: float, least: float) -> tuple[str, ...]:
    """Why a photograph is left to a human, of REASONS; empty where it is not."""
    flags = {flag.partition(":")[0] for flag in prediction.flags}
    unsure = bool(confidence(np.array([prediction.p_referable]), threshold)[0] < least)
    return tuple(reason for reason in REASONS if reason in flags or (reason == UNSURE and unsure))
