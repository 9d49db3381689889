"""The table of predictions: a row for each photograph, written batch by batch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Final

from pipeline.photos.discovery import Refusal
from pipeline.storage.csv_files import csv_lines
from trainer.inference.inputs import Photograph
from trainer.inference.predictor import Prediction, Predictor
from trainer.kinds import PROBABILITIES

COLUMNS: Final = ("id", "source", "predicted", *PROBABILITIES, "referable", "p_referable", "flags")


@dataclass
class Tally:
    """What became of photographs."""

    grades: Counter[int] = field(default_factory=Counter)
    """Photographs by predicted grade."""
    referable: int = 0
    """Those that are to be referred."""
    flags: Counter[str] = field(default_factory=Counter)
    """Photographs by flag."""
    refused: list[Refusal] = field(default_factory=list)


def write_predictions(file: IO[bytes], predictor: Predictor, photographs: Sequence[Photograph]) -> Tally:
    """Predicts the photographs and writes a row for each that is not refused, as UTF-8.

    A thousand photographs need no more memory than a hundred. Raises RunError where the model's output is not finite.
    """
    tally, threshold = Tally(), predictor.rule.threshold
    file.write(csv_lines([COLUMNS]))
    for batch in predictor.batches(photographs, "predicting"):
        tally.refused += batch.refused
        predictions = predictor.predict(batch)
        file.write(csv_lines(cells(each, threshold) for each in predictions))
        tally.grades.update(each.grade for each in predictions)
        tally.referable += sum(each.referable(threshold) for each in predictions)
        tally.flags.update(flag for each in predictions for flag in each.flags)
    return tally


def cells(prediction: Prediction, threshold: float) -> tuple[object, ...]:
    """A row of the table."""
    photograph, grade, p, flags = prediction
    referable = int(prediction.referable(threshold)), prediction.p_referable
    return (photograph.id, photograph.source, grade, *p, *referable, " ".join(flags))
