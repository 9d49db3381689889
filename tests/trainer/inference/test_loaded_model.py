"""`load_model(run).predict(images)` says what `trainer predict` says, of files and of pictures in memory."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import RunError, SourceError
from tests.trainer.conftest import Trained, invoke
from trainer import LoadedModel, Predictions, load_model
from trainer.network.decision import DecisionRule


def eye(seed: int, width: int = 120, height: int = 100) -> np.ndarray:
    """A speckled disc, uint8 (height, width, 3), brighter at the top left."""
    random = np.random.default_rng(seed)
    x, y = np.arange(width), np.arange(height)[:, None]
    disc = np.hypot(x - width / 2, y - height / 2) < 0.45 * height
    light = random.integers(60, 200, 3) + random.integers(0, 40, (height, width, 3)) - ((x + y) // 4)[..., None]
    return (light.clip(0, 255) * disc[..., None]).astype(np.uint8)


@pytest.fixture
def pictures() -> list[np.ndarray]:
    return [eye(seed) for seed in range(4)]


@pytest.fixture
def files(pictures: list[np.ndarray], tmp_path: Path) -> list[Path]:
    """PNG files of the pictures."""
    paths = [tmp_path / f"photos/{number}.png" for number in range(len(pictures))]
    paths[0].parent.mkdir()
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    return paths


@pytest.fixture
def model(trained: Trained) -> LoadedModel:
    return load_model(trained.run, device="cpu")


def same(one: Predictions, other: Predictions) -> bool:
    return (
        (one.probabilities == other.probabilities).all()
        and one.grades.tolist() == other.grades.tolist()
        and one.referable.tolist() == other.referable.tolist()
        and one.flags == other.flags
    )


def test_it_says_what_trainer_predict_says(model: LoadedModel, trained: Trained, files: list[Path]) -> None:
    result = model.predict(files)
    invoke("predict", trained.run, files[0].parent, "--out", "p.csv", "--device", "cpu")
    rows = list(csv.DictReader(Path("p.csv").read_text().splitlines()))
    assert [row["source"] for row in rows] == list(result.sources)
    assert [int(row["predicted"]) for row in rows] == result.grades.tolist()
    assert [bool(int(row["referable"])) for row in rows] == result.referable.tolist()
    assert [tuple(row["flags"].split()) for row in rows] == [tuple(" ".join(each).split()) for each in result.flags]
    told = np.array([[float(row[f"p{grade}"]) for grade in range(5)] for row in rows])
    assert np.abs(told - result.probabilities).max() < 1e-4
    assert (result.probabilities.shape, result.probabilities.dtype) == ((4, 5), np.float32)
    assert (result.grades.dtype, result.referable.dtype, len(result)) == (np.int64, np.bool_, 4)


def test_the_weights_own_rule_decides(model: LoadedModel, files: list[Path]) -> None:
    assert model.metadata.operating is not None
    assert model.rule == DecisionRule.of(model.metadata)
    result = model.predict(files)
    assert np.abs(result.probabilities.sum(axis=1) - 1).max() < 1e-6
    assert np.abs(result.p_referable - result.probabilities[:, 2:].sum(axis=1)).max() < 1e-6
    assert (result.referable == (result.p_referable >= model.metadata.operating.threshold)).all()


def test_a_picture_in_memory_is_as_good_as_its_file(
    model: LoadedModel, files: list[Path], pictures: list[np.ndarray]
) -> None:
    from_files = model.predict(files)
    assert same(model.predict(pictures), from_files)
    assert same(model.predict([Image.fromarray(picture) for picture in pictures]), from_files)
    mixed = model.predict([str(files[0]), pictures[1], Image.open(files[2]), files[3]])
    assert same(mixed, from_files)
    assert mixed.sources == (files[0].as_posix(), "image 1", "image 2", files[3].as_posix())


def test_one_photograph_needs_no_list(model: LoadedModel, files: list[Path], pictures: list[np.ndarray]) -> None:
    wanted = model.predict(files[:1])
    for one in (files[0], str(files[0]), pictures[0], Image.open(files[0])):
        assert same(model.predict(one), wanted)
    assert len(model.predict([])) == 0
    assert model.predict([]).probabilities.shape == (0, 5)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16"])
def test_pictures_of_other_modes_are_what_their_files_are(model: LoadedModel, tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(eye(0)[..., 0].astype(np.uint16) * 200)
    else:
        picture = Image.fromarray(eye(0)).convert(mode)
    assert picture.mode == mode
    picture.save(tmp_path / "picture.tif")
    assert same(model.predict(picture), model.predict(tmp_path / "picture.tif"))


def test_a_picture_on_its_side_is_turned_upright_as_its_file_is(model: LoadedModel, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(eye(0)).save(tmp_path / "side.png", exif=exif)
    turned = model.predict(tmp_path / "side.png")
    assert same(model.predict(Image.open(tmp_path / "side.png")), turned)
    assert not (turned.probabilities == model.predict(eye(0)).probabilities).all()


def test_what_is_no_photograph_is_named(model: LoadedModel, files: list[Path], tmp_path: Path) -> None:
    files[1].write_bytes(files[1].read_bytes()[:200])
    with pytest.raises(SourceError, match=r"photos/1\.png: cut off"):
        model.predict(files)
    with pytest.raises(SourceError, match=r"nowhere\.png: cannot be read \(No such file or directory\)"):
        model.predict("nowhere.png")
    with pytest.raises(SourceError, match=r"photos: cannot be read"):
        model.predict(tmp_path / "photos")
    with pytest.raises(SourceError, match=r"image 1: an array of float32 \(8, 8, 3\); it must be uint8 \(H, W, 3\)"):
        model.predict([eye(0), np.zeros((8, 8, 3), np.float32)])
    with pytest.raises(SourceError, match=r"image 0: an array of uint8 \(4, 100, 120, 3\)"):
        model.predict(np.stack([eye(n) for n in range(4)]))
    with pytest.raises(SourceError, match="image 0: int; give a path, a PIL image or an array"):
        model.predict([7])  # type: ignore[list-item]
    with pytest.raises(SourceError, match="image 0: its pixels are 32-bit numbers"):
        model.predict(Image.fromarray(np.zeros((64, 64), np.float32)))


def test_flags_are_told(model: LoadedModel) -> None:
    assert "blank" in model.predict(np.zeros((80, 100, 3), np.uint8)).flags[0]


def test_weights_alone_are_enough_and_no_weights_are_said(trained: Trained, tmp_path: Path) -> None:
    alone = load_model(trained.run / "model.safetensors", device="cpu")
    assert same(alone.predict(eye(0)), load_model(str(trained.run), device="cpu").predict(eye(0)))
    with pytest.raises(RunError):
        load_model(tmp_path / "nothing")
    with pytest.raises(RunError, match="'cuda:0' is no device: give auto, cuda, mps, cpu"):
        load_model(trained.run, device="cuda:0")


def test_importing_trainer_costs_nothing_before_it_is_used() -> None:
    script = "import sys, trainer\nprint(sorted({'numpy', 'torch', 'click'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
