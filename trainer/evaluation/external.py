"""External validation: the description of a cache that the weights were not trained on."""

import logging
from typing import Final

import numpy as np
import pandas as pd

from pipeline.cache.cache import Cache
from pipeline.cache.manifest import UNGRADABLE, flagged
from pipeline.cache.splits import patients_of
from pipeline.grades import REFERABLE
from trainer.evaluation.evaluate import Evaluation
from trainer.evaluation.metrics import graded
from trainer.evaluation.record import OriginalSize, SetDescription
from trainer.evaluation.refit import refit
from trainer.inference.inputs import drift_in
from trainer.network.metadata import Metadata

logger = logging.getLogger(__name__)

SIZES_LISTED: Final = 4
"""Sizes of originals, the commonest; the others are counted together."""


def describe_set(
    cache: Cache,
    name: str,
    place: str,
    evaluation: Evaluation,
    metadata: Metadata,
    n_refit: int | None,
    workers: int | None,
) -> SetDescription:
    """The part of metrics.json that only an external set has.

    place: path or URL of the cache, as it was given. metadata: of the weights, with the operating point that was
    measured. n_refit: a threshold is refitted on at most this many photographs; a warning says why if that is
    impossible.
    """
    known = graded(evaluation.predictions)
    rows = cache.rows_of(known["id"])
    originals = cache.manifest.iloc[rows]
    drift = drift_in(cache, rows, metadata, workers)
    refitted = None
    if n_refit and metadata.operating:
        try:
            patients = patients_of(cache.manifest, known["id"])
            refitted = refit(known, patients, metadata.operating, n_refit)
        except ValueError as error:
            logger.warning(f"{name}: no threshold is chosen anew on {n_refit} photographs: {error}")
    return SetDescription(
        name=name,
        place=place,
        prevalence=float(np.mean(known["grade"] >= REFERABLE)),
        ungraded=len(evaluation.predictions) - len(known),
        ungradable=int(flagged(originals, UNGRADABLE).sum()),
        synthetic=int(flagged(originals, "synthetic").sum()),
        data_set=cache.index.data_set,
        other_recipe=cache.recipe != metadata.recipe,
        cameras=camera_sizes(originals),
        drift=drift,
        refit=refitted,
    )


def camera_sizes(originals: pd.DataFrame) -> list[OriginalSize]:
    """The commonest sizes of originals with their numbers, and last all others together. Photographs do not say which
    camera took them; the size is used instead."""
    sizes = (originals["width"].astype(str) + " x " + originals["height"].astype(str)).value_counts()
    listed = [OriginalSize(f"{size} px", int(count)) for size, count in sizes.head(SIZES_LISTED).items()]
    rest = int(sizes.iloc[SIZES_LISTED:].sum())
    return [*listed, OriginalSize(f"{len(sizes) - SIZES_LISTED:,} other sizes", rest)] if rest else listed
