"""Photographs unlike those of training are told from those like them, on real ones."""

import json
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline.cache.cache import Cache, open_cache
from tools.cli import main
from trainer.inference.inputs import training_statistics
from trainer.network.image_statistics import ImageStatistics, TrainingStatistics, image_statistics


@pytest.fixture(scope="module")
def cache(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """420 real photographs."""
    folder = tmp_path_factory.mktemp("seen")
    done = CliRunner().invoke(main, ["preprocess", str(shared / "data/eyepacs"), "--out", str(folder), "--size", "128"])
    assert done.exit_code == 0, done.output
    return open_cache(folder)


@pytest.fixture(scope="module")
def seen(cache: Cache) -> TrainingStatistics:
    return training_statistics(cache, cache.rows("train"), 128, 2)


def pixels(cache: Cache, row: int) -> np.ndarray:
    return np.array(Image.open(BytesIO(cache.read(row))))


def flags(cache: Cache, seen: TrainingStatistics, row: int, picture: np.ndarray, scale: float = 1) -> set[str]:
    width, height, radius = (scale * float(cache.manifest[name].iloc[row]) for name in ("width", "height", "radius"))
    found = seen.unlike(image_statistics(picture, int(width), int(height), radius))
    return {flag.removeprefix("unlike_training:") for flag in found}


def test_held_out_photographs_of_the_same_cameras_are_like_them(cache: Cache, seen: TrainingStatistics) -> None:
    rows = np.concatenate([cache.rows("val"), cache.rows("test")])
    flagged = [row for row in rows.tolist() if flags(cache, seen, row, pixels(cache, row))]
    assert len(flagged) <= 0.05 * len(rows)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        pytest.param(lambda picture: cv2.GaussianBlur(picture, (0, 0), 5), "sharpness", id="out of focus"),
        pytest.param(lambda picture: np.random.default_rng(0).integers(0, 256, picture.shape, np.uint8), "sharpness",
                     id="noise"),
        pytest.param(lambda picture: picture[..., ::-1].copy(), "colour", id="blue and red swapped"),
        pytest.param(lambda picture: picture[..., [1, 1, 1]].copy(), "colour", id="red-free"),
        pytest.param(lambda picture: (255 - picture).astype(np.uint8), "colour", id="negative"),
        pytest.param(lambda picture: (picture // 12).astype(np.uint8), "brightness", id="hardly lit"),
    ],
)  # fmt: skip
def test_a_photograph_unlike_them_is_flagged(cache: Cache, seen: TrainingStatistics, change, wanted: str) -> None:
    rows = cache.rows("test").tolist()
    hits = sum(wanted in flags(cache, seen, row, change(pixels(cache, row))) for row in rows)
    assert hits >= 0.8 * len(rows)  # some are out of focus and without colour to begin with


def test_another_camera_shows_in_its_size(cache: Cache, seen: TrainingStatistics) -> None:
    row = int(cache.rows("test")[0])
    assert flags(cache, seen, row, pixels(cache, row), scale=4) == {"size"}
    assert flags(cache, seen, row, pixels(cache, row), scale=1.1) == set(), "one camera's is no narrow law"


def test_no_disc_is_unlike_where_training_had_them_and_like_where_it_had_none(
    cache: Cache, seen: TrainingStatistics
) -> None:
    row = int(cache.rows("test")[0])
    without = image_statistics(pixels(cache, row), 1024, 768, None)
    assert "unlike_training:no_disc" in seen.unlike(without)
    assert "unlike_training:no_disc" not in TrainingStatistics.summarise([without] * 20).unlike(without)


def test_black_is_measured_without_a_word_from_numpy(seen: TrainingStatistics) -> None:
    black = image_statistics(np.zeros((512, 512, 3), np.uint8), 1024, 768, None)
    assert black[1:] == (None,) * 6
    assert "unlike_training:no_disc" in seen.unlike(black)
    assert TrainingStatistics.summarise([black]).quantiles.keys() == {"size"}


def test_it_is_the_same_for_the_same_cache_and_survives_json(cache: Cache, seen: TrainingStatistics) -> None:
    assert training_statistics(cache, cache.rows("train"), 128, 1) == seen
    assert TrainingStatistics.from_dict(json.loads(json.dumps(seen.as_dict()))) == seen
    assert seen.photographs == len(cache.rows("train"))


def test_quantiles_are_numpys_and_flags_begin_beyond_the_slack() -> None:
    looks = [ImageStatistics(10 + step / 100, -1.0, 0.5, 0.2, 0.2, 6.0, -3.0) for step in range(101)]  # size: 10 to 11
    seen = TrainingStatistics.summarise(looks)
    assert seen.quantiles["size"] == (10.01, 10.5, 10.99)
    assert seen.unlike(looks[0]._replace(size=10.99 + 0.26)) == ("unlike_training:size",)
    assert seen.unlike(looks[0]._replace(size=10.99 + 0.24)) == ()
    assert seen.unlike(looks[0]._replace(size=10.01 - 0.26)) == ("unlike_training:size",)
