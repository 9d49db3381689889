"""A cache opens only if it is whole, and never hands out bytes that were not cached."""

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cache.cache import open_cache
from pipeline.cache.folder import claim, sweep, verify_files
from pipeline.cache.index import CacheIndex
from pipeline.errors import CacheError

PICTURES = {f"{n}_left": np.full((32, 32, 3), 20 * n, np.uint8) for n in range(6)}
GRADES = {f"{n}_left": n % 5 for n in range(6)}


def test_rows_and_pictures_belong_together(make_cache: Callable[..., Path]) -> None:
    splits = {id: "test" if id == "3_left" else "train" for id in PICTURES}
    with open_cache(make_cache(PICTURES, GRADES, splits)) as cache:
        assert cache.rows("train").tolist() == [0, 1, 2, 4, 5]
        assert cache.rows("test").tolist() == [3]
        assert cache.rows("val").tolist() == []
        assert cache.rows("all").tolist() == list(range(6))
        for row, id in enumerate(cache.manifest["id"]):
            picture = np.asarray(Image.open(BytesIO(cache.read(row))))
            assert np.abs(picture.astype(int) - PICTURES[id]).max() <= 1
            assert cache.grades[row] == GRADES[id]
        with pytest.raises(CacheError, match="choose one of train, val, test or all"):
            cache.rows("tets")


def test_some_rows_are_a_cache_in_the_order_in_which_they_are_listed(make_cache: Callable[..., Path]) -> None:
    with open_cache(make_cache(PICTURES, GRADES)) as cache, cache.take(np.array([4, 1, 4])) as taken:
        assert taken.manifest["id"].tolist() == ["4_left", "1_left", "4_left"]
        assert taken.grades.tolist() == [4, 1, 4]
        assert [bytes(taken.read(row)) for row in range(3)] == [bytes(cache.read(row)) for row in (4, 1, 4)]


def test_reads_are_views_of_the_file(make_cache: Callable[..., Path]) -> None:
    cache = open_cache(make_cache(PICTURES))
    first, second = cache.read(0), cache.read(0)
    assert first.obj is second.obj
    assert first.readonly
    cache.close()
    assert bytes(first).startswith(b"\xff\xd8")  # a view outlives the cache


def test_a_damaged_entry_is_named_and_the_others_are_read(make_cache: Callable[..., Path]) -> None:
    path = make_cache(PICTURES)
    offset = int(open_cache(path).manifest["offset"][2])
    data = bytearray((path / "shards/0000.tar").read_bytes())
    data[offset + 300] ^= 1
    (path / "shards/0000.tar").write_bytes(data)
    cache = open_cache(path)
    with pytest.raises(CacheError, match=r"2_left in shards/0000\.tar is damaged"):
        cache.read(2)
    assert cache.read(3)


def test_a_shard_cut_short_or_gone_is_an_error_not_a_crash(make_cache: Callable[..., Path]) -> None:
    path = make_cache(PICTURES)
    shard = path / "shards/0000.tar"
    os.truncate(shard, 2000)
    with pytest.raises(CacheError, match=r"5_left in shards/0000\.tar is damaged"):
        open_cache(path).read(5)
    os.truncate(shard, 0)
    with pytest.raises(CacheError, match=r"0000\.tar: cannot be read"):
        open_cache(path).read(0)
    shard.unlink()
    with pytest.raises(CacheError, match=r"0000\.tar: cannot be read"):
        open_cache(path).read(0)


def test_what_is_no_whole_cache_does_not_open(make_cache: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="does not exist; make one with `tools preprocess SRC"):
        open_cache(tmp_path / "nowhere")
    with pytest.raises(CacheError, match="is not a cache"):
        open_cache(tmp_path)
    path = make_cache(PICTURES)
    index = (path / "cache.json").read_bytes()
    (path / "cache.json").rename(path / "unfinished.json")
    with pytest.raises(CacheError, match="incomplete"):
        open_cache(path)
    for damaged in (b"", index[:50], index.replace(b'"split_seed": 0', b'"split_seed": 4')):
        (path / "cache.json").write_bytes(damaged)
        with pytest.raises(CacheError, match="damaged"):
            open_cache(path)
    (path / "cache.json").write_bytes(index)
    with open(path / "manifest.csv", "a") as manifest:
        manifest.write("\n")
    with pytest.raises(CacheError, match="damaged or edited"):
        open_cache(path)


def test_the_index_says_the_same_when_read_again(make_cache: Callable[..., Path]) -> None:
    path = make_cache(PICTURES)
    index = CacheIndex.read(path)
    assert (path / "cache.json").read_bytes() == index.to_json()
    assert len(index.source_digest) == len(open_cache(path).digest) == 64


def test_two_writers_exclude_each_other(tmp_path: Path) -> None:
    with (
        claim(tmp_path / "c"),
        pytest.raises(CacheError, match="is being written by another"),
        claim(tmp_path / "c"),
    ):
        pass
    with claim(tmp_path / "c"):
        pass


@pytest.mark.parametrize("name", ["cache.json", "unfinished.json"])
def test_somebody_elses_cache_json_makes_no_cache(name: str, tmp_path: Path) -> None:
    theirs = {name: '{"npm": 1}', "manifest.csv": "url,caption\n", "shards/0000.tar": "x", "shards/0007.tar": "x"}
    for path, text in theirs.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    with pytest.raises(CacheError, match="and is no cache; choose another folder"), claim(tmp_path):
        pass
    assert {path: (tmp_path / path).read_text() for path in theirs} == theirs


def test_somebody_elses_half_written_files_are_theirs(tmp_path: Path) -> None:
    for name in ("draft.tmp", "labels.csv.tmp", "a.csv.0123.tmp"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(CacheError, match=f"holds {name!r}"), claim(tmp_path):
            pass
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_a_folder_made_for_nothing_goes_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), claim(tmp_path / "no" / "such" / "c"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_what_others_put_among_the_shards_stays_and_is_named(make_cache: Callable[..., Path]) -> None:
    path = make_cache(PICTURES)
    for name in ("notes.txt", "0007.tar", "0001.tar.old"):
        (path / "shards" / name).write_text("somebody's")
    sweep(path, CacheIndex.read(path))
    assert sorted(file.name for file in (path / "shards").iterdir()) == ["0000.tar", "0001.tar.old", "notes.txt"]
    problems = verify_files(path, CacheIndex.read(path))
    assert problems == [f"shards/{name}: does not belong to the cache" for name in ("0001.tar.old", "notes.txt")]
