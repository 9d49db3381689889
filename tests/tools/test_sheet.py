import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image, ImageOps

from pipeline.cache.cache import Cache, open_cache
from pipeline.errors import CacheError
from pipeline.loading.loaders import open_loader
from pipeline.loading.plan import NO_AUGMENT, Augment
from pipeline.photos.contact_sheet import COLUMNS, SIDE, Tile, draw_sheet
from tools.cli import main
from tools.phantoms.dataset import write_phantoms
from tools.sheet import pick_rows, sheet_of_augmented, sheet_of_cache

RED = np.full((90, 90, 3), (200, 0, 0), np.uint8)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    folder = tmp_path_factory.mktemp("sheet")
    write_phantoms(folder / "eyes", 16)
    arguments = ["preprocess", str(folder / "eyes"), "--out", str(folder / "cache"), "--size", "64", "--workers", "1"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return open_cache(folder / "cache")


def places_of(colour: tuple[int, int, int], sheet: Image.Image) -> np.ndarray:
    """(n, 2) x, y of the pixels of a colour."""
    return np.argwhere((np.asarray(sheet) == colour).all(axis=2))[:, ::-1]


def test_a_group_wraps_after_twelve_and_each_picture_appears_once_at_its_size() -> None:
    sheet = draw_sheet({"thirteen": [Tile(RED, "eye")] * (COLUMNS + 1)})

    red = places_of((200, 0, 0), sheet)
    assert len(red) == (COLUMNS + 1) * SIDE**2
    assert len(np.unique(red[:, 0])) == COLUMNS * SIDE
    assert len(np.unique(red[:, 1])) == 2 * SIDE


def test_a_picture_keeps_its_shape() -> None:
    sheet = draw_sheet({"wide": [Tile(RED[:45], "half as high")]})

    assert np.ptp(places_of((200, 0, 0), sheet), axis=0).tolist() == [SIDE - 1, SIDE // 2 - 1]


def test_headings_and_captions_are_drawn_over_dark_ground() -> None:
    bare = np.asarray(draw_sheet({"": [Tile(RED, "")]}))
    named = np.asarray(draw_sheet({"2 moderate": [Tile(RED, "17_left")]}))

    changed = np.flatnonzero((bare != named).any(axis=(1, 2)))
    red_rows = np.flatnonzero((named == (200, 0, 0)).all(axis=2).any(axis=1))
    assert (changed < red_rows[0]).any()
    assert (changed > red_rows[-1]).any()
    assert named[0, 0].max() < 64


@pytest.mark.parametrize("id", ["x" * 500, "two\nlines", "caf\udce9_left", "\x00\x1b[31m", "漢字"])
def test_a_caption_of_any_bytes_stays_below_its_picture(id: str) -> None:
    sheet = np.asarray(draw_sheet({id: [Tile(RED, id, id)]}))

    plain = np.asarray(draw_sheet({"": [Tile(RED, "", " ")]}))
    assert sheet.shape == plain.shape
    below = slice(plain.shape[0] - SIDE // 3, None)
    right_of_it = places_of((200, 0, 0), Image.fromarray(sheet))[:, 0].max() + 2
    np.testing.assert_array_equal(sheet[below, right_of_it:], plain[below, right_of_it:])


def test_photographs_are_picked_evenly_and_counted() -> None:
    manifest = pd.DataFrame(
        {
            "grade": [0] * 9 + [2, 2, -1],
            "split": ["train"] * 10 + ["test", ""],
            "flags": ["dark", "", "dark cut", *[""] * 9],
        }
    )

    def picked(by: str, per_group: int) -> dict[str, list[int]]:
        return {heading: rows.tolist() for heading, rows in pick_rows(manifest, by, per_group).items()}

    assert picked("grade", 3) == {
        "0 no DR: 9": [0, 4, 8],
        "1 mild: 0": [],
        "2 moderate: 2": [9, 10],
        "3 severe: 0": [],
        "4 proliferative: 0": [],
        "not graded: 1": [11],
    }
    assert picked("split", 2) == {"train: 10": [0, 9], "val: 0": [], "test: 1": [10], "in no split: 1": [11]}
    assert picked("flag", 2) == {"cut: 1": [2], "dark: 2": [0, 2], "no flag: 10": [1, 11]}


def test_the_sheet_of_a_cache_shows_its_photographs(cache: Cache) -> None:
    sheet = np.asarray(sheet_of_cache(cache, "split", per_group=1))

    with Image.open(BytesIO(cache.read(int(cache.rows("train")[0])))) as photo:
        first = np.asarray(ImageOps.contain(photo.convert("RGB"), (SIDE, SIDE)))
    views = np.lib.stride_tricks.sliding_window_view(sheet[: SIDE + 64, : SIDE + 16], (SIDE, SIDE, 3))[..., 0, :, :, :]
    assert (views == first).all(axis=(2, 3, 4)).sum() == 1


@pytest.mark.parametrize("by", ["grade", "split", "flag"])
def test_the_command_writes_a_png(cache: Cache, tmp_path: Path, by: str) -> None:
    done = CliRunner().invoke(main, ["sheet", str(cache.path), str(tmp_path / "sheet.png"), "--by", by])

    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width >= 4 * SIDE


def test_a_damaged_photograph_is_named(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for name in ("cache.json", "manifest.csv", "shards/0000.tar"):
        (tmp_path / name).write_bytes((cache.path / name).read_bytes())
    row = cache.manifest.iloc[3]
    with open(tmp_path / "shards" / "0000.tar", "r+b") as shard:
        shard.seek(row["offset"] + row["nbytes"] // 2)
        shard.write(b"\0\0\0\0")

    with open_cache(tmp_path) as damaged, pytest.raises(CacheError, match=row["id"]):
        sheet_of_cache(damaged, per_group=16)


def test_training_photographs_are_shown_as_the_loader_gives_them_in_each_epoch(cache: Cache) -> None:
    """The tiles of a row are the cached photograph, then what fit's loader makes of it in its epochs."""
    augment, seed = Augment(zoom=1.25, colour=0.3), 5
    sheet = np.asarray(sheet_of_augmented(cache, augment, per_photograph=3, seed=seed))
    with open_loader("torchvision", cache, split="train", batch_size=99, augment=augment, seed=seed) as loader:
        epochs = [next(iter(loader.epoch(number))) for number in range(2)]
    train = cache.rows("train")
    first = train[cache.grades[train].argmin()]
    place = epochs[0].rows.tolist().index(first)
    for column, epoch in enumerate(epochs, 1):
        wanted = Image.fromarray(epoch.images[place].permute(1, 2, 0).numpy())
        wanted = np.asarray(ImageOps.contain(wanted, (SIDE, SIDE)))
        left = 8 + column * (SIDE + 8)
        np.testing.assert_array_equal(sheet[40 : 40 + SIDE, left : left + SIDE], wanted)


def test_the_same_seed_draws_the_same_sheet_and_another_another(cache: Cache, tmp_path: Path) -> None:
    def drawn(*options: str) -> bytes:
        arguments = ["sheet", str(cache.path), str(tmp_path / "sheet.png"), "--augmented", "--each", "3", *options]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
        assert "what training sees of" in done.output
        return (tmp_path / "sheet.png").read_bytes()

    first = drawn()
    assert drawn() == first
    assert drawn("--seed", "1") != first
    assert drawn("--colour", "0.5") != first


def test_how_training_varies_photographs_is_asked_of_the_augmented_sheet_alone(cache: Cache, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["sheet", str(cache.path), str(tmp_path / "sheet.png"), "--zoom", "1.2"])
    assert done.exit_code == 2
    assert "give --augmented with it" in done.output


def test_a_cache_without_training_photographs_has_no_augmented_sheet(make_cache: Callable[..., Path]) -> None:
    outside = open_cache(make_cache({"a": RED[:64, :64]}, splits={"a": "test"}))
    with pytest.raises(CacheError, match="no photograph is in train"):
        sheet_of_augmented(outside, NO_AUGMENT)


def test_the_plain_sheet_imports_no_torch(cache: Cache, tmp_path: Path) -> None:
    script = "import sys; from tools.cli import main; main(standalone_mode=False); print('torch' in sys.modules)"
    command = [sys.executable, "-c", script, "sheet", str(cache.path), str(tmp_path / "sheet.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
