"""Every photograph gets its picture, and the sheet has them all."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.cache.shards import encode_key
from tests.trainer.conftest import Trained, invoke
from trainer.inference.gradcam import grad_cam, overlay
from trainer.inference.inputs import gather, render
from trainer.network.model import load_model, save_model
from trainer.reporting.explained import coarseness
from trainer.run_folder import RunFolder


def eyes(folder: Path, names: tuple[str, ...] = ("a.png", "b.png", "c/a.png")) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 200, (80, 80, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def test_each_photograph_has_a_picture_and_its_overlay_beside_it(trained: Trained, tmp_path: Path) -> None:
    result = invoke("explain", trained.run, eyes(tmp_path / "eyes"), "--out", "out", "--grade", 3, "--device", "cpu")
    assert "found 3 = 3 explained + 0 rejected" in result.output
    assert {path.name for path in Path("out").iterdir()} == {
        *(f"{encode_key(id)}.jpg" for id in ("a", "b", "c/a")), "contact_sheet.png", "rejects.csv",
        "explained.csv",
    }  # fmt: skip

    model, metadata = load_model(RunFolder(trained.run).model)
    photographs, *_ = gather([tmp_path / "eyes"], metadata.recipe)
    (batch,) = render(photographs, metadata, device=torch.device("cpu"))
    heats = grad_cam(model, batch.images, torch.full((3,), 3))
    for photograph, image, heat in zip(photographs, batch.images, heats, strict=True):
        drawn = np.asarray(Image.open(f"out/{encode_key(photograph.id)}.jpg"))
        assert drawn.shape[1] == 1024
        drawn = drawn[:512]  # below it is the legend
        pixels = image.permute(1, 2, 0).numpy()
        small = np.asarray(Image.fromarray(drawn).resize((64, 32), Image.Resampling.BOX), np.float64)
        inner = (slice(1, -1), slice(1, 31))  # what the network sees has a black frame
        assert np.abs(small[:, :32] - pixels)[inner].mean() < 12, "left: what the network saw"
        assert np.abs(small[:, 32:] - overlay(pixels, heat))[inner].mean() < 25, "right: the same under its heat"


def test_the_predicted_grade_is_explained_unless_another_is_asked_for(trained: Trained, tmp_path: Path) -> None:
    source = eyes(tmp_path / "eyes")
    invoke("predict", trained.run, source, "--device", "cpu")
    with open("predictions.csv") as file:
        predicted = {row["id"]: int(row["predicted"]) for row in csv.DictReader(file)}
    invoke("explain", trained.run, source, "--out", "out", "--device", "cpu")
    for grade in set(predicted.values()):
        invoke("explain", trained.run, source, "--out", f"out{grade}", "--grade", grade, "--device", "cpu")
    for id, grade in predicted.items():
        name = f"{encode_key(id)}.jpg"
        assert Path("out", name).read_bytes() == Path(f"out{grade}", name).read_bytes()


def test_a_photograph_in_which_nothing_speaks_for_the_grade_is_counted(trained: Trained, tmp_path: Path) -> None:
    model, metadata = load_model(RunFolder(trained.run).model)
    with torch.no_grad():
        model.head.weight[4] = -1  # features are never negative
    save_model(Path("mute.safetensors"), model, metadata)
    result = invoke("explain", "mute.safetensors", eyes(tmp_path / "eyes"), "--grade", 4, "--device", "cpu")
    assert "in 3 of them nothing speaks for the grade" in result.output


def test_refused_photographs_are_named_and_none_at_all_is_a_failure(trained: Trained, tmp_path: Path) -> None:
    source = eyes(tmp_path / "eyes", ("good.png",))
    (source / "empty.png").touch()
    os.mkfifo(source / "fifo.png")
    result = invoke("explain", trained.run, source, "--device", "cpu")
    assert "found 3 = 1 explained + 2 rejected" in result.output
    assert Path("explained/rejects.csv").read_text().count("\n") == 3
    (source / "good.png").unlink()
    result = invoke("explain", trained.run, source, "--device", "cpu", exit=1)
    assert "none of 2 photographs could be explained" in result.output


@pytest.mark.parametrize("grade", [-1, 5])
def test_a_grade_that_is_none_is_wrong_usage(grade: int) -> None:
    assert "--grade" in invoke("explain", "run", "eye.png", "--grade", grade, exit=2).output


def test_a_picture_has_the_photograph_at_its_own_resolution_and_heat_where_the_retina_is(
    trained: Trained, tmp_path: Path
) -> None:
    """A wide frame with the retina to the right: the square around it is tinted, if anything, and nothing else."""
    x, y = np.meshgrid(np.arange(900) + 0.5, np.arange(600) + 0.5)
    grain = np.random.default_rng(0).integers(0, 40, (600, 900, 1), np.uint8)
    retina = (np.hypot(x - 620, y - 300) < 240)[..., None] * (np.array((150, 80, 30), np.uint8) + grain)
    Image.fromarray(retina.astype(np.uint8)).save(tmp_path / "eye.png")
    invoke("explain", trained.run, "eye.png", "--out", "heat", "--device", "cpu")
    invoke("explain", trained.run, "eye.png", "--out", "outline", "--style", "outline", "--device", "cpu")
    heat, outline = (np.asarray(Image.open(f"{style}/eye.jpg"), np.int64) for style in ("heat", "outline"))
    for drawn in (heat, outline):
        assert drawn.shape[1] == 1800
        assert drawn.shape[0] > 600
        assert np.abs(drawn[:600, :900] - retina).mean() < 5
        changed = np.abs(drawn[:600, 900:] - drawn[:600, :900]).max(axis=2) > 40
        assert changed.any()
        assert not changed[:, :370].any(), "left of the square around the retina"
        assert not changed[:50].any()
    unchanged = [(np.abs(drawn[:600, 900:] - drawn[:600, :900]).max(axis=2) < 40).mean() for drawn in (heat, outline)]
    assert unchanged[1] > 0.97


def test_a_coarse_map_is_warned_of(trained: Trained, tmp_path: Path) -> None:
    result = invoke("explain", trained.run, eyes(tmp_path / "eyes"), "--device", "cpu")
    assert "WARNING: Coarse: the network's last feature map has 1 x 1 cells" in result.stderr


def test_what_a_cache_holds_is_explained_as_it_is_cached(trained: Trained) -> None:
    invoke("explain", trained.run, trained.cache, "--device", "cpu")
    assert len(list(Path("explained").glob("*.jpg"))) == 30


@pytest.mark.parametrize(("cells", "warns"), [(7, False), (6, True), (4, True), (1, True), (14, False)])
def test_only_fewer_than_seven_cells_a_side_are_coarse(cells: int, warns: bool) -> None:
    assert (f"{cells} x {cells} cells" in coarseness(cells)) == warns
    assert bool(coarseness(cells)) == warns
