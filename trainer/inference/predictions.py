"""predictions.csv of `trainer predict`: one row for each photograph, written batch by batch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Final

from pipeline.cache.manifest import UNGRADABLE
from pipeline.photos.discovery import Refusal
from pipeline.storage.csv_files import csv_lines, defused, to_csv
from trainer.inference.inputs import Photograph
from trainer.inference.predictor import Prediction, Predictor
from trainer.kinds import PROBABILITIES
from trainer.network.image_statistics import FLAG

COLUMNS: Final = ("id", "source", "predicted", *PROBABILITIES, "referable", "p_referable", "flags")
FELLOW: Final = "fellow"
"""The last column of a network that takes the fellow eye into account: ids of its photographs that were used."""
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
    paired: int = 0
    """Photographs whose fellow eye was taken into account."""
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
    file: IO[bytes], predictor: Predictor, photographs: Sequence[Photograph], share: float | None = None
) -> Tally:
    """Predicts the photographs and writes a row for each that is not refused, in UTF-8.

    share: a photograph is left to a human if it is less sure than all but this share of the validation photographs;
    adds the columns DEFERRAL. None: no such columns. A network that takes the fellow eye has the column FELLOW.
    Memory does not grow with the number of photographs, but for such a network, by 18 KB each. Raises RunError if the
    model's output is not finite.
    """
    tally, both = Tally(), predictor.takes_fellow
    header = with_deferral(COLUMNS, *DEFERRAL) if share is not None else COLUMNS
    file.write(csv_lines([(*header, FELLOW) if both else header]))
    for predictions, refused in predictor.predictions(photographs, "predicting"):
        tally.refused += refused
        rows = (cells(each, share) for each in predictions)
        fellows = ((defused(" ".join(each.fellows)),) if both else () for each in predictions)
        file.write(csv_lines((*row, *more) for row, more in zip(rows, fellows, strict=True)))
        tally.grades.update(each.grade for each in predictions)
        tally.referable += sum(each.referable for each in predictions)
        tally.paired += sum(bool(each.fellows) for each in predictions)
        if share is not None:
            why = [reasons(each, share) for each in predictions]
            tally.deferred += sum(map(bool, why))
            tally.reasons.update(reason for each in why for reason in each)
        tally.last = predictions[-1] if predictions else tally.last
        tally.flags.update(flag for each in predictions for flag in each.flags)
    return tally


def refusals_csv(refused: Sequence[Refusal]) -> bytes:
    """The table of refused photographs, sorted by name. No spreadsheet takes a name for a formula."""
    return to_csv([(defused(each.source), defused(each.reason)) for each in sorted(refused)], Refusal._fields)


def cells(prediction: Prediction, share: float | None = None) -> tuple[object, ...]:
    """A row of the table. No spreadsheet takes a name in it for a formula."""
    photograph, grade, p, flags, *_ = prediction
    referable = int(prediction.referable), prediction.p_referable
    row = (defused(photograph.id), defused(photograph.source), grade, *p, *referable, " ".join(flags))
    if share is None:
        return row
    why = reasons(prediction, share)
    return with_deferral(row, int(bool(why)), " ".join(why))


def with_deferral(row: tuple[object, ...], defer: object, why: object) -> tuple[object, ...]:
    """A row with two more cells after `referable`."""
    at = COLUMNS.index("referable") + 1
    return (*row[:at], defer, why, *row[at:])


def reasons(prediction: Prediction, share: float) -> tuple[str, ...]:
    """Those of REASONS that hold for a photograph; empty if it is not left to a human."""
    flags = {flag.partition(":")[0] for flag in prediction.flags}
    unsure = prediction.unsure(share)
    return tuple(reason for reason in REASONS if reason in flags or (reason == UNSURE and unsure))
