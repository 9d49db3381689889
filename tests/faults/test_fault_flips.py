"""No byte of a cache can change unnoticed: it is named, never trained on, and mended alone."""

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipeline.cache.cache import open_cache
from pipeline.errors import CacheError
from pipeline.loading.loaders import dali_installed, open_loader
from tools.preprocessing.build_shards import CLOCK_SLACK_NS

Tools = Callable[..., Result]
Trees = Callable[[Path], dict[str, bytes]]


@pytest.fixture(scope="module")
def built(eyes_once: Path, tmp_path_factory: pytest.TempPathFactory, tools: Tools) -> tuple[Path, Path]:
    """(photographs, a cache of them in several shards)."""
    folder = tmp_path_factory.mktemp("built")
    source, out = shutil.copytree(eyes_once, folder / "src"), folder / "c"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.cache.shards.SAMPLES_A_SHARD", 5)
        (source / "bad.jpeg").write_bytes(b"")  # so that rejects.csv says something
        with open(source / "trainLabels.csv", "a") as table:
            table.write("bad,0\n")
        time.sleep(CLOCK_SLACK_NS / 1e9)  # younger photographs would be looked into again, and their shards dated anew
        assert tools("preprocess", source, "--out", out, "--size", 64).exit_code == 0
    assert len(list((out / "shards").iterdir())) == 4
    return source, out


def damaged(data: bytes, way: str, draw: random.Random) -> bytes:
    at, n = draw.randrange(len(data)), len(data)
    if way == "flip":
        return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
    if way == "zero":
        return data[:at] + bytes(n - at) if any(data[at:]) else bytes(n)
    return data[:at] if way == "cut" else b""


def spoil(path: Path, way: str, draw: random.Random) -> None:
    """Damages a file behind its modification time."""
    about = path.stat()
    path.write_bytes(damaged(path.read_bytes(), way, draw))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def check_mending(built: tuple[Path, Path], out: Path, tools: Tools, tree: Trees, times: int, seed: int) -> None:
    source, clean = built[0], tree(built[1])
    shutil.copytree(built[1], out)
    assert tools("check", out).exit_code == 0
    draw = random.Random(seed)
    names = sorted(clean)
    for turn in range(times):
        name, way = names[turn % len(names)], draw.choice(["flip", "flip", "flip", "zero", "cut", "empty"])
        spoil(out / name, way, draw)
        others = {path: path.stat() for path in (out / "shards").iterdir() if path != out / name}
        checked = tools("check", out)
        assert checked.exit_code == 1, (name, way)
        assert name in checked.output, (name, way)
        assert "Traceback" not in checked.output
        mended = tools("preprocess", source, "--out", out, "--size", 64, "--workers", 1)
        assert mended.exit_code == 0, (name, way, mended.output)
        assert tree(out) == clean, (name, way)
        for path, before in others.items():
            after = path.stat()
            assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), (name, way, path)


@pytest.fixture
def in_fives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cache.shards.SAMPLES_A_SHARD", 5)


@pytest.mark.usefixtures("in_fives")
def test_any_damage_is_named_and_mended_alone(
    built: tuple[Path, Path], tmp_path: Path, tools: Tools, tree: Trees
) -> None:
    check_mending(built, tmp_path / "c", tools, tree, times=150, seed=0)


@pytest.mark.slow
@pytest.mark.usefixtures("in_fives")
def test_any_of_a_thousand_damages_is_named_and_mended_alone(
    built: tuple[Path, Path], tmp_path: Path, tools: Tools, tree: Trees
) -> None:
    check_mending(built, tmp_path / "c", tools, tree, times=1000, seed=1)


@pytest.mark.parametrize("loader", ["torchvision", "dali"])
def test_a_loader_that_meets_damage_stops_with_the_photographs_name(
    built: tuple[Path, Path], tmp_path: Path, loader: str
) -> None:
    """Any byte of any JPEG: it is not the decoder that notices."""
    if loader == "dali" and not dali_installed():
        pytest.skip("needs DALI")
    shutil.copytree(built[1], tmp_path / "c")
    draw = random.Random(0)
    for _ in range(12):
        with open_cache(tmp_path / "c") as cache:
            row = draw.randrange(len(cache.manifest))
            about = cache.manifest.iloc[row]
            place = tmp_path / f"c/shards/{about.shard:04d}.tar"
            whole = place.read_bytes()
            at = about.offset + draw.randrange(about.nbytes)
            place.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :])
        with open_cache(tmp_path / "c") as cache:
            seen: list[int] = []
            with (
                open_loader(loader, cache, split="all", batch_size=4, workers=1) as it,
                pytest.raises(CacheError, match=f"{about.id} in shards/{place.name} is damaged"),
            ):
                seen.extend(row for batch in it.epoch(0) for row in batch.rows.tolist())
            assert len(seen) <= row // 4 * 4
        place.write_bytes(whole)


def test_sides_that_have_a_history_survive_damage_as_far_as_the_manifest_tells(
    eyes: Path, tmp_path: Path, tools: Tools, tree: Trees
) -> None:
    """Photographs were added once, so the splits are not those that would be drawn for all at once."""
    out, later = tmp_path / "c", sorted(eyes.glob("1*.jpeg"))
    for path in later:
        path.rename(tmp_path / path.name)
    command = ("preprocess", eyes, "--out", out, "--size", 64, "--split-seed", 3)
    assert tools(*command).exit_code == 0
    for path in later:
        (tmp_path / path.name).rename(path)
    assert tools(*command).exit_code == 0
    grown = tree(out)
    assert tools("preprocess", eyes, "--out", tmp_path / "d", "--size", 64, "--split-seed", 3).exit_code == 0
    assert tree(tmp_path / "d")["manifest.csv"] != grown["manifest.csv"]

    (out / "cache.json").write_bytes(grown["cache.json"][:100])
    assert tools(*command).exit_code == 0
    assert tree(out) == grown

    lines = grown["manifest.csv"].splitlines(keepends=True)
    row = lines[5].split(b",")  # one eye of a patient: the other still tells the side
    lines[5] = b",".join([*row[:4], b"tsain", *row[5:]])
    (out / "manifest.csv").write_bytes(b"".join(lines))
    result = tools(*command)
    assert "12 patients keep the split that can still be read" in result.output
    assert tree(out) == grown
