"""Image statistics of the training photographs. A photograph that is unlike them gets a flag beside its grade.

They are measured on the cached pixels and on the size of the original. Imports no torch.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

QUANTILES: Final = (0.01, 0.5, 0.99)
RARE: Final = 0.05
"""A photograph without a disc is unlike training if less than this share of the training photographs have none."""
KIND: Final = {
    "size": "size", "radius": "radius", "red": "colour", "blue": "colour", "chroma": "colour",
    "brightness": "brightness", "sharpness": "sharpness",
}  # fmt: skip
"""Measure -> its flag, as in unlike_training:<flag>."""
FLAG: Final = "unlike_training:"
SLACK: Final = {
    "size": 0.25, "radius": 0.15, "red": 0.015, "blue": 0.015, "chroma": 0.015, "brightness": 0.25, "sharpness": 0.25,
}  # fmt: skip
"""A measure may be this far beyond the quantiles: perhaps all training photographs are of one camera."""


class ImageStatistics(NamedTuple):
    """Statistics of one photograph. None if they cannot be measured: there is no disc, or no light."""

    size: float  # log2 of the geometric mean of the original's width and height in pixels
    radius: float | None  # log2 of the disc's radius by that mean
    red: float | None  # share of the retina's light that is red, 0 to 1
    blue: float | None
    chroma: float | None  # mean difference of a place's strongest and weakest colour, by the light, 0 to 1
    brightness: float | None  # log2 of the retina's mean level, 0-255, of the three colours
    sharpness: float | None  # log2 of the mean size of its Laplacian by that level


class Drift(NamedTuple):
    """Numbers of photographs that look unlike the training photographs."""

    photographs: int
    """Photographs measured."""
    unlike: int
    """Photographs with a flag."""
    flags: dict[str, int]
    """Photographs by flag, such as "colour"; a photograph may have several."""


@dataclass(frozen=True)
class TrainingStatistics:
    """Quantiles (1 %, 50 %, 99 %) of the training photographs' statistics. One that no photograph has is left out."""

    photographs: int
    """How many were measured."""
    without_disc: float
    """Share of them in which no retina's disc was found, 0 to 1."""
    quantiles: Mapping[str, tuple[float, float, float]]
    """By the names of `ImageStatistics`."""

    @classmethod
    def summarise(cls, images: Iterable[ImageStatistics]) -> "TrainingStatistics":
        """The statistics of at least one photograph, rounded to 4 digits, so that they are equal on all machines."""
        table = np.array([[np.nan if value is None else value for value in each] for each in images])
        quantiles = {
            name: tuple(round(float(value), 4) for value in np.quantile(column[~np.isnan(column)], QUANTILES))
            for name, column in zip(ImageStatistics._fields, table.T, strict=True)
            if not np.isnan(column).all()
        }
        without = np.isnan(table[:, ImageStatistics._fields.index("radius")]).mean()
        return cls(len(table), round(float(without), 4), quantiles)  # type: ignore[arg-type]  # three quantiles

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "TrainingStatistics":
        """The inverse of `as_dict`. Raises TypeError, KeyError or ValueError for anything else."""
        quantiles = {
            name: (float(low), float(mid), float(high)) for name, (low, mid, high) in fields["quantiles"].items()
        }
        if not quantiles.keys() <= KIND.keys():
            raise ValueError(f"unknown measures: {', '.join(quantiles.keys() - KIND.keys())}")
        return cls(int(fields["photographs"]), float(fields["without_disc"]), quantiles)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def unlike(self, image: ImageStatistics) -> tuple[str, ...]:
        """Flags, sorted: "unlike_training:<what>" for each of size, radius, colour, brightness, sharpness and no_disc.

        A flag is raised if a measure is beyond the 1 % or 99 % quantile by more than its `SLACK`.
        """
        kinds = set()
        for name, value in image._asdict().items():
            if value is None or name not in self.quantiles:
                continue
            low, _, high = self.quantiles[name]
            if not low - SLACK[name] <= value <= high + SLACK[name]:
                kinds.add(KIND[name])
        if image.radius is None and self.without_disc < RARE:
            kinds.add("no_disc")
        return tuple(sorted(f"{FLAG}{kind}" for kind in kinds))

    def drift(self, images: Iterable[ImageStatistics]) -> Drift:
        found = [self.unlike(each) for each in images]
        flags = Counter(flag.removeprefix(FLAG) for each in found for flag in each)
        return Drift(len(found), sum(map(bool, found)), dict(sorted(flags.items())))


def image_statistics(picture: NDArray[np.uint8], width: int, height: int, radius: float | None) -> ImageStatistics:
    """The statistics of one prepared photograph.

    picture: (s, s, 3) RGB, the crop around the disc; width, height, radius: of the original and of its disc, pixels.
    """
    side = math.sqrt(width * height)
    size, field = math.log2(side), math.log2(radius / side) if radius else None
    # Channel by channel: numpy's max over the last axis takes ten times as long as all the rest.
    channels = cv2.split(picture)
    strongest, weakest = cv2.max(cv2.max(*channels[:2]), channels[2]), cv2.min(cv2.min(*channels[:2]), channels[2])
    mask = _retina(strongest)
    red, green, blue = (float(value) for value in cv2.mean(picture, mask)[:3])
    light = red + green + blue
    if light == 0:
        return ImageStatistics(size, field, None, None, None, None, None)
    level = light / 3
    chroma = cv2.mean(cv2.subtract(strongest, weakest), mask)[0] / light
    laplacian = cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_16S)
    edges = cv2.mean(cv2.convertScaleAbs(laplacian), mask)[0]
    sharpness = math.log2(edges / level) if edges > 0 else None
    return ImageStatistics(size, field, red / light, blue / light, chroma, math.log2(level), sharpness)


def _retina(strongest: NDArray[Any]) -> NDArray[np.uint8]:
    """A mask uint8 (s, s): 255 in the lit part of the retina, away from its edge; 0 elsewhere.

    strongest: uint8 (s, s), the highest of each pixel's three colours.
    """
    side = len(strongest)
    lit = cv2.threshold(strongest, 10, 255, cv2.THRESH_BINARY)[1]
    circle = np.zeros((side, side), np.uint8)
    cv2.circle(circle, (side // 2, side // 2), int(0.45 * side), 255, -1)
    return np.asarray(cv2.erode(cv2.bitwise_and(lit, circle), np.ones((5, 5), np.uint8)), np.uint8)
