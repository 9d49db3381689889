"""Phantoms: a set of drawn, graded eyes, for demos and tests where no real photograph may go.

Both eyes of every patient, taken by one of several cameras, in the Kaggle layout. What an eye looks like is in
tools.phantom_eye.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np

from pipeline.errors import SourceError
from pipeline.files import write_whole
from pipeline.grades import GRADES, N_GRADES
from pipeline.manifest import to_csv
from tools.phantom_eye import Camera, Colour, draw_eye

CAMERAS: Final = (
    Camera(640, 480, 226, True, (1.0, 1.0, 1.0), 90),
    Camera(768, 576, 322, False, (1.02, 1.1, 1.25), 92),
    Camera(720, 720, 340, False, (1.02, 0.94, 0.75), 85),
    Camera(640, 480, 258, True, (0.9, 0.98, 1.0), 88),
)
PREVALENCE: Final = (0.45, 0.12, 0.22, 0.11, 0.10)
"""Share of each grade: skewed to 0 as in screening, with enough of the others to learn from."""
FELLOW_STEPS: Final = (0.0, 0.22, 0.03, 0.0, 0.0)
"""How often fellow eyes lie so many grades apart, relative to the rarer grade: 78 % of pairs come out equal."""


class PhantomSummary(NamedTuple):
    eyes: int
    patients: int
    grades: tuple[int, ...]  # number of eyes of each grade

    def __str__(self) -> str:
        by_grade = ", ".join(f"{number} {name}" for number, name in zip(self.grades, GRADES, strict=True))
        return f"{self.eyes} eyes of {self.patients} patients: {by_grade}"


class Patient(NamedTuple):
    number: int  # from 1
    camera: Camera
    pigment: Colour  # share of red, green and blue light that the background sends back
    grades: dict[str, int]  # of the "left" and the "right" eye


def write_phantoms(out: Path, eyes: int, seed: int = 0) -> PhantomSummary:
    """Draws `eyes` (at least 1) photographs: out/train/<patient>_<eye>.jpeg and out/trainLabels.csv (`image,level`).

    Both eyes of each patient; the last of an odd number has one. An eye depends on the seed, its patient and its side
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
        quality = (cv2.IMWRITE_JPEG_QUALITY, patient.camera.quality)
        jpeg = cv2.imencode(".jpeg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)[1]
        (out / "train" / f"{patient.number}_{eye}.jpeg").write_bytes(jpeg.tobytes())

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV releases the interpreter's lock
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
    pairs += np.diag(PREVALENCE - pairs.sum(axis=1))  # rows and columns sum to PREVALENCE
    left, right = divmod(int(rng.choice(pairs.size, p=pairs.ravel())), N_GRADES)
    camera = CAMERAS[rng.integers(len(CAMERAS))]
    light = rng.uniform(0.8, 1.12)
    pigment = (light * 0.8, light * rng.uniform(0.33, 0.5), light * rng.uniform(0.15, 0.32))
    return Patient(number, camera, pigment, {"left": left, "right": right})


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
