"""What was cached under other circumstances is never served."""

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from pipeline.cache.cache import open_cache
from pipeline.cache.index import _seal
from pipeline.photos.preparation import EARLIER_VERSION, VERSION, Recipe

Tools = Callable[..., Result]
Trees = Callable[[Path], dict[str, bytes]]
SIZE = ("--size", 64, "--workers", 1)


def splits_in(out: Path) -> dict[str, str]:
    with open_cache(out) as cache:
        return dict(zip(cache.manifest["patient"], cache.manifest["split"], strict=True))


@pytest.fixture
def grown(eyes: Path, tmp_path: Path, tools: Tools) -> Path:
    """A cache whose splits have a history: most photographs were added later."""
    away = sorted(eyes.glob("1*.jpeg"))
    for path in away:
        path.rename(tmp_path / path.name)
    assert tools("preprocess", eyes, "--out", tmp_path / "c", *SIZE).exit_code == 0
    for path in away:
        (tmp_path / path.name).rename(path)
    assert tools("preprocess", eyes, "--out", tmp_path / "c", *SIZE).exit_code == 0
    return tmp_path / "c"


def test_a_cache_of_the_earlier_version_is_used_as_it_is_until_preprocess_makes_it_anew(
    eyes: Path, grown: Path, tmp_path: Path, tools: Tools, tree: Trees, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, first = splits_in(grown), tree(grown)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.photos.preparation.Recipe", partial(Recipe, version=EARLIER_VERSION["none"]))
        assert "24 encoded" in tools("preprocess", eyes, "--out", grown, *SIZE).output
        assert "0 encoded" in tools("preprocess", eyes, "--out", grown, *SIZE).output
    assert json.loads((grown / "cache.json").read_text())["recipe"]["version"] == EARLIER_VERSION["none"]
    assert tools("check", grown).exit_code == 0
    assert tools("sheet", grown, tmp_path / "sheet.png").exit_code == 0
    assert "24 encoded" in tools("preprocess", eyes, "--out", grown, *SIZE).output
    assert splits_in(grown) == before
    assert tree(grown) == first


def test_a_cache_whose_version_cannot_be_prepared_here_is_refused_and_moves_no_patient(
    eyes: Path, grown: Path, tmp_path: Path, tools: Tools
) -> None:
    before = splits_in(grown)
    fields = json.loads((grown / "cache.json").read_text())
    del fields["seal"]
    fields["recipe"]["version"] = VERSION + 1
    (grown / "cache.json").write_text(json.dumps({**fields, "seal": _seal(fields)}, indent=1, sort_keys=True) + "\n")
    for command in (("check", grown), ("sheet", grown, tmp_path / "sheet.png")):
        result = tools(*command)
        assert result.exit_code == 1
        assert f"{grown} was made by another version of this program; run `tools preprocess` again" in result.output
    assert tools("preprocess", eyes, "--out", grown, *SIZE).exit_code == 0
    assert splits_in(grown) == before
    assert tools("check", grown).exit_code == 0


def test_killed_between_two_versions_it_still_moves_no_patient(
    eyes: Path, grown: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.photos.preparation.Recipe", partial(Recipe, version=EARLIER_VERSION["none"]))
    before = splits_in(grown)
    with monkeypatch.context() as patch:
        patch.setattr(
            "tools.preprocessing.build_shards.prepare",
            lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")),
        )
        assert tools("preprocess", eyes, "--out", grown, *SIZE).exit_code == 1
    assert (grown / "unfinished.json").exists()
    assert tools("preprocess", eyes, "--out", grown, *SIZE).exit_code == 0
    assert splits_in(grown) == before


def test_another_format_is_called_so(grown: Path, eyes: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    before = splits_in(grown)
    monkeypatch.setattr("pipeline.cache.index.FORMAT", 2)
    assert "made by another version of this program" in tools("check", grown).output
    assert tools("preprocess", eyes, "--out", grown, *SIZE).exit_code == 0
    assert splits_in(grown) == before
    assert json.loads((grown / "cache.json").read_text())["format"] == 2


@pytest.mark.parametrize("other", [("--size", 96), ("--quality", 80), ("--enhance", "graham")])
def test_other_settings_are_never_served_from_the_old_cache_and_there_is_a_way_back(
    eyes: Path, tmp_path: Path, tools: Tools, tree: Trees, other: tuple[object, ...]
) -> None:
    out = tmp_path / "c"
    assert tools("preprocess", eyes, "--out", out, *SIZE).exit_code == 0
    first = tree(out)
    assert "24 encoded" in tools("preprocess", eyes, "--out", out, *SIZE, *other).output
    assert tools("preprocess", eyes, "--out", tmp_path / "d", *SIZE, *other).exit_code == 0
    assert tree(out) == tree(tmp_path / "d") != first
    assert tools("preprocess", eyes, "--out", out, *SIZE).exit_code == 0
    assert tree(out) == first


def test_the_stale_cache_of_the_cases(shared: Path, tmp_path: Path, tools: Tools) -> None:
    """B36: same name, same length, same modification time, other bytes; then it is gone."""
    source, out = tmp_path / "src", tmp_path / "c"
    shutil.copytree(shared / "cases/B36/data", source, copy_function=shutil.copyfile)
    photograph = source / "train/360_right.jpeg"
    assert tools("preprocess", source, "--out", out, *SIZE).exit_code == 0

    def picture() -> bytes:
        with open_cache(out) as cache:
            return bytes(cache.read(int(np.flatnonzero(cache.manifest["id"] == "360_right")[0])))

    before, about = picture(), photograph.stat()
    other = (shared / "cases/B36/v2/360_right.jpeg").read_bytes()
    photograph.chmod(0o644)
    photograph.write_bytes(other.ljust(about.st_size, b"\0")[: max(about.st_size, len(other))])
    os.utime(photograph, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert photograph.stat().st_mtime_ns == about.st_mtime_ns
    assert "1 encoded" in tools("preprocess", source, "--out", out, *SIZE).output
    assert picture() != before
    photograph.unlink()
    tools("preprocess", source, "--out", out, *SIZE)
    with open_cache(out) as cache:
        assert "360_right" not in set(cache.manifest["id"])
