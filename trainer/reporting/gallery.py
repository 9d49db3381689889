"""The photographs that a report shows: the largest errors and the most certain right ones, with Grad-CAM."""

from base64 import b64encode
from dataclasses import replace
from io import BytesIO
from typing import Final, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.cache.cache import Cache
from pipeline.errors import CacheError
from pipeline.photos.contact_sheet import decode_small
from trainer.inference.gradcam import grad_cam, overlay
from trainer.inference.inputs import cached_photographs, render
from trainer.kinds import PROBABILITIES
from trainer.network.metadata import Metadata
from trainer.network.model import Network

WORST: Final = 12
"""Most errors that are shown."""
SURE: Final = 10
"""Most right predictions that are shown."""
SIDE: Final = 320
"""Longest side of a picture, pixels."""


class Picture(NamedTuple):
    id: str
    grade: int
    predicted: int
    confidence: float
    """Probability of the predicted grade, 0 to 1."""
    photo: str
    """JPEG as a data: URI."""
    heat: str
    """The same with Grad-CAM of the predicted grade over it; "" if the network has no feature maps."""


def worst_mistakes(predictions: pd.DataFrame) -> pd.DataFrame:
    """The largest errors among graded predictions: by distance in grades, then by confidence. Empty if there are
    none."""
    off = (predictions["predicted"] - predictions["grade"]).abs()
    ranks = predictions.assign(off=off, sure=confidence(predictions))[off > 0]
    return ranks.sort_values(["off", "sure", "id"], ascending=[False, False, True]).head(WORST)


def surest_right(predictions: pd.DataFrame) -> pd.DataFrame:
    """The most certain right predictions, taken from the grades in turn: otherwise all would be healthy eyes."""
    right = predictions[predictions["predicted"] == predictions["grade"]]
    ranks = right.assign(sure=confidence(right)).sort_values(["sure", "id"], ascending=[False, True])
    turn = ranks.groupby("grade").cumcount()
    chosen = ranks.assign(turn=turn).sort_values(["turn", "grade"], kind="stable").head(SURE)
    return chosen.sort_values(["grade", "turn"])


def confidence(predictions: pd.DataFrame) -> "pd.Series[float]":
    """(n,) probabilities of the predicted grades."""
    p = predictions[list(PROBABILITIES)].to_numpy(np.float64)
    return pd.Series(p[np.arange(len(p)), predictions["predicted"].to_numpy()], predictions.index)


def pictures(
    cache: Cache, model: Network, metadata: Metadata, chosen: pd.DataFrame, *, explained: bool = True
) -> list[Picture]:
    """Pictures of the chosen photographs, in that order.

    model: on the CPU; it sees the photographs as in evaluation. chosen: rows of predictions with a column `sure`, at
    most one batch. explained: whether the network has feature maps. Raises CacheError if a photograph is damaged.
    """
    if chosen.empty:
        return []
    rows = cache.rows_of(chosen["id"])
    cache.prefetch([rows])
    as_cached = replace(metadata, recipe=cache.recipe)  # the cache may have another recipe than the training's
    (batch,) = render(cached_photographs(cache, rows), as_cached, device=torch.device("cpu"), workers=1)
    if batch.refused:
        raise CacheError(batch.refused[0].reason)
    heats = (
        grad_cam(model, batch.images, torch.tensor(chosen["predicted"].tolist())) if explained else [None] * len(rows)
    )
    made = []
    columns = [chosen[name].tolist() for name in ("id", "grade", "predicted", "sure")]
    for row, heat, id, grade, predicted, sure in zip(rows.tolist(), heats, *columns, strict=True):
        photo = thumbnail(cache, row)
        covered = ""
        if heat is not None:
            covered = data_uri(overlay(photo, cv2.resize(heat, photo.shape[1::-1], interpolation=cv2.INTER_LINEAR)))
        made.append(Picture(id, grade, predicted, sure, data_uri(photo), covered))
    return made


def thumbnail(cache: Cache, row: int) -> NDArray[np.uint8]:
    """(s, s, 3), RGB, s at most SIDE."""
    photo = decode_small(cache.read(row), SIDE)
    side = min(SIDE, photo.width)
    return np.asarray(photo.resize((side, side), Image.Resampling.LANCZOS))


def data_uri(picture: NDArray[np.uint8]) -> str:
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + b64encode(file.getvalue()).decode()
