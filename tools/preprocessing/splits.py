"""The split (train, val or test) of each photograph."""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from pipeline.cache.splits import SHARES, draw_sides
from pipeline.grades import UNKNOWN
from tools.sources.listing import ListedSample


class Place(NamedTuple):
    patient: str
    eye: str
    split: str  # "" where the photograph takes no part


def split_of(split: str, flags: Collection[str], *, keep_blank: bool) -> str:
    """The split of a photograph with these flags: a blank one takes no part unless that is asked for."""
    return split if keep_blank or "blank" not in flags else ""


def place(
    samples: Iterable[ListedSample],
    *,
    whole: str = "",
    keep_layout: bool = True,
    seed: int = 0,
    recorded: Iterable[tuple[str, str]] = (),
) -> dict[str, Place]:
    """id -> its place. `whole`: the split that all of them go to.

    The layout's splits stand where it brings them (unless `keep_layout` is false). Otherwise patients are drawn,
    70/10/20; where the layout has a train part and no val, an eighth of the patients in train is drawn for it.
    `recorded` are the (patient, side) of earlier times, which stay. Photographs without a grade take no part.
    """
    graded, places = [], {}
    for sample in samples:
        split = (whole or (sample.split if keep_layout else "")) if sample.grade != UNKNOWN else ""
        places[sample.id] = Place(sample.patient or sample.id, sample.eye, split)
        if sample.grade != UNKNOWN:
            graded.append(sample)
    if whole:
        return places
    brings = {places[sample.id].split for sample in graded} - {""}
    if brings and ("val" in brings or "train" not in brings):
        return places
    within = {"train": SHARES["train"], "val": SHARES["val"]} if brings else SHARES
    shares = {side: share / sum(within.values()) for side, share in within.items()}
    open_to_draw = [sample for sample in graded if places[sample.id].split == ("train" if brings else "")]
    worst: dict[str, int] = {}
    for sample in open_to_draw:
        patient = places[sample.id].patient
        worst[patient] = max(sample.grade, worst.get(patient, 0))
    drawn = draw_sides(worst, shares, seed, {patient: side for patient, side in recorded if side in shares})
    for sample in open_to_draw:
        places[sample.id] = places[sample.id]._replace(split=drawn[places[sample.id].patient])
    return places
