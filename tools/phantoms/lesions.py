"""Lesions of a given grade painted on a photograph of a healthy eye.

tools.phantoms.eye draws complete eyes, with lesions that are too large. Here only the lesions are drawn, with their
real size, number and contrast; the rest of the photograph is real. So a network can learn lesions on real retina where
few photographs have a grade.

Lengths are in units of the retina's radius. Edges are half a pixel wider on each side, which makes small lesions too
large below 512 px.
"""

from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from tools.phantoms.eye import Picture, Points, closed_line

Layer = NDArray[np.uint8]
Bounds = tuple[float, float]


class Signs(NamedTuple):
    """The lesions of an eye of a grade. Pairs are the smallest and the greatest number; small numbers are likelier."""

    microaneurysms: Bounds
    haemorrhages: Bounds
    large_haemorrhages: float = 0  # their fraction of the haemorrhages
    exudates: float = 0  # probability
    cotton_wool: float = 0  # probability
    proliferative: bool = False  # new vessels, preretinal blood, laser scars


SIGNS: Final = (
    Signs((0, 0), (0, 0)),
    Signs((1, 6), (0, 0)),
    Signs((4, 20), (1, 10), exudates=0.65, cotton_wool=0.25),
    Signs((10, 40), (20, 70), large_haemorrhages=0.1, exudates=0.65, cotton_wool=0.55),
    Signs((4, 30), (3, 40), large_haemorrhages=0.1, exudates=0.65, cotton_wool=0.55, proliferative=True),
)
"""By grade, after the International Clinical Diabetic Retinopathy scale."""

# Factors by which a full layer multiplies red, green and blue. Black stays black: nothing is painted beyond the retina.
_BLOOD: Final = (0.48, 0.14, 0.16)
_SCAR: Final = (0.4, 0.4, 0.45)
_EXUDATE: Final = (1.5, 2.2, 2.0)
_COTTON_WOOL: Final = (1.35, 1.9, 2.2)

_BITS: Final = 4  # OpenCV draws at sixteenths of a pixel


def paint_lesions(rng: np.random.Generator, photograph: Picture, grade: int) -> Picture:
    """Paints the lesions of a grade on a square photograph of a cache, uint8 RGB of shape (size, size, 3).

    For grade 0 the photograph is returned unchanged.
    """
    if grade == 0:
        return photograph
    signs = SIGNS[grade]
    painting = _Painting(rng, photograph)
    depth = _between(rng, 0.15, 0.7)
    painting.add_microaneurysms(_number(rng, signs.microaneurysms), depth)
    painting.add_haemorrhages(_number(rng, signs.haemorrhages), signs.large_haemorrhages, depth)
    if rng.uniform() < signs.exudates:
        painting.add_exudates()
    if rng.uniform() < signs.cotton_wool:
        painting.add_cotton_wool()
    if signs.proliferative:
        chosen = rng.uniform(size=3) < 0.5
        chosen[rng.integers(3)] = True
        for add, wanted in zip(
            (painting.add_new_vessels, painting.add_preretinal_blood, painting.add_laser_scars), chosen, strict=True
        ):
            if wanted:
                add()
    return painting.photograph()


class _Painting:
    """Layers of blood and scars, which absorb light, and of exudates and cotton wool, which reflect it; 255 is full."""

    def __init__(self, rng: np.random.Generator, photograph: Picture) -> None:
        self.rng, self.picture = rng, photograph
        self.size = len(photograph)
        self.blood, self.scars, self.exudates, self.cotton_wool = np.zeros((4, self.size, self.size), np.uint8)

    def add_microaneurysms(self, number: int, depth: float) -> None:
        for centre in self._scatter(number):
            self._area(self.blood, centre + self._blot((0.004, 0.0095), 0.05), depth * self.rng.uniform(0.6, 1))

    def add_haemorrhages(self, number: int, large: float, depth: float) -> None:
        for centre in self._scatter(number):
            kind = self.rng.uniform()
            if kind < large:
                outline = self._blot((0.024, 0.07), 0.2, 1.4)
            elif kind < 0.65:
                outline = self._blot((0.006, 0.024), 0.12)
            else:  # in the nerve fibre layer: elongated
                outline = self._blot((0.008, 0.027), 0.1, 2.2)
            self._area(self.blood, centre + outline, depth * self.rng.uniform(0.5, 1))

    def add_exudates(self) -> None:
        """Adds clusters of exudates, some of them in a ring."""
        for middle in self._scatter(int(self.rng.integers(1, 6)), farthest=0.75):
            number, reach = _number(self.rng, (3, 45)), _between(self.rng, 0.024, 0.12)
            strength = _between(self.rng, 0.2, 0.9)
            centres = middle + self.rng.normal(0, reach, (number, 2))
            if self.rng.uniform() < 0.3:
                turn = self.rng.uniform(0, 2 * np.pi, number)
                centres = middle + 1.5 * reach * np.stack([np.cos(turn), np.sin(turn)], axis=1)
                centres += self.rng.normal(0, 0.2 * reach, (number, 2))
            for centre in centres:
                outline = self._blot((0.004, 0.02), 0.2, 1.4)
                self._area(self.exudates, centre + outline, strength * self.rng.uniform(0.6, 1))

    def add_cotton_wool(self) -> None:
        for centre in self._scatter(int(self.rng.integers(1, 6)), 0.2, 0.75):
            self._area(self.cotton_wool, centre + self._blot((0.024, 0.055), 0.15, 1.4), self.rng.uniform(0.35, 0.7))

    def add_new_vessels(self) -> None:
        depth = self.rng.uniform(0.2, 0.6)
        for centre in self._scatter(int(self.rng.integers(1, 4)), 0.1, 0.8):
            for _ in range(self.rng.integers(8, 22)):
                loop = centre + self.rng.normal(0, 0.055, 2) + self._blot((0.016, 0.09), 0.3)
                cv2.polylines(
                    self.blood, [self._pixels(loop)], True, 255 * depth, max(1, self.size // 512), cv2.LINE_AA, _BITS
                )

    def add_preretinal_blood(self) -> None:
        for centre in self._scatter(int(self.rng.integers(1, 3)), 0.15, 0.75):
            size = _between(self.rng, 0.07, 0.3)
            outline = closed_line(self.rng, size, 0.15)
            if self.rng.uniform() < 0.5:  # it sinks, and its upper edge is level
                outline = outline[outline[:, 1] > 0] * (1, self.rng.uniform(0.4, 0.9))
            self._area(self.blood, centre + outline, self.rng.uniform(0.4, 1))

    def add_laser_scars(self) -> None:
        size = _between(self.rng, 0.012, 0.06)
        pale = self.rng.uniform() < 0.6
        for centre in self._scatter(_number(self.rng, (10, 200 if size < 0.03 else 50)), 0.35, 0.95):
            outline = self._blot((0.7 * size, 1.3 * size), 0.12)
            if pale:
                self._area(self.cotton_wool, centre + outline, self.rng.uniform(0.25, 0.7))
            if not pale or self.rng.uniform() < 0.35:
                self._area(self.scars, centre + self.rng.uniform(0.4, 1) * outline, self.rng.uniform(0.3, 0.9))

    def photograph(self) -> Picture:
        """The photograph with the layers, blurred to about the sharpness of photographs."""
        unit = self.size / 512
        sharp = unit * self.rng.uniform(0.5, 1.3)
        soft = unit * self.rng.uniform(2, 4)
        light = self.picture.astype(np.float32)
        for layer, sigma, colour in (
            (self.blood, sharp, _BLOOD),
            (self.scars, sharp, _SCAR),
            (self.exudates, sharp, _EXUDATE),
            (self.cotton_wool, soft, _COTTON_WOOL),
        ):
            depth = cv2.GaussianBlur(layer, (0, 0), sigma)[..., None] / np.float32(255)
            light *= (np.array(colour, np.float32) ** np.float32(self.rng.uniform(0.8, 1.2))) ** depth
        return np.asarray(np.clip(light + 0.5, 0, 255), np.uint8)

    def _scatter(self, number: int, nearest: float = 0.05, farthest: float = 0.9) -> Points:
        """Random points, (number, 2), uniform over the ring between two distances from the centre."""
        distance = np.sqrt(self.rng.uniform(nearest**2, farthest**2, number))
        turn = self.rng.uniform(0, 2 * np.pi, number)
        return np.stack([distance * np.cos(turn), distance * np.sin(turn)], axis=1)

    def _blot(self, sizes: Bounds, unevenness: float, longest: float = 1) -> Points:
        """A closed line around the origin, points of shape (37, 2), stretched by a factor of up to `longest` in any
        direction."""
        outline = closed_line(self.rng, _between(self.rng, *sizes), unevenness)
        outline *= self.rng.uniform(1, longest) ** np.array([1, -1])
        turn = self.rng.uniform(0, 2 * np.pi)
        return np.asarray(outline @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])

    def _area(self, layer: Layer, outline: Points, strength: float) -> None:
        cv2.fillPoly(layer, [self._pixels(outline)], 255 * strength, cv2.LINE_AA, _BITS)

    def _pixels(self, points: Points) -> NDArray[np.int32]:
        return np.round((points + 1) * (self.size / 2 * 2**_BITS)).astype(np.int32)


def _between(rng: np.random.Generator, least: float, greatest: float) -> float:
    """A random number, log-uniform between two bounds."""
    return float(np.exp(rng.uniform(np.log(least), np.log(greatest))))


def _number(rng: np.random.Generator, bounds: Bounds) -> int:
    least, greatest = bounds
    return int(_between(rng, least, greatest + 1)) if greatest else 0
