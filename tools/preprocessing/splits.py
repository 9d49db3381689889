"""The split (train, val or test) of each photograph."""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from pipeline.cache.splits import SPLIT_FRACTIONS, draw_splits
from pipeline.grades import UNKNOWN
from tools.sources.listing import ListedSample


class Assignment(NamedTuple):
    """The patient, the eye and the split of a photograph."""

    patient: str
    eye: str  # "left", "right" or ""
    split: str  # "": in no split


def split_of(split: str, flags: Collection[str], *, keep_blank: bool) -> str:
    """The split of a photograph with these flags. A blank photograph is in none unless `keep_blank` is true."""
    return split if keep_blank or "blank" not in flags else ""


def assign_splits(
    samples: Iterable[ListedSample],
    *,
    single_split: str = "",
    keep_layout: bool = True,
    seed: int = 0,
    recorded: Iterable[tuple[str, str]] = (),
) -> dict[str, Assignment]:
    """The assignment of each photograph, by id. Photographs without a grade are in no split.

    single_split: the split that all of them get.
    keep_layout: whether the splits of the layout count. If it has none, patients are drawn, 70/10/20 %. If it has train
    and no val, an eighth of the patients in train is drawn for val.
    recorded: (patient, split) of an earlier run, which stay.
    """
    graded, assignments = [], {}
    for sample in samples:
        split = (single_split or (sample.split if keep_layout else "")) if sample.grade != UNKNOWN else ""
        assignments[sample.id] = Assignment(sample.patient or sample.id, sample.eye, split)
        if sample.grade != UNKNOWN:
            graded.append(sample)
    if single_split:
        return assignments
    of_layout = {assignments[sample.id].split for sample in graded} - {""}
    if of_layout and ("val" in of_layout or "train" not in of_layout):
        return assignments
    drawn_splits = {"train": SPLIT_FRACTIONS["train"], "val": SPLIT_FRACTIONS["val"]} if of_layout else SPLIT_FRACTIONS
    fractions = {split: weight / sum(drawn_splits.values()) for split, weight in drawn_splits.items()}
    to_draw = [sample for sample in graded if assignments[sample.id].split == ("train" if of_layout else "")]
    worst: dict[str, int] = {}  # patient -> the highest grade
    for sample in to_draw:
        patient = assignments[sample.id].patient
        worst[patient] = max(sample.grade, worst.get(patient, 0))
    drawn = draw_splits(worst, fractions, seed, {patient: split for patient, split in recorded if split in fractions})
    for sample in to_draw:
        assignments[sample.id] = assignments[sample.id]._replace(split=drawn[assignments[sample.id].patient])
    return assignments
