"""A cache made for a URL is the one that a folder would hold, and only what differs is sent."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pipeline.cache.cache import open_cache
from pipeline.errors import CacheError
from pipeline.storage import object_store
from pipeline.storage.atomic import lock_folder
from pipeline.storage.local_cache import home_of
from pipeline.storage.url import Url
from tests.conftest import write_tiny_eyes
from tests.loopback import SECRET, Weather
from tools.cli import main

Tree = dict[str, bytes]


def tools(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def done(*arguments: object) -> str:
    result = tools(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def tree(folder: Path) -> Tree:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def brought_down(url: Url) -> Tree:
    return {stored.name: object_store.read(url / stored.name) for stored in object_store.files_below(url)}


@pytest.fixture
def eyes(tiny_eyes: Path, tmp_path: Path) -> Path:
    """400 photographs, two shards; to be changed."""
    return Path(shutil.copytree(tiny_eyes, tmp_path / "src", copy_function=shutil.copyfile))


@pytest.fixture
def preprocess(eyes: Path, there: Url) -> Callable[..., str]:
    return lambda *options: done("preprocess", eyes, "--out", there.text, "--size", 32, "--workers", 1, *options)


def sent(s3: Weather) -> list[str]:
    return sorted(path.rpartition("/")[2].partition("?")[0] for method, path in s3.requests if method == "PUT")


def another_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FUNDUS_LOCAL_CACHE", str(tmp_path / "elsewhere"))


def test_what_lies_there_is_what_a_folder_would_hold(
    preprocess: Callable[..., str], eyes: Path, there: Url, tmp_path: Path
) -> None:
    output = preprocess()
    assert f"{there}: 4 files, " in output
    assert re.search(rf"{there}: 400 encoded in", output)
    done("preprocess", eyes, "--out", tmp_path / "c", "--size", 32)
    assert brought_down(there) == tree(tmp_path / "c")
    assert done("check", there.text) == f"{there}: 400 photographs, all well\n"
    done("sheet", there.text, tmp_path / "sheet.png")
    assert done("audit", there.text).splitlines()[1:] == done("audit", tmp_path / "c").splitlines()[1:]


def test_only_what_differs_is_sent(
    preprocess: Callable[..., str], eyes: Path, there: Url, s3: Weather, tmp_path: Path
) -> None:
    preprocess()
    s3.requests.clear()
    assert f"{there}: 0 files, 0.0 MB sent" in preprocess()
    assert sent(s3) == []

    picture = next(path for path in sorted(eyes.iterdir()))
    Image.fromarray(np.full((48, 48, 3), 90, np.uint8)).save(picture)
    preprocess()
    changed = open_cache(home_of(there)).manifest.set_index("id")["shard"][picture.stem]
    assert sent(s3) == sorted([f"{changed:04d}.tar", "manifest.csv", "cache.json", "unfinished.json"])
    done("preprocess", eyes, "--out", tmp_path / "c", "--size", 32)
    assert brought_down(there) == tree(tmp_path / "c")


def test_shards_that_are_no_more_go(preprocess: Callable[..., str], eyes: Path, there: Url, tmp_path: Path) -> None:
    preprocess()
    for path in sorted(eyes.iterdir())[100:]:
        path.unlink()
    preprocess()
    done("preprocess", eyes, "--out", tmp_path / "c", "--size", 32)
    assert brought_down(there).keys() == {"cache.json", "manifest.csv", "rejects.csv", "shards/0000.tar"}
    # The sides have a history, all else is as if the others had never been.
    assert brought_down(there)["shards/0000.tar"] == tree(tmp_path / "c")["shards/0000.tar"]


def test_what_others_put_there_stays(preprocess: Callable[..., str], eyes: Path, there: Url) -> None:
    preprocess()
    theirs = [there / name for name in ("notes.txt", "runs/one/model.safetensors", "shards/0007.tar.old", "shards.tar")]
    for url in theirs:
        object_store.send(b"somebody's", url)
    next(path for path in sorted(eyes.iterdir())).unlink()
    preprocess()
    assert [object_store.read(url) for url in theirs] == [b"somebody's"] * 4


def test_another_machine_goes_on_from_what_lies_there(
    preprocess: Callable[..., str],
    eyes: Path,
    there: Url,
    s3: Weather,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    preprocess()
    sides = open_cache(there).manifest.set_index("id")["split"]
    another_machine(monkeypatch, tmp_path)
    write_tiny_eyes(eyes, range(200, 203))
    s3.requests.clear()
    assert "6 encoded" in preprocess()  # the other 400 were copied
    assert open_cache(there).manifest.set_index("id")["split"][sides.index].equals(sides)
    # And the first finds that it is behind.
    monkeypatch.setenv("FUNDUS_LOCAL_CACHE", str(tmp_path / "local"))
    whole = brought_down(there)
    assert " 0 encoded" in preprocess()
    assert brought_down(there) == whole


def test_what_is_damaged_there_is_found_and_mended(
    preprocess: Callable[..., str], there: Url, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocess()
    whole = brought_down(there)
    data = bytearray(whole["shards/0001.tar"])
    data[len(data) // 2] ^= 1
    for damaged in (bytes(data), bytes(data[:1000])):
        object_store.send(damaged, there / "shards/0001.tar")
        result = tools("check", there.text)
        assert result.exit_code == 1
        assert "shards/0001.tar: damaged" in result.output
        preprocess()
        assert brought_down(there) == whole
    object_store.send(bytes(data), there / "shards/0001.tar")
    another_machine(monkeypatch, tmp_path)
    preprocess()
    assert brought_down(there) == whole


def test_two_at_once_on_one_machine_are_told(preprocess: Callable[..., str], eyes: Path, there: Url) -> None:
    home = home_of(there)
    home.mkdir(parents=True)
    held = lock_folder(home.parent)
    result = tools("preprocess", eyes, "--out", there.text)
    assert result.exit_code == 1
    assert f"{there} is being written by another `tools preprocess`" in result.output
    os.close(held)


def test_a_place_that_is_somebody_elses_is_left_alone(eyes: Path, there: Url) -> None:
    object_store.send(b"mine", there / "thesis.tex")
    result = tools("preprocess", eyes, "--out", there.text)
    assert result.exit_code == 1
    assert f"{there} holds 'thesis.tex' and is no cache; choose another URL with --out" in result.output
    assert brought_down(there) == {"thesis.tex": b"mine"}


def test_the_web_cannot_be_written(eyes: Path, s3: Weather) -> None:
    result = tools("preprocess", eyes, "--out", f"{s3.url}/eyes/x?sig=hunter22")
    assert result.exit_code == 1
    assert "/eyes/x?sig=***: can only be read; write to s3:// or gs://" in result.output


# --- bad weather


@pytest.mark.parametrize("trouble", ["drop", "503", "cut"])
def test_troubled_uploads_are_made_again(
    trouble: str, preprocess: Callable[..., str], there: Url, s3: Weather, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "WAITS", (0.01,) * 8)
    draws = np.random.default_rng(0)
    s3.trouble = lambda method, path: trouble if method == "PUT" and draws.random() < 0.6 else None
    preprocess()
    assert len(sent(s3)) > 5
    s3.clear()
    assert brought_down(there) == tree(home_of(there))
    assert done("check", there.text).endswith("all well\n")


@pytest.mark.parametrize("trouble", ["drop", "503", "cut"])
def test_it_gives_up_in_one_line_and_the_same_command_goes_on(
    trouble: str, preprocess: Callable[..., str], eyes: Path, there: Url, s3: Weather, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "WAITS", (0.01, 0.01))
    s3.trouble = lambda method, path: trouble if method == "PUT" and "0001.tar" in path else None
    result = tools("preprocess", eyes, "--out", there.text, "--size", 32, "--workers", 1)
    assert result.exit_code == 1
    last = result.output.splitlines()[-1]
    assert last.startswith(f"Error: {there}/shards/0001.tar: cannot be written (")
    assert re.search(r"; tried 3 times in \d s; run the same command to continue$", last)
    assert SECRET not in result.output
    s3.clear()
    with pytest.raises(CacheError, match="is incomplete"):
        open_cache(there)
    assert " 0 encoded" in preprocess()
    assert "0000.tar" not in sent(s3)  # it had arrived
    assert brought_down(there) == tree(home_of(there))
