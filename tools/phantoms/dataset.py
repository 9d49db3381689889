"""Phantoms: a synthetic, graded data set, for demos and tests where no real photograph may be used.

It has either complete eyes, two a patient, taken by one of several cameras (tools.phantoms.eye), or lesions painted on
photographs of healthy eyes (tools.phantoms.lesions). A comment in each JPEG says that it is synthetic, also in the
unchanged copies of healthy eyes. Preprocessing flags such photographs, and reports and model cards warn of them.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np

from pipeline.cache.cache import Cache
from pipeline.errors import SourceError
from pipeline.grades import GRADES, N_GRADES
from pipeline.photos.contact_sheet import decode_small
from pipeline.photos.discovery import split_suffix
from pipeline.photos.jpeg import with_comment
from pipeline.storage.artifacts import SYNTHETIC
from pipeline.storage.atomic import TMP_SUFFIX, write_atomically
from pipeline.storage.csv_files import to_csv
from pipeline.threads import ThreadPool
from tools.phantoms.eye import Camera, Colour, Picture, draw_eye
from tools.phantoms.lesions import paint_lesions

CAMERAS: Final = (
    Camera(640, 480, 226, True, (1.0, 1.0, 1.0), 90),
    Camera(768, 576, 322, False, (1.02, 1.1, 1.25), 92),
    Camera(720, 720, 340, False, (1.02, 0.94, 0.75), 85),
    Camera(640, 480, 258, True, (0.9, 0.98, 1.0), 88),
)
PREVALENCE: Final = (0.45, 0.12, 0.22, 0.11, 0.10)
"""Fraction of each grade: mostly 0 as in screening, with enough of the others to learn from."""
FELLOW_STEPS: Final = (0.0, 0.22, 0.03, 0.0, 0.0)
"""How often the two eyes of a patient differ by 0, 1, ... grades, relative to the rarer grade: 78 % of pairs are
equal."""


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
    pigment: Colour  # fraction of red, green and blue light that the background reflects
    grades: dict[str, int]  # of the "left" and the "right" eye


def write_phantoms(out: Path, eyes: int, seed: int = 0) -> PhantomSummary:
    """Draws `eyes` (at least 1) photographs: out/train/<patient>_<eye>.jpeg and out/trainLabels.csv (`image,level`).

    Each patient has two eyes; with an odd number the last patient has one. A photograph depends only on the seed, the
    patient and left or right, so a larger set begins with the smaller one. Raises SourceError unless `out` is a new or
    empty folder.
    """
    _make_folders(out, ["train"])
    patients = (draw_patient(seed, number) for number in count(1))
    chosen = list(islice(((patient, eye) for patient in patients for eye in patient.grades), eyes))

    def write(patient: Patient, eye: str) -> None:
        rng = _generator(seed, patient.number, 1 + (eye == "right"))
        picture = draw_eye(rng, patient.grades[eye], eye, patient.camera, patient.pigment)
        _write_jpeg(out / "train" / f"{patient.number}_{eye}.jpeg", picture, patient.camera.quality)

    _at_once(write, chosen)
    rows = [(f"{patient.number}_{eye}", patient.grades[eye]) for patient, eye in chosen]
    with write_atomically(out / "trainLabels.csv") as file:  # last: an interrupted set has no table
        file.write(to_csv(rows, ("image", "level")))
    return PhantomSummary(len(rows), chosen[-1][0].number, _by_grade([grade for _, grade in rows]))


def paint_phantoms(out: Path, eyes: int, cache: Cache, seed: int = 0) -> PhantomSummary:
    """Paints lesions on the healthy photographs of a cache's train and val: out/<series>/<split>/<grade>/<id>.jpeg.

    Series 1 has each photograph with each grade; series 2 and later have grades 1 to 4 with other lesions. Painting
    ends at `eyes` (at least 1) photographs. Their order is drawn by `seed`: names often begin with the place or the
    camera, so the first ones by name may be of a single place. Test is not used, so a network that learned here can be
    measured on it.

    Raises SourceError unless `out` is a new or empty folder, and if the cache has no healthy photograph in train or has
    enhanced colours.
    """
    if cache.recipe.enhance != "none":
        raise SourceError(f"{cache.path}: lesions are painted before --enhance {cache.recipe.enhance}, not after it")
    table = cache.manifest
    healthy = np.flatnonzero((table["grade"] == 0) & table["split"].isin(["train", "val"]))
    if not (table["split"].iloc[healthy] == "train").any():
        raise SourceError(f"{cache.path}: no photograph of grade 0 in train, so there is nothing to paint on")

    drawn = _generator(seed).permutation(healthy).tolist()
    once = [(row, 1, grade) for row in drawn for grade in range(N_GRADES)]
    again = ((row, series, grade) for series in count(2) for row in drawn for grade in range(1, N_GRADES))
    chosen = list(islice(chain(once, again), eyes))
    ids, patients, splits = (table[column].to_numpy() for column in ("id", "patient", "split"))
    _make_folders(out, sorted({f"{series}/{splits[row]}/{grade}" for row, series, grade in chosen}))

    def write(row: int, series: int, grade: int) -> None:
        photograph = np.asarray(decode_small(cache.read(row), cache.recipe.size), np.uint8)
        picture = paint_lesions(_generator(seed, row, series, grade), photograph, grade)
        name = split_suffix(ids[row])[0].replace("/", "_")
        _write_jpeg(out / str(series) / splits[row] / str(grade) / f"{name}.jpeg", picture, cache.recipe.quality)

    _at_once(write, chosen)
    n_patients = len({patients[row] for row, _, _ in chosen})
    return PhantomSummary(len(chosen), n_patients, _by_grade([grade for _, _, grade in chosen]))


def draw_patient(seed: int, number: int) -> Patient:
    """A random patient. Camera and colour are independent of the grades; the grade of each eye follows PREVALENCE."""
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


def _make_folders(out: Path, names: Iterable[str]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(not path.name.endswith(TMP_SUFFIX) for path in out.iterdir()):
            raise SourceError(f"{out}: the folder is not empty; name a new one")
        for name in names:
            (out / name).mkdir(parents=True)
    except OSError as error:
        raise SourceError(f"{out}: cannot be made a folder ({error.strerror}); name another") from error


def _write_jpeg(path: Path, picture: Picture, quality: int) -> None:
    encoded = cv2.imencode(".jpeg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
    try:
        path.write_bytes(with_comment(encoded.tobytes(), SYNTHETIC))
    except OSError:
        path.unlink(missing_ok=True)  # no half photograph stays
        raise


def _at_once(write: Callable[..., None], chosen: Sequence[tuple[Any, ...]]) -> None:
    with ThreadPool(os.cpu_count()) as pool:  # OpenCV releases the interpreter's lock
        for _ in pool.map(write, *zip(*chosen, strict=True)):
            pass


def _by_grade(grades: Sequence[int]) -> tuple[int, ...]:
    return tuple(np.bincount(grades, minlength=N_GRADES).tolist())
