"""A cache behind a URL reads as one on the disk: each shard comes once, in time, whole, whatever the network does."""

import fcntl
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache.cache import Cache, open_cache
from pipeline.errors import CacheError, StoreError
from pipeline.loading.loaders import open_loader
from pipeline.storage import object_store
from pipeline.storage.url import Url
from tests.loopback import SECRET, Trouble, Weather

PICTURES = {f"{n}_left": np.full((64, 64, 3), 3 * n, np.uint8) for n in range(64)}
SHARDS = 8


@pytest.fixture
def here(make_cache: Callable[..., Path], there: Url) -> Path:
    """A cache of eight shards; the same lies in the bucket."""
    folder = make_cache(PICTURES, {id: n % 5 for n, id in enumerate(PICTURES)}, shards=SHARDS)
    for path in folder.rglob("*.*"):
        object_store.send(path, there / str(path.relative_to(folder)))
    return folder


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "WAITS", (0.01, 0.01))


@pytest.fixture
def capacity(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], int]:
    """capacity(3.5) -> --local-cache-gb for so many shards, in bytes."""

    def set_capacity(shards: float) -> int:
        limit = int(shards * max(path.stat().st_size for path in here.rglob("*.tar")))
        monkeypatch.setenv("FUNDUS_LOCAL_CACHE_GB", str(limit / 1e9))
        return limit

    return set_capacity


def tars(s3: Weather) -> list[str]:
    """The shards that were asked for, in order."""
    return [path.rpartition("/")[2] for method, path in s3.requests if method == "GET" and path.endswith(".tar")]


def kept(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "local/shards").iterdir() if path.name != "lock"]


def nbytes_kept(tmp_path: Path) -> int:
    with open(tmp_path / "local/shards/lock", "wb") as lock:  # nobody evicts while this looks
        fcntl.flock(lock, fcntl.LOCK_EX)
        sizes = []
        for path in kept(tmp_path):
            with suppress(FileNotFoundError):  # has its final name now
                sizes.append(path.stat().st_size)
    return sum(sizes)


def assert_same(there: Cache, here: Cache) -> None:
    assert there.digest == here.digest
    assert there.manifest.equals(here.manifest)
    for row in range(len(here.manifest)):
        assert there.read(row) == here.read(row)


def test_it_reads_as_the_cache_on_the_disk_and_each_shard_comes_once(
    here: Path, there: Url, s3: Weather, tmp_path: Path
) -> None:
    s3.requests.clear()
    with open_cache(there.text) as cache:
        assert_same(cache, open_cache(here))
        assert cache.read(0).obj is cache.read(0).obj  # a view of the file, as ever
        assert cache.read(0).readonly
        assert cache.home == tmp_path / "local" / there.slug / "cache"
    with open_cache(there) as again:
        assert_same(again, open_cache(here))
    assert sorted(tars(s3)) == [f"{n:04d}.tar" for n in range(SHARDS)]


@pytest.mark.parametrize("name", ["torchvision", "dali"])
def test_epochs_after_the_first_ask_for_nothing(name: str, here: Path, there: Url, s3: Weather) -> None:
    if name == "dali":
        pytest.importorskip("nvidia.dali")
    loaders = [open_loader(name, open_cache(each), split="all", batch_size=8, shuffle=True) for each in (there, here)]
    with loaders[0] as loader, loaders[1] as local:
        for number in range(3):
            for batch, wanted in zip(loader.epoch(number), local.epoch(number), strict=True):
                assert np.array_equal(batch.rows, wanted.rows)
                assert np.array_equal(batch.images, wanted.images)
            if number == 0:
                s3.requests.clear()
    assert s3.requests == []


def test_shards_come_in_the_order_of_the_plan_before_they_are_asked_for(here: Path, there: Url, s3: Weather) -> None:
    with open_cache(there) as cache:
        shards = cache.manifest["shard"].to_numpy()
        order = np.concatenate([np.flatnonzero(shards == shard) for shard in (5, 2, 7, 0, 1, 3, 4, 6)])
        s3.requests.clear()
        s3.latency = 0.1
        cache.store.prefetch([shards[order]])
        until = time.monotonic() + 60
        while len(tars(s3)) < SHARDS and time.monotonic() < until:
            time.sleep(0.01)
    came = [int(name[:4]) for name in tars(s3)]
    assert set(came[:4]) == {5, 2, 7, 0}  # four at a time
    assert set(came[4:]) == {1, 3, 4, 6}


def test_beyond_the_capacity_shards_go_and_come_again_and_reading_is_never_ahead_of_the_limit(
    here: Path, there: Url, s3: Weather, capacity: Callable[[float], int], tmp_path: Path
) -> None:
    limit = capacity(3.5)
    with (
        open_cache(there) as cache,
        open_loader("torchvision", cache, split="all", batch_size=8, shuffle_block=cache.shuffle_block) as loader,
    ):
        for number in range(2):
            s3.requests.clear()
            seen = []
            for batch in loader.epoch(number):
                assert nbytes_kept(tmp_path) <= limit
                seen += batch.rows.tolist()
            assert sorted(seen) == list(range(64))
            assert np.all(np.diff(cache.manifest["shard"].to_numpy()[seen]) >= 0)  # shard by shard
            assert len(tars(s3)) <= SHARDS  # none twice
        assert len(cache.store._maps) <= 5  # what is gone does not fill the disk by being mapped
        assert_same(cache, open_cache(here))


def test_a_shuffle_beyond_the_capacity_fetches_each_shard_once_an_epoch(
    here: Path, there: Url, s3: Weather, capacity: Callable[[float], int]
) -> None:
    with open_cache(there) as cache:
        assert cache.shuffle_block is None  # all fit
    capacity(4.5)
    with open_cache(there) as cache:
        assert cache.shuffle_block == 2  # two to read from, two on their way
        loading = open_loader(
            "torchvision", cache, split="all", batch_size=8, shuffle=True, shuffle_block=cache.shuffle_block, workers=2
        )
        with loading as loader:
            orders = []
            for number in range(3):
                s3.requests.clear()
                orders.append(np.concatenate([batch.rows for batch in loader.epoch(number)]))
                assert sorted(orders[-1]) == list(range(64))
                assert len(tars(s3)) <= SHARDS
        assert not np.array_equal(orders[0], orders[1])


def test_a_view_of_a_shard_that_was_evicted_stays_readable(
    here: Path, there: Url, capacity: Callable[[float], int], tmp_path: Path
) -> None:
    capacity(1)
    with open_cache(there) as cache:
        first = cache.read(0)
        for row in range(64):
            cache.read(row)
        assert len(kept(tmp_path)) == 1
        assert first == open_cache(here).read(0)


def test_a_bit_that_flips_on_this_disk_is_mended_from_there(here: Path, there: Url, tmp_path: Path) -> None:
    with open_cache(there) as cache:
        assert_same(cache, open_cache(here))
    for path in kept(tmp_path):
        data = bytearray(path.read_bytes())
        for at in range(600, len(data), 600):
            data[at] ^= 1
        path.write_bytes(data)
    with open_cache(there) as cache:
        assert_same(cache, open_cache(here))


def test_few_photographs_of_many_shards_come_alone(here: Path, there: Url, s3: Weather, tmp_path: Path) -> None:
    few, many = np.arange(0, 64, 9), np.arange(64)
    with open_cache(there) as cache, open_cache(here) as local:
        assert [bytes(cache.reader(few)(row)) for row in few] == [bytes(local.read(row)) for row in few]
        assert kept(tmp_path) == []
        assert [bytes(cache.reader(many)(row)) for row in many] == [bytes(local.read(row)) for row in many]
        assert len(kept(tmp_path)) == SHARDS
        s3.requests.clear()
        assert bytes(cache.reader(few)(0)) == bytes(local.read(0))  # it is here
        assert s3.requests == []


# --- bad weather


@pytest.mark.parametrize("trouble", ["drop", "503", "truncate"])
def test_what_fails_now_and_then_is_asked_for_again(
    trouble: Trouble, here: Path, there: Url, s3: Weather, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "WAITS", (0.01,) * 8)
    draw = np.random.default_rng(0)
    s3.trouble = lambda method, path: trouble if draw.random() < 0.5 else None
    with open_cache(there) as cache:
        assert_same(cache, open_cache(here))
    assert len(s3.requests) > SHARDS + 5
    assert {path.name for path in kept(tmp_path)} == {record.sha256 for record in cache.index.shards}


@pytest.mark.parametrize("trouble", ["drop", "503", "truncate"])
@pytest.mark.usefixtures("no_patience")
def test_it_gives_up_in_one_line_and_keeps_nothing_damaged(
    trouble: Trouble, here: Path, there: Url, s3: Weather, tmp_path: Path
) -> None:
    with open_cache(there) as cache, open_loader("torchvision", cache, split="all", batch_size=8) as loader:
        s3.trouble = lambda method, path: trouble if path.endswith(".tar") else None
        with pytest.raises(StoreError) as said:
            list(loader.epoch(0))
        message = said.value.message
        assert message.startswith(f"{there}/shards/000")
        assert "cannot be read (" in message
        assert re.search(r"; tried 3 times in \d s; run the same command to continue$", message)
        assert "\n" not in message
        assert SECRET not in message
        end = time.monotonic() + 60
        while kept(tmp_path) and time.monotonic() < end:  # other downloads may still be giving up
            time.sleep(0.05)
        assert kept(tmp_path) == []
        s3.clear()
        assert len(list(loader.epoch(0))) == 8  # the loader is none the worse


@pytest.mark.parametrize("trouble", ["drop", "503", "truncate"])
def test_so_it_is_on_the_web(
    trouble: Trouble,
    make_cache: Callable[..., Path],
    web: Url,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = make_cache(PICTURES, shards=SHARDS)
    weather, draw = Weather(int(web.path.rpartition(":")[2])), np.random.default_rng(0)
    try:
        monkeypatch.setattr(object_store, "WAITS", (0.01,) * 8)
        weather.trouble = lambda method, path: trouble if draw.random() < 0.5 else None
        with open_cache(f"{weather.url}/cache") as cache, open_cache(here) as local:
            assert_same(cache, local)
        monkeypatch.setattr(object_store, "WAITS", (0.01, 0.01))
        weather.trouble = lambda method, path: trouble
        with pytest.raises(StoreError, match=r"cache\.json: cannot be read \(.*; tried 3 times in \d s; run the same"):
            open_cache(f"{weather.url}/cache")
    finally:
        weather.shutdown()
        weather.server_close()


@pytest.mark.usefixtures("no_patience")
def test_a_shard_of_another_cache_is_refused(here: Path, there: Url, tmp_path: Path) -> None:
    object_store.send(here / "shards/0001.tar", there / "shards/0002.tar")
    with open_cache(there) as cache:
        row = int(np.flatnonzero(cache.manifest["shard"] == 2)[0])
        with pytest.raises(CacheError, match=r"0002\.tar: damaged, or changed since cache\.json was read"):
            cache.read(row)
        assert kept(tmp_path) == []
        object_store.remove(there / "shards/0002.tar")
        cache.store.prefetch([])
        with pytest.raises(CacheError, match=r"0002\.tar: is missing"):
            cache.read(row)


@pytest.mark.usefixtures("no_patience")
def test_what_is_no_cache_there_does_not_open(here: Path, there: Url, s3: Weather, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"nowhere is not a cache .*--out s3://eyes/nowhere"):
        open_cache("s3://eyes/nowhere")
    object_store.send(here / "cache.json", there / "unfinished.json")
    object_store.remove(there / "cache.json")
    with pytest.raises(CacheError, match="is incomplete"):
        open_cache(there)
    with pytest.raises(CacheError, match="is not a cache"):
        open_cache("s3://no-such-bucket/cache")


@pytest.mark.usefixtures("no_patience")
def test_nobody_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUNDUS_LOCAL_CACHE", str(tmp_path))
    line = r"http://\*\*\*@127\.0\.0\.1:9/x/cache\.json: cannot be read \(.*onnect"
    with pytest.raises(StoreError, match=line) as said:
        open_cache("http://anna:hunter22@127.0.0.1:9/x")
    assert "hunter22" not in said.value.message


def test_a_package_that_is_missing_is_named_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    object_store._client.cache_clear()
    with pytest.raises(StoreError, match=r"gs:// needs a package .*pip install 'fundus-grading\[gcs\]'"):
        open_cache("gs://eyes/cache")


def test_a_cache_on_the_web_is_read_too(make_cache: Callable[..., Path], web: Url, tmp_path: Path) -> None:
    here = make_cache(PICTURES, shards=SHARDS)
    with open_cache(web / "cache") as cache, open_cache(here) as local:
        assert_same(cache, local)
        few = np.arange(0, 64, 9)
        for path in kept(tmp_path):
            path.unlink()
        cache.close()
        assert [bytes(cache.reader(few)(row)) for row in few] == [bytes(local.read(row)) for row in few]
    with pytest.raises(CacheError, match=r"/nowhere is not a cache"):
        open_cache(web / "nowhere")
