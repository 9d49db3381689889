"""Phantoms: sets of drawn eyes, and of lesions painted on healthy ones."""

import csv
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.stats import chi2_contingency

from pipeline.cache.cache import open_cache
from pipeline.errors import SourceError
from pipeline.storage.artifacts import SYNTHETIC
from tools.cli import main
from tools.phantoms.dataset import CAMERAS, PREVALENCE, draw_patient, paint_phantoms, write_phantoms
from tools.phantoms.eye import Camera, draw_eye

PIGMENT = (0.8, 0.4, 0.2)
EYES = ("left", "right")


def read_labels(folder: Path) -> dict[str, int]:
    with open(folder / "trainLabels.csv", newline="") as file:
        return {row["image"]: int(row["level"]) for row in csv.DictReader(file)}


def eye_of(grade: int, seed: int, camera: Camera = CAMERAS[0], eye: str = "right") -> np.ndarray:
    return draw_eye(np.random.default_rng(seed), grade, eye, camera, PIGMENT)


def test_a_set_has_kaggles_layout_and_both_eyes_of_each_patient(tmp_path: Path) -> None:
    summary = write_phantoms(tmp_path / "eyes", 5)

    labels = read_labels(tmp_path / "eyes")
    assert list(labels) == ["1_left", "1_right", "2_left", "2_right", "3_left"]
    assert {file.name for file in (tmp_path / "eyes").rglob("*.*")} == {
        "trainLabels.csv",
        *(f"{id}.jpeg" for id in labels),
    }
    for id in labels:
        with Image.open(tmp_path / "eyes" / "train" / f"{id}.jpeg") as photo:
            assert (photo.format, photo.mode) == ("JPEG", "RGB")
            assert photo.size in {(camera.width, camera.height) for camera in CAMERAS}
            assert photo.info["comment"] == SYNTHETIC.encode()
    assert (summary.eyes, summary.patients) == (5, 3)
    assert summary.grades == tuple(list(labels.values()).count(grade) for grade in range(5))
    assert str(summary).startswith("5 eyes of 3 patients: ")


def test_drawn_eyes_are_flagged_from_any_copy_and_take_part(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "eyes", 12)
    shutil.copytree(tmp_path / "eyes", tmp_path / "copied")
    for name in ("1_left", "2_left"):  # as a program that keeps comments saves them
        photo = tmp_path / "copied" / "train" / f"{name}.jpeg"
        Image.open(photo).save(photo, quality=95)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "copied" / "train" / "90_left.jpeg")
    with open(tmp_path / "copied" / "trainLabels.csv", "a") as file:
        file.write("90_left,0\n")
    arguments = ["preprocess", str(tmp_path / "copied"), "--out", str(tmp_path / "c"), "--size", "64", "--keep-blank"]
    made = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert "flagged synthetic: 12" in made.output
    with open_cache(tmp_path / "c") as cache:
        flagged = cache.manifest["flags"].str.split().map(lambda flags: "synthetic" in flags)
        assert flagged.tolist() == [id != "90_left" for id in cache.manifest["id"]]
        assert (cache.manifest["split"] != "").all()


def test_a_larger_set_begins_with_the_smaller_one_and_a_seed_draws_other_eyes(tmp_path: Path) -> None:
    for name, eyes, seed in (("small", 3, 7), ("large", 6, 7), ("other", 3, 8)):
        write_phantoms(tmp_path / name, eyes, seed)

    def jpegs(name: str) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in (tmp_path / name / "train").iterdir()}

    assert jpegs("small").items() <= jpegs("large").items()
    assert read_labels(tmp_path / "small").items() <= read_labels(tmp_path / "large").items()
    assert not jpegs("small").items() & jpegs("other").items()
    assert len(set(jpegs("large").values())) == 6


def test_nothing_is_written_where_something_is(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")

    with pytest.raises(SourceError, match="not empty"):
        write_phantoms(tmp_path, 2)
    with pytest.raises(SourceError, match=r"mine\.txt"):
        write_phantoms(tmp_path / "mine.txt", 2)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_grades_are_as_frequent_as_stated_alike_in_fellow_eyes_and_independent_of_the_camera() -> None:
    patients = [draw_patient(0, number) for number in range(1, 3001)]
    grades = np.array([[patient.grades["left"], patient.grades["right"]] for patient in patients])

    for eye in grades.T:
        np.testing.assert_allclose(np.bincount(eye, minlength=5) / len(eye), PREVALENCE, atol=0.025)
    apart = np.abs(grades[:, 0] - grades[:, 1])
    assert 0.75 < np.mean(apart == 0) < 0.8
    assert np.mean(apart[apart > 0] == 1) > 0.8

    cameras = np.array([CAMERAS.index(patient.camera) for patient in patients])
    table = np.zeros((len(CAMERAS), 5))
    np.add.at(table, (cameras, grades[:, 0]), 1)
    assert chi2_contingency(table).pvalue > 0.01


@pytest.mark.parametrize("camera", CAMERAS)
def test_the_retina_is_a_disc_on_black_as_the_camera_frames_it(camera: Camera) -> None:
    picture = eye_of(0, seed=1, camera=camera)

    assert picture.shape == (camera.height, camera.width, 3)
    assert picture.dtype == np.uint8
    y, x = np.mgrid[: camera.height, : camera.width]
    distance = np.hypot(x + 0.5 - camera.width / 2, y + 0.5 - camera.height / 2) / camera.radius
    tab = camera.notch & (x > 0.6 * camera.width) & (y < 0.4 * camera.height)
    assert picture[(distance > 1.01) & ~tab].max() == 0
    assert (picture[distance < 0.97].max(axis=1) > 20).mean() > 0.999
    assert camera.notch == bool(picture[(distance > 1.03) & tab].max(initial=0) > 20)


@pytest.mark.parametrize(("eye", "side"), [("left", -1), ("right", 1)])
def test_the_optic_disc_lies_on_the_nasal_side(eye: str, side: int) -> None:
    """A right eye's photograph has it on the right."""
    for seed in range(4):
        green = cv2.GaussianBlur(eye_of(0, seed, eye=eye)[..., 1], (0, 0), 12)
        column = np.unravel_index(green.argmax(), green.shape)[1]
        assert 0.35 < side * (column - CAMERAS[0].width / 2) / CAMERAS[0].radius < 0.75


def test_worse_grades_bleed_more_and_exudates_begin_at_moderate() -> None:
    bleeding, yellow = [], []
    for grade in range(5):
        maculas = [eye_of(grade, seed)[60:-60, 120:380].astype(np.int16) for seed in range(8)]
        # Green light that is missing over at least 7 pixels: lesions are as wide as that, most vessels are not.
        spots = [cv2.morphologyEx(macula[..., 1], cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8)) for macula in maculas]
        around = [cv2.morphologyEx(macula[..., 1], cv2.MORPH_CLOSE, np.ones((41, 41), np.uint8)) for macula in maculas]
        bleeding.append(np.mean(np.array(spots) < 0.6 * np.array(around)))
        yellow.append([np.sum((macula[..., 1] > 170) & (macula[..., 2] < 150)) for macula in maculas])

    assert bleeding[0] < bleeding[1] < bleeding[2] < min(bleeding[3:])
    assert max(map(max, yellow[:2])) == 0
    assert min(map(min, yellow[2:])) > 20


@pytest.fixture
def graded(make_cache: Callable[..., Path]) -> Path:
    """Two patients in train, one in val and one in test; in train a fellow eye is ill."""
    pictures = {
        f"{patient}_{eye}": np.full((64, 64, 3), 30 * patient, np.uint8) for patient in (1, 2, 3, 4) for eye in EYES
    }
    grades = {id: 2 if id == "2_right" else 0 for id in pictures}
    splits = {id: {"3": "val", "4": "test"}.get(id[0], "train") for id in pictures}
    return make_cache(pictures, grades, splits)


def test_lesions_are_painted_on_the_healthy_of_train_and_val_and_patients_stay_on_their_side(
    graded: Path, tmp_path: Path
) -> None:
    eyes = 5 * 5 + 5 * 4 + 1  # five photographs with each grade once, with grades 1-4 again, and the first a third time
    ran = CliRunner().invoke(main, ["phantom", str(tmp_path / "out"), "--eyes", str(eyes), "--onto", str(graded)])
    assert ran.output == "46 eyes of 3 patients: 5 no DR, 11 mild, 10 moderate, 10 severe, 10 proliferative\n"

    result = CliRunner().invoke(
        main, ["preprocess", str(tmp_path / "out"), "--out", str(tmp_path / "c"), "--size", "64"]
    )
    assert "46 cached + 0 rejected" in result.output
    with open_cache(graded) as source, open_cache(tmp_path / "c") as made:
        manifest = made.manifest
        assert set(manifest["patient"][manifest["split"] == "train"]) == {"1", "2"}
        assert set(manifest["patient"][manifest["split"] == "val"]) == {"3"}
        assert not (manifest["split"] == "test").any()
        assert "2_right" not in {id.rpartition("/")[2].removesuffix(".jpeg") for id in manifest["id"]}
        assert (manifest["grade"] == manifest["source"].str.split("/").str[2].astype(int)).all()
        assert (manifest["flags"].str.split().map(lambda flags: "synthetic" in flags)).all()
        assert not source.manifest["flags"].str.contains("synthetic").any()
        as_it_was = Image.open(BytesIO(source.read(0)))
        same = Image.open(tmp_path / "out" / "1" / "train" / "0" / "1_left.jpeg")
        assert np.abs(np.asarray(as_it_was, int) - np.asarray(same, int)).max() <= 3


def test_paintings_of_one_seed_are_alike_and_of_a_series_or_another_seed_are_not(graded: Path, tmp_path: Path) -> None:
    with open_cache(graded) as cache:
        for name, eyes, seed in (("few", 25, 0), ("more", 45, 0), ("other", 25, 1)):
            paint_phantoms(tmp_path / name, eyes, cache, seed)

    def jpeg(name: str, series: int) -> bytes:
        return (tmp_path / name / str(series) / "train" / "3" / "1_left.jpeg").read_bytes()

    assert jpeg("few", 1) == jpeg("more", 1)
    assert len({jpeg("more", 1), jpeg("more", 2), jpeg("other", 1)}) == 3


def test_a_few_paintings_are_on_photographs_of_every_place(make_cache: Callable[..., Path], tmp_path: Path) -> None:
    names = [f"{place}_{number}" for place in ("aravind", "lotus") for number in range(12)]
    pictures = {name: np.full((64, 64, 3), 60 + 5 * number, np.uint8) for number, name in enumerate(names)}

    def painted_on(eyes: int, seed: int) -> set[str]:
        out = tmp_path / f"{eyes}-{seed}"
        paint_phantoms(out, eyes, cache, seed)
        return {path.stem for path in out.rglob("*.jpeg")}

    with open_cache(make_cache(pictures, dict.fromkeys(names, 0))) as cache:
        some, more, other = painted_on(60, 0), painted_on(90, 0), painted_on(60, 1)
    assert len(some) == len(other) == 12  # each with five grades
    for drawn in (some, other):
        assert {name.partition("_")[0] for name in drawn} == {"aravind", "lotus"}
    assert some < more
    assert some != other


def test_where_nothing_can_be_painted_it_says_why(make_cache: Callable[..., Path], tmp_path: Path) -> None:
    pictures = {"1_left": np.full((64, 64, 3), 90, np.uint8)}
    with (
        open_cache(make_cache(pictures, {"1_left": 3})) as ill,
        pytest.raises(SourceError, match="no photograph of grade 0"),
    ):
        paint_phantoms(tmp_path / "out", 5, ill)
    write_phantoms(tmp_path / "eyes", 4)
    cache = tmp_path / "graham"
    assert (
        CliRunner()
        .invoke(main, ["preprocess", str(tmp_path / "eyes"), "--out", str(cache), "--enhance", "graham"])
        .exit_code
        == 0
    )
    ran = CliRunner().invoke(main, ["phantom", str(tmp_path / "out"), "--eyes", "5", "--onto", str(cache)])
    assert (ran.exit_code, ran.output) == (
        1,
        f"Error: {cache}: lesions are painted before --enhance graham, not after it\n",
    )
    assert not (tmp_path / "out").exists()
