"""The table of predictions: a row for each photograph, written batch by batch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Final

import numpy as np

from pipeline.photos.discovery import Refusal
from pipeline.storage.csv_files import csv_lines, defused
from trainer.inference.inputs import Photograph
from trainer.inference.predictor import Prediction, Predictor
from trainer.kinds import PROBABILITIES
from trainer.network.decision import confidence

COLUMNS: Final = ("id", "source", "predicted", *PROBABILITIES, "referable", "p_referable", "flags")


@dataclass
class Tally:
    """What became of photographs."""

    grades: Counter[int] = field(default_factory=Counter)
    """Photographs by predicted grade."""
    referable: int = 0
    """Those that are to be referred."""
    deferred: int = 0
    """Those that are left to a human."""
    flags: Counter[str] = field(default_factory=Counter)
    """Photographs by flag."""
    refused: list[Refusal] = field(default_factory=list)
    last: Prediction | None = None
    """The last photograph's: of one photograph its own."""


def write_predictions(
    file: IO[bytes], predictor: Predictor, photographs: Sequence[Photograph], least: float | None = None
) -> Tally:
    """Predicts the photographs and writes a row for each that is not refused, as UTF-8.

    least: the confidence below which a photograph is left to a human, with a column that says so; None: no such column.

    A thousand photographs need no more memory than a hundred. Raises RunError where the model's output is not finite.
    """
    tally, threshold = Tally(), predictor.rule.threshold
    file.write(csv_lines([with_deferral(COLUMNS, "defer") if least is not None else COLUMNS]))
    for batch in predictor.batches(photographs, "predicting"):
        tally.refused += batch.refused
        predictions = predictor.predict(batch)
        file.write(csv_lines(cells(each, threshold, least) for each in predictions))
        tally.grades.update(each.grade for each in predictions)
        tally.referable += sum(each.referable(threshold) for each in predictions)
        tally.deferred += sum(least is not None and defers(each, threshold, least) for each in predictions)
        tally.last = predictions[-1] if predictions else tally.last
        tally.flags.update(flag for each in predictions for flag in each.flags)
    return tally


def cells(prediction: Prediction, threshold: float, least: float | None = None) -> tuple[object, ...]:
    """A row of the table; names are defused, for people open it in spreadsheets."""
    photograph, grade, p, flags = prediction
    referable = int(prediction.referable(threshold)), prediction.p_referable
    row = (defused(photograph.id), defused(photograph.source), grade, *p, *referable, " ".join(flags))
    return row if least is None else with_deferral(row, int(defers(prediction, threshold, least)))


def with_deferral(row: tuple[object, ...], cell: object) -> tuple[object, ...]:
    """A row with a cell beside `referable`."""
    at = COLUMNS.index("referable") + 1
    return (*row[:at], cell, *row[at:])


def defers(prediction: Prediction, threshold: float, least: float) -> bool:
    """Whether a photograph is left to a human: the network is less sure than `least`, or none should decide on it, for
    it is blank or unlike all training photographs."""
    if any(flag == "blank" or flag.startswith("unlike_training") for flag in prediction.flags):
        return True
    return bool(confidence(np.array([prediction.p_referable]), threshold)[0] < least)
