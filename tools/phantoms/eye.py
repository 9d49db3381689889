"""One drawn fundus photograph of a given grade.

Lengths and positions are in units of the retina's radius, from the centre of the picture, x to the right and y down.
They are those of a right eye (optic disc on the right). A left eye is its mirror image. Colours are red, green and
blue, 0-1.
"""

from functools import cache
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Picture = NDArray[np.uint8]
Colour = tuple[float, float, float]


class Camera(NamedTuple):
    width: int  # of the frame, pixels
    height: int
    radius: int  # of the retina's disc, pixels; if it is above half the height, the frame cuts the disc
    notch: bool  # a tab on the rim, which shows the orientation of the picture
    cast: Colour  # gain of red, green and blue
    quality: int  # JPEG


class Lesions(NamedTuple):
    """The lesions of an eye of a grade; pairs are the smallest and the greatest number."""

    microaneurysms: tuple[int, int] = (0, 0)
    haemorrhages: tuple[int, int] = (0, 0)
    exudates: tuple[int, int] = (0, 0)  # clusters
    cotton_wool: tuple[int, int] = (0, 0)
    beading: bool = False  # of the veins
    proliferative: bool = False  # new vessels, preretinal blood or both


LESIONS: Final = (
    Lesions(),
    Lesions((7, 11)),
    Lesions((9, 14), (2, 5), (1, 3)),
    Lesions((9, 14), (20, 29), (1, 3), (3, 6), beading=True),
    Lesions((9, 14), (10, 17), (1, 3), (3, 6), beading=True, proliferative=True),
)
"""By grade, after the International Clinical Diabetic Retinopathy scale. Small lesions are three to four times larger
than real ones: at 96 pixels a microaneurysm is two pixels wide, and a network learns from scratch in minutes."""

# Transmission.
_VEIN: Final = (0.64, 0.36, 0.42)
_ARTERY: Final = (0.84, 0.52, 0.52)
_NEW_VESSEL: Final = (0.8, 0.3, 0.36)
_BLOOD: Final = (0.48, 0.14, 0.16)
# Reflection.
_NERVE: Final = (0.96, 0.76, 0.52)
_EXUDATE: Final = (0.98, 0.9, 0.5)
_COTTON_WOOL: Final = (0.94, 0.88, 0.75)

_STEP: Final = 0.02  # between two points of a vessel's path
_TAPER: Final = 0.67  # the fraction of its width that a vessel loses from start to end
_BITS: Final = 4  # OpenCV draws at sixteenths of a pixel


class Vessel(NamedTuple):
    path: Points  # (n, 2), away from the optic disc
    width: float  # at the start
    artery: bool


def draw_eye(rng: np.random.Generator, grade: int, eye: str, camera: Camera, pigment: Colour) -> Picture:
    """One photograph, uint8 RGB of shape (camera.height, camera.width, 3).

    eye: "left" or "right". pigment: the colour of the background.
    """

    def some(bounds: tuple[int, int]) -> int:
        return int(rng.integers(*bounds, endpoint=True))

    lesions = LESIONS[grade]
    drawing = _Drawing(rng, eye, camera)
    vessels = grow_vessels(rng, drawing.disc, drawing.fovea)
    drawing.add_vessels(vessels)
    if lesions.beading:
        drawing.add_beads([vessel for vessel in vessels if not vessel.artery and vessel.width > 0.02])
    drawing.add_microaneurysms(some(lesions.microaneurysms))
    drawing.add_haemorrhages(some(lesions.haemorrhages))
    if lesions.proliferative:
        signs = rng.choice(["new vessels", "blood", "both"], p=[0.2, 0.2, 0.6])
        if signs != "blood":
            drawing.add_new_vessels(elsewhere=some((1, 2)))
        if signs != "new vessels":
            drawing.add_preretinal_blood()
    drawing.paint_background(pigment, some(lesions.cotton_wool))
    drawing.paint_exudates(some(lesions.exudates))
    return drawing.photograph()


def grow_vessels(rng: np.random.Generator, disc: Points, fovea: Points) -> list[Vessel]:
    """Veins, then arteries: arcades around the macula, nasal and macular vessels, and their branches."""
    vessels: list[Vessel] = []

    def grow(start: Points, heading: float, turn: float, length: float, width: float, artery: bool, up: int) -> None:
        """heading: angle in radians from the temporal direction towards the top (`up` -1) or the bottom (`up` 1)."""
        n = int(length / _STEP)
        angle = heading + turn * _STEP * np.arange(n) + np.cumsum(rng.normal(0, 0.06, n))
        path = start + np.cumsum(_STEP * np.stack([-np.cos(angle), up * np.sin(angle)], axis=1), axis=0)
        reached = np.hypot(*(path - fovea).T) < 0.17  # the fovea has no vessels
        n = int(reached.argmax()) if reached.any() else n
        if n < 4:
            return
        vessels.append(Vessel(path[:n], width, artery))
        direction = rng.choice([-1, 1])
        for k in range(rng.integers(9, 16), n - 4, rng.integers(10, 15)):
            branch = width * (1 - _TAPER * k / n) * rng.uniform(0.55, 0.75)
            if branch > 0.006:
                fork = direction * rng.uniform(0.5, 0.9)
                grow(path[k], angle[k] + fork, -fork, length * rng.uniform(0.3, 0.5), branch, artery, up)
            direction = -direction

    for artery in (False, True):
        width = 0.018 if artery else 0.024
        for up in (-1, 1):
            start = disc + np.array([rng.normal(0, 0.015), up * 0.02])
            bend = rng.uniform(-0.15, 0.15) + (0.15 if artery else 0)
            grow(start, 1.8 - bend, -1.45 + 0.5 * bend, 1.8, width * rng.uniform(0.9, 1.1), artery, up)
            grow(start, 2.3 + 2 * bend, 0.3, 0.8, 0.6 * width, artery, up)
            grow(start, 0.6 + bend, -0.9, 0.5, 0.3 * width, artery, up)
    return vessels


def closed_line(rng: np.random.Generator, size: float, unevenness: float) -> Points:
    """An uneven circle around the origin, points of shape (37, 2)."""
    turn = np.linspace(0, 2 * np.pi, 37)
    wave, fold = rng.uniform(0, 2 * np.pi, 2)
    reach = size * (1 + unevenness * (np.sin(2 * turn + wave) + np.sin(3 * turn + fold)))
    return np.stack([reach * np.cos(turn), reach * np.sin(turn)], axis=1)


class _Drawing:
    """Two layers that are multiplied at the end: `light`, which the background reflects, and `through`, the
    transmission of what lies in front of it."""

    def __init__(self, rng: np.random.Generator, eye: str, camera: Camera) -> None:
        self.rng, self.camera = rng, camera
        self.mirror = np.array([1 if eye == "right" else -1, 1])
        self.disc = np.array([0.55, -0.03]) + rng.normal(0, 0.03, 2)
        self.fovea = self.disc + np.array([-0.6, 0.06]) + rng.normal(0, 0.015, 2)
        self.through: Picture = np.full((camera.height, camera.width, 3), 255, np.uint8)
        self.light: Picture = np.zeros_like(self.through)

    def add_vessels(self, vessels: list[Vessel]) -> None:
        for path, full_width, artery in vessels:
            pixels = self._pixels(path)
            pieces = max(2, len(pixels) // 10)
            for k, width in enumerate(full_width * np.linspace(1, 1 - _TAPER, pieces)):
                piece = pixels[max(0, k * len(pixels) // pieces - 1) : (k + 1) * len(pixels) // pieces]
                self._line(piece, width, _levels(_ARTERY if artery else _VEIN, min(1, 0.35 + width / 0.02)))

    def add_beads(self, veins: list[Vessel]) -> None:
        for path, width, _ in veins:
            for k in range(6, len(path), 5):
                self._dot(self.through, path[k], width * (1 - _TAPER * k / len(path)), _levels(_VEIN))

    def add_microaneurysms(self, number: int) -> None:
        for centre in self._scatter(number, 0.12, 0.75):
            self._dot(self.through, centre, self.rng.uniform(0.021, 0.028), _levels(_BLOOD, 0.8))

    def add_haemorrhages(self, number: int) -> None:
        for centre in self._scatter(number, 0.2, 0.85):
            blot = centre + closed_line(self.rng, self.rng.uniform(0.022, 0.045), unevenness=0.15)
            self._area(blot, _levels(_BLOOD, self.rng.uniform(0.5, 0.9)))

    def add_new_vessels(self, elsewhere: int) -> None:
        """Adds tangles of fine loops, at the optic disc and elsewhere."""
        for centre in (self.disc, *self._scatter(elsewhere, 0.4, 0.7)):
            for size in self.rng.uniform(0.03, 0.11, self.rng.integers(10, 16)):
                loop = centre + self.rng.normal(0, 0.05, 2) + closed_line(self.rng, size, unevenness=0.3)
                self._line(self._pixels(loop), 0.005, _levels(_NEW_VESSEL))

    def add_preretinal_blood(self) -> None:
        """Adds blood in front of the retina: it sinks, so its upper edge is level."""
        (centre,) = self._scatter(1, 0.35, 0.55)
        turn = np.linspace(0, np.pi, 24)
        hull = np.stack([np.cos(turn), self.rng.uniform(0.6, 0.9) * np.sin(turn)], axis=1)
        self._area(centre + self.rng.uniform(0.22, 0.34) * hull, _levels(_BLOOD, 0.75))

    def paint_background(self, pigment: Colour, cotton_wool: int) -> None:
        """Paints choroid, macula, optic disc and cotton wool. All are soft, so a quarter of the size is enough."""
        rng, camera = self.rng, self.camera
        size = (camera.width // 4, camera.height // 4)
        x = ((np.arange(size[0]) * 4 + 2 - camera.width / 2) / camera.radius * self.mirror[0])[:, None]
        y = ((np.arange(size[1]) * 4 + 2 - camera.height / 2) / camera.radius)[:, None, None]

        def bump(centre: Points, width: float) -> NDArray[np.float64]:
            across, down = (np.exp(-(((axis - at) / width) ** 2) / 2) for axis, at in zip((x, y), centre, strict=True))
            return np.asarray(across * down)

        shade = 1.06 - 0.4 * ((x - rng.normal(0, 0.12)) ** 2 + (y - rng.normal(0, 0.12)) ** 2)
        for cells, strength in ((5, 0.05), (24, 0.02)):
            blotches = cv2.resize(rng.normal(0, strength, (cells, cells)), size, interpolation=cv2.INTER_CUBIC)
            shade += blotches[..., None]
        shade *= 1 - 0.28 * bump(self.fovea, 0.14) - 0.22 * bump(self.fovea, 0.05)
        shade += 0.12 * bump(self.disc, 0.25)
        field = shade * pigment
        edge = 14 * (np.hypot((x - self.disc[0]) / 0.13, (y - self.disc[1]) / 0.145) - 1)
        field += 0.85 / (1 + np.exp(edge)) * (_NERVE - field)
        field += bump(self.disc, 0.05) * (0.02, 0.12, 0.16)  # the optic cup
        for centre in self._scatter(cotton_wool, 0.35, 0.7):
            field += 0.75 * bump(centre, rng.uniform(0.03, 0.045)) * (_COTTON_WOOL - field)
        small = (255 * np.clip(field * camera.cast, 0, 1)).astype(np.uint8)
        cv2.resize(small, (camera.width, camera.height), self.light, interpolation=cv2.INTER_CUBIC)

    def paint_exudates(self, clusters: int) -> None:
        for angle in self.rng.uniform(0, 2 * np.pi, clusters):
            middle = self.fovea + self.rng.uniform(0.16, 0.34) * np.array([np.cos(angle), np.sin(angle)])
            for centre in self.rng.normal(middle, 0.06, (self.rng.integers(10, 22), 2)):
                colour = _levels(_EXUDATE, self.rng.uniform(0.6, 1.4))
                self._dot(self.light, centre, self.rng.uniform(0.08, 0.14) ** 2, colour)

    def photograph(self) -> Picture:
        """The picture that the camera takes: the layers with a little blur, grain, and black around the retina."""
        picture = cv2.multiply(self.light, self.through, scale=1 / 255)
        picture = cv2.GaussianBlur(picture, (5, 5), self.rng.uniform(0.002, 0.004) * self.camera.radius)
        grain = np.frombuffer(self.rng.bytes(picture.size), np.uint8).reshape(picture.shape)
        picture = cv2.addWeighted(picture, 1, grain, 0.05, -6.4)
        return np.asarray(cv2.multiply(picture, _aperture(self.camera), scale=1 / 255), np.uint8)

    def _scatter(self, number: int, nearest: float, farthest: float) -> Points:
        """Random points, (number, 2), between two distances from the centre, inside the frame and off the optic
        disc."""
        turn = (np.arange(number) + self.rng.uniform(0, 1, number)) / max(number, 1) + self.rng.uniform()
        across, down = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
        inside = 0.45 * self.camera.height / self.camera.radius / np.maximum(np.abs(down), 1e-9)
        farthest_inside = np.minimum(farthest, inside)
        distance = nearest + (farthest_inside - nearest) * np.sqrt(self.rng.uniform(0, 1, number))
        points = np.stack([distance * across, distance * down], axis=1)
        points[np.hypot(*(points - self.disc).T) < 0.2, 0] *= -1
        return points

    def _line(self, pixels: NDArray[np.int32], width: float, levels: Colour) -> None:
        thickness = max(1, round(width * self.camera.radius))
        cv2.polylines(self.through, [pixels], False, levels, thickness, cv2.LINE_AA, _BITS)

    def _area(self, outline: Points, levels: Colour) -> None:
        cv2.fillPoly(self.through, [self._pixels(outline)], levels, cv2.LINE_AA, _BITS)

    def _dot(self, layer: Picture, centre: Points, radius: float, levels: Colour) -> None:
        size = round(radius * self.camera.radius * 2**_BITS)
        cv2.circle(layer, self._pixels(centre).tolist(), size, levels, -1, cv2.LINE_AA, _BITS)

    def _pixels(self, points: Points) -> NDArray[np.int32]:
        return _fixed(self.camera, self.mirror * points)


@cache
def _aperture(camera: Camera) -> Picture:
    """A mask: 255 where the camera shows the retina, 0 around it."""
    mask = np.zeros((camera.height, camera.width, 3), np.uint8)
    centre = _fixed(camera, np.zeros(2)).tolist()
    cv2.circle(mask, centre, camera.radius << _BITS, (255, 255, 255), -1, cv2.LINE_AA, _BITS)
    if camera.notch:
        tab = np.array([[0.63, -0.69], [0.72, -0.78], [0.78, -0.72], [0.69, -0.63]])
        cv2.fillPoly(mask, [_fixed(camera, tab)], (255, 255, 255), cv2.LINE_AA, _BITS)
    return mask


def _fixed(camera: Camera, points: Points) -> NDArray[np.int32]:
    """Pixels of the frame as OpenCV's fixed-point numbers."""
    pixels = np.array([camera.width, camera.height]) / 2 + camera.radius * points
    return np.round(pixels * 2**_BITS).astype(np.int32)


def _levels(colour: Colour, depth: float = 1) -> Colour:
    """A colour as 0-255; light fades exponentially with the depth that it passes."""
    red, green, blue = colour
    return 255 * red**depth, 255 * green**depth, 255 * blue**depth
