"""Phantoms: drawn fundus photographs with known grades, for demos and tests where no real photograph may go.

Both eyes of every patient, taken by one of several cameras, with the lesions that define the grades of the
International Clinical Diabetic Retinopathy scale. Small lesions are three to four times larger than life, so that they
survive at 96 pixels and a network learns from scratch in minutes.

Lengths and places are in units of the retina's radius, from the centre of the picture, x to the right and y down, of a
right eye (optic disc on the right); a left eye is its mirror image.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError
from pipeline.files import write_whole
from pipeline.grades import N_GRADES
from pipeline.manifest import to_csv

Places = NDArray[np.float64]
Picture = NDArray[np.uint8]
Colour = tuple[float, float, float]


class Camera(NamedTuple):
    width: int  # of the frame, pixels
    height: int
    radius: int  # of the retina's disc, pixels; above half the height the frame cuts it at top and bottom
    notch: bool  # a tab on the rim, there to tell which way up the picture is
    cast: Colour  # gain of red, green and blue
    quality: int  # JPEG


CAMERAS: Final = (
    Camera(640, 480, 226, True, (1.0, 1.0, 1.0), 90),
    Camera(768, 576, 322, False, (1.02, 1.12, 1.35), 92),
    Camera(720, 720, 340, False, (1.02, 0.94, 0.75), 85),
    Camera(640, 480, 258, True, (0.9, 0.98, 1.0), 88),
)
PREVALENCE: Final = (0.45, 0.12, 0.22, 0.11, 0.10)
"""Share of each grade: skewed to 0 as in screening, with enough of the others to learn from."""
FELLOW_STEPS: Final = (0.0, 0.22, 0.03, 0.0, 0.0)
"""How often fellow eyes lie so many grades apart, relative to the rarer grade: 78 % of pairs come out equal."""

# The share of red, green and blue that passes.
_VEIN: Final = (0.64, 0.36, 0.42)
_ARTERY: Final = (0.84, 0.52, 0.52)
_BLOOD: Final = (0.48, 0.14, 0.16)
_NEW_VESSEL: Final = (0.76, 0.22, 0.28)
# The share that comes back, of 255.
_NERVE: Final = (0.96, 0.76, 0.52)
_EXUDATE: Final = (0.98, 0.9, 0.5)
_COTTON_WOOL: Final = (0.94, 0.88, 0.75)

_STEP: Final = 0.02  # of a vessel's path
_TAPER: Final = 0.67  # of its width that a vessel loses on its way
_BITS: Final = 4  # OpenCV draws at sixteenths of a pixel


class PhantomSummary(NamedTuple):
    eyes: int
    patients: int
    grades: tuple[int, ...]  # number of eyes of each grade


class Patient(NamedTuple):
    number: int  # from 1
    camera: Camera
    pigment: Colour  # what the background sends back of red, green and blue
    grades: dict[str, int]  # of the "left" and the "right" eye


class Vessel(NamedTuple):
    path: Places  # (n, 2), away from the optic disc
    width: float  # at the start
    artery: bool


def write_phantoms(out: Path, eyes: int, seed: int = 0) -> PhantomSummary:
    """Draws `eyes` photographs in the Kaggle layout: out/trainLabels.csv and out/train/<patient>_<eye>.jpeg.

    Both eyes of each patient, the last of an odd number with one. An eye depends on the seed, its patient and its side
    alone, so a larger set begins with the smaller one. Raises SourceError unless `out` is a new or empty folder.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise SourceError(f"{out}: the folder is not empty; name a new one")
        (out / "train").mkdir()
    except OSError as error:
        raise SourceError(f"{out}: cannot be made a folder ({error.strerror}); name another") from error

    patients = (draw_patient(seed, number) for number in count(1))
    chosen = list(islice(((patient, eye) for patient in patients for eye in patient.grades), eyes))

    def write(patient: Patient, eye: str) -> None:
        rng = _generator(seed, patient.number, 1 + (eye == "right"))
        picture = draw_eye(rng, patient.grades[eye], eye, patient.camera, patient.pigment)
        quality = [cv2.IMWRITE_JPEG_QUALITY, patient.camera.quality]
        jpeg = cv2.imencode(".jpeg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)[1]
        (out / "train" / f"{patient.number}_{eye}.jpeg").write_bytes(jpeg.tobytes())

    with ThreadPoolExecutor() as pool:  # OpenCV releases the interpreter's lock
        for _ in pool.map(write, *zip(*chosen, strict=True)):
            pass
    rows = [(f"{patient.number}_{eye}", patient.grades[eye]) for patient, eye in chosen]
    with write_whole(out / "trainLabels.csv") as file:  # last: a set cut short has no table
        file.write(to_csv(rows, ("image", "level")))
    by_grade = np.bincount([grade for _, grade in rows], minlength=N_GRADES)
    return PhantomSummary(len(rows), chosen[-1][0].number, tuple(by_grade.tolist()))


def draw_patient(seed: int, number: int) -> Patient:
    """Camera and colour, shared by both eyes and independent of their grades; each eye's grade follows PREVALENCE."""
    rng = _generator(seed, number, 0)
    steps = np.abs(np.subtract.outer(np.arange(N_GRADES), np.arange(N_GRADES)))
    pairs = np.array(FELLOW_STEPS)[steps] * np.minimum.outer(PREVALENCE, PREVALENCE)
    pairs += np.diag(PREVALENCE - pairs.sum(axis=1))
    left, right = divmod(int(rng.choice(pairs.size, p=pairs.ravel())), N_GRADES)
    camera = CAMERAS[rng.integers(len(CAMERAS))]
    light = rng.uniform(0.85, 1.12)
    pigment = (light * 0.8, light * rng.uniform(0.33, 0.46), light * rng.uniform(0.15, 0.26))
    return Patient(number, camera, pigment, {"left": left, "right": right})


def draw_eye(rng: np.random.Generator, grade: int, eye: str, camera: Camera, pigment: Colour) -> Picture:
    """One photograph, uint8 RGB of shape (camera.height, camera.width, 3); `eye` is "left" or "right"."""
    return _Drawing(rng, eye, camera).finish(grade, pigment)


def grow_vessels(rng: np.random.Generator, disc: Places, fovea: Places) -> list[Vessel]:
    """Veins, then arteries: arcades around the macula, nasal and macular trunks, and their branches."""
    vessels: list[Vessel] = []

    def grow(start: Places, heading: float, turn: float, length: float, width: float, artery: bool, up: int) -> None:
        """`heading` (radians) counts from the temporal side towards the top (`up` -1) or the bottom (1)."""
        n = int(length / _STEP)
        angle = heading + turn * _STEP * np.arange(n) + np.cumsum(rng.normal(0, 0.06, n))
        path = start + np.cumsum(_STEP * np.stack([-np.cos(angle), up * np.sin(angle)], axis=1), axis=0)
        reached = np.hypot(*(path - fovea).T) < 0.17  # the fovea has no vessels
        n = int(reached.argmax()) if reached.any() else n
        if n < 4:
            return
        vessels.append(Vessel(path[:n], width, artery))
        side = rng.choice([-1, 1])
        for k in range(rng.integers(9, 16), n - 4, rng.integers(10, 15)):
            branch = width * (1 - _TAPER * k / n) * rng.uniform(0.55, 0.75)
            if branch > 0.006:
                fork = side * rng.uniform(0.5, 0.9)
                grow(path[k], angle[k] + fork, -fork, length * rng.uniform(0.3, 0.5), branch, artery, up)
            side = -side

    for artery in (False, True):
        width = 0.019 if artery else 0.026
        for up in (-1, 1):
            start = disc + (rng.normal(0, 0.015), up * 0.02)
            bend = rng.uniform(-0.15, 0.15) + (0.15 if artery else 0)
            grow(start, 1.8 - bend, -1.45 + 0.5 * bend, 1.8, width * rng.uniform(0.9, 1.1), artery, up)
            grow(start, 2.3 + 2 * bend, 0.3, 0.8, 0.6 * width, artery, up)
            grow(start, 0.6 + bend, -0.9, 0.5, 0.3 * width, artery, up)
    return vessels


class _Drawing:
    """A picture in two layers, multiplied at the end: light from the background, and what lets it through."""

    def __init__(self, rng: np.random.Generator, eye: str, camera: Camera) -> None:
        self.rng, self.camera = rng, camera
        self.mirror = np.array([1 if eye == "right" else -1, 1])
        self.disc = np.array([0.55, -0.03]) + rng.normal(0, 0.03, 2)
        self.fovea = self.disc + (-0.6, 0.06) + rng.normal(0, 0.015, 2)
        self.through: Picture = np.full((camera.height, camera.width, 3), 255, np.uint8)

    def finish(self, grade: int, pigment: Colour) -> Picture:
        rng = self.rng
        vessels = grow_vessels(rng, self.disc, self.fovea)
        for vessel in vessels:
            self._vessel(vessel)
        if grade >= 1:
            self._microaneurysms(rng.integers(5, 10) if grade == 1 else rng.integers(9, 15))
        if grade == 2:
            self._haemorrhages(rng.integers(2, 6))
        wool: Places = np.empty((0, 2))
        if grade >= 3:
            self._haemorrhages(rng.integers(18, 28))
            for vessel in vessels:
                if vessel.width > 0.02 and not vessel.artery:
                    self._beads(vessel)
            wool = self._scatter(rng.integers(3, 7), 0.35, 0.7)
        if grade == 4:
            signs = rng.choice(["new vessels", "blood", "both"], p=[0.3, 0.2, 0.5])
            if signs != "blood":
                for place in (self.disc, *self._scatter(rng.integers(1, 3), 0.4, 0.7)):
                    self._new_vessels(place)
            if signs != "new vessels":
                self._preretinal_blood()

        picture = self._background(pigment, wool)
        if grade >= 2:
            self._exudates(picture, rng.integers(1, 4))
        picture = _times(picture, self.through)
        picture = np.asarray(
            cv2.GaussianBlur(picture, (5, 5), rng.uniform(0.002, 0.004) * self.camera.radius), np.uint8
        )
        grain = np.frombuffer(rng.bytes(picture.size), np.uint8).reshape(picture.shape)
        picture = np.asarray(cv2.addWeighted(picture, 1, grain, 0.05, -6.4), np.uint8)
        return _times(picture, self._aperture())

    def _background(self, pigment: Colour, wool: Places) -> Picture:
        """Choroid, optic disc, macula and cotton wool: all soft, so drawn at a quarter of the size."""
        rng, camera = self.rng, self.camera
        size = (camera.width // 4, camera.height // 4)
        x = ((np.arange(size[0]) * 4 + 2 - camera.width / 2) / camera.radius * self.mirror[0])[:, None]
        y = ((np.arange(size[1]) * 4 + 2 - camera.height / 2) / camera.radius)[:, None, None]

        def bump(place: Places, width: float) -> NDArray[np.float64]:
            across, down = (np.exp(-(((axis - at) / width) ** 2) / 2) for axis, at in zip((x, y), place, strict=True))
            return np.asarray(across * down)

        light = 1.06 - 0.4 * ((x - rng.normal(0, 0.12)) ** 2 + (y - rng.normal(0, 0.12)) ** 2)
        for cells, strength in ((5, 0.05), (24, 0.02)):
            blotches = rng.normal(0, strength, (cells, cells))
            light += cv2.resize(blotches, size, interpolation=cv2.INTER_CUBIC)[..., None]
        light *= 1 - 0.28 * bump(self.fovea, 0.14) - 0.22 * bump(self.fovea, 0.05)
        light += 0.12 * bump(self.disc, 0.25)
        field = light * pigment
        edge = 14 * (np.hypot((x - self.disc[0]) / 0.13, (y - self.disc[1]) / 0.145) - 1)
        field += 0.85 / (1 + np.exp(edge)) * (_NERVE - field)
        field += bump(self.disc - (0.01, 0), 0.05) * (0.02, 0.12, 0.16)  # the cup
        for place in wool:
            field += 0.75 * bump(place, rng.uniform(0.03, 0.045)) * (_COTTON_WOOL - field)
        small = (255 * np.clip(field * camera.cast, 0, 1)).astype(np.uint8)
        return np.asarray(cv2.resize(small, (camera.width, camera.height), interpolation=cv2.INTER_CUBIC), np.uint8)

    def _vessel(self, vessel: Vessel) -> None:
        pixels = self._pixels(vessel.path)
        pieces = max(2, len(pixels) // 10)
        for k, width in enumerate(vessel.width * np.linspace(1, 1 - _TAPER, pieces)):
            first, last = k * len(pixels) // pieces, (k + 1) * len(pixels) // pieces
            colour = _levels(_ARTERY if vessel.artery else _VEIN, min(1, 0.35 + width / 0.02))
            thickness = max(1, round(width * self.camera.radius))
            cv2.polylines(
                self.through, [pixels[max(0, first - 1) : last]], False, colour, thickness, cv2.LINE_AA, _BITS
            )

    def _microaneurysms(self, number: int) -> None:
        for place in self._scatter(number, 0.12, 0.75):
            self._dot(self.through, place, self.rng.uniform(0.018, 0.024), _levels(_BLOOD, 0.8))

    def _haemorrhages(self, number: int) -> None:
        for place in self._scatter(number, 0.2, 0.85):
            self._area(
                place + self._ring(self.rng.uniform(0.022, 0.045), 0.15), _levels(_BLOOD, self.rng.uniform(0.5, 0.9))
            )

    def _beads(self, vein: Vessel) -> None:
        for k in range(6, len(vein.path), 4):
            self._dot(self.through, vein.path[k], 1.1 * vein.width * (1 - _TAPER * k / len(vein.path)), _levels(_VEIN))

    def _new_vessels(self, place: Places) -> None:
        """A tangle of fine loops."""
        for size in self.rng.uniform(0.04, 0.12, self.rng.integers(8, 13)):
            loop = self._pixels(place + self.rng.normal(0, 0.06, 2) + self._ring(size, 0.3))
            thickness = max(1, round(0.006 * self.camera.radius))
            cv2.polylines(self.through, [loop], True, _levels(_NEW_VESSEL, 0.8), thickness, cv2.LINE_AA, _BITS)

    def _preretinal_blood(self) -> None:
        """Blood in front of the retina sinks to a boat with a level upper edge."""
        turn = np.linspace(0, np.pi, 24)
        (place,) = self._scatter(1, 0.35, 0.55)
        hull = np.stack([np.cos(turn), self.rng.uniform(0.6, 0.9) * np.sin(turn)], axis=1)
        self._area(place + self.rng.uniform(0.18, 0.28) * hull, _levels(_BLOOD, 0.75))

    def _ring(self, size: float, unevenness: float) -> Places:
        """An uneven closed line (36, 2) around the origin."""
        turn = np.linspace(0, 2 * np.pi, 36, endpoint=False)
        wave, fold = self.rng.uniform(0, 2 * np.pi, 2)
        reach = size * (1 + unevenness * (np.sin(2 * turn + wave) + np.sin(3 * turn + fold)))
        return np.stack([reach * np.cos(turn), reach * np.sin(turn)], axis=1)

    def _exudates(self, picture: Picture, clusters: int) -> None:
        for angle in self.rng.uniform(0, 2 * np.pi, clusters):
            middle = self.fovea + self.rng.uniform(0.16, 0.34) * np.array([np.cos(angle), np.sin(angle)])
            for place in self.rng.normal(middle, 0.06, (self.rng.integers(10, 22), 2)):
                self._dot(picture, place, self.rng.uniform(0.009, 0.02), _levels(_EXUDATE))

    def _scatter(self, number: int, nearest: float, farthest: float) -> Places:
        """Places (number, 2) in all directions, so far from the centre, inside the frame and off the optic disc."""
        angle = self.rng.uniform(0, 2 * np.pi) + 2 * np.pi / number * (
            np.arange(number) + self.rng.uniform(0, 1, number)
        )
        limit = 0.9 * self.camera.height / 2 / self.camera.radius
        far = np.minimum(farthest, limit / np.maximum(np.abs(np.sin(angle)), 1e-9))
        distance = nearest + (far - nearest) * np.sqrt(self.rng.uniform(0, 1, number))
        places = distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        places[np.hypot(*(places - self.disc).T) < 0.2, 0] *= -1
        return places

    def _aperture(self) -> Picture:
        mask = np.zeros_like(self.through)
        centre = np.array([self.camera.width, self.camera.height]) / 2
        cv2.circle(mask, _fixed(centre).tolist(), self.camera.radius << _BITS, (255, 255, 255), -1, cv2.LINE_AA, _BITS)
        if self.camera.notch:
            tab = np.array([[0.63, -0.69], [0.72, -0.78], [0.78, -0.72], [0.69, -0.63]])
            cv2.fillPoly(mask, [_fixed(centre + self.camera.radius * tab)], (255, 255, 255), cv2.LINE_AA, _BITS)
        return mask

    def _area(self, outline: Places, levels: Colour) -> None:
        cv2.fillPoly(self.through, [self._pixels(outline)], levels, cv2.LINE_AA, _BITS)

    def _dot(self, layer: Picture, place: Places, radius: float, levels: Colour) -> None:
        size = round(radius * self.camera.radius * 2**_BITS)
        cv2.circle(layer, self._pixels(place).tolist(), size, levels, -1, cv2.LINE_AA, _BITS)

    def _pixels(self, places: Places) -> NDArray[np.int32]:
        return _fixed(np.array([self.camera.width, self.camera.height]) / 2 + self.camera.radius * self.mirror * places)


def _fixed(pixels: Places) -> NDArray[np.int32]:
    return np.round(pixels * 2**_BITS).astype(np.int32)


def _levels(colour: Colour, depth: float = 1) -> Colour:
    """0-255; light fades exponentially with the depth of what it passes."""
    red, green, blue = colour
    return 255 * red**depth, 255 * green**depth, 255 * blue**depth


def _times(a: Picture, b: Picture) -> Picture:
    return np.asarray(cv2.multiply(a, b, scale=1 / 255), np.uint8)


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
