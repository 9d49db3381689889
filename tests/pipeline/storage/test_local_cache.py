"""The local folder is bounded, checked, and shared by threads and processes."""

import fcntl
import hashlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.storage.local_cache import Blob, LocalFolder, local_folder

ROOT = Path(__file__).resolve().parents[3]
DATA = {n: bytes([n]) * 1000 for n in range(8)}
BLOBS = {n: Blob(hashlib.sha256(data).hexdigest(), 1000) for n, data in DATA.items()}


def names(folder: Path) -> set[int]:
    """Which of the blobs are there, whole."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}
    numbers = {n for n, blob in BLOBS.items() if found.pop(blob.sha256, None) == DATA[n]}
    assert not found, "something else is left there"
    return numbers


def never() -> bytes:
    raise AssertionError("is here already")


def age(folder: Path, *numbers: int) -> None:
    """The first was not used for longest."""
    for at, n in enumerate(numbers):
        os.utime(folder / BLOBS[n].sha256, (at, at))


def test_what_was_brought_is_not_brought_again(tmp_path: Path) -> None:
    local = LocalFolder(tmp_path, 10_000)
    assert bytes(local.open(BLOBS[1], lambda: DATA[1])) == DATA[1]
    assert bytes(local.open(BLOBS[1], never)) == DATA[1]
    assert bytes(LocalFolder(tmp_path, 10_000).open(BLOBS[1], never)) == DATA[1]


def test_what_was_not_used_for_longest_is_evicted_and_stays_readable(tmp_path: Path) -> None:
    local = LocalFolder(tmp_path, 3500)
    maps = {n: local.open(BLOBS[n], lambda n=n: DATA[n]) for n in range(3)}
    age(tmp_path, 1, 0, 2)
    local.open(BLOBS[1], never)  # used
    local.open(BLOBS[3], lambda: DATA[3])
    assert names(tmp_path) == {1, 2, 3}
    assert bytes(maps[0]) == DATA[0]
    age(tmp_path, 1, 2, 3)
    local.open(BLOBS[4], lambda: DATA[4], evict_last={BLOBS[1].sha256})
    assert names(tmp_path) == {1, 3, 4}


def test_what_others_keep_there_never_goes(tmp_path: Path) -> None:
    for name in ("0000.tar", "notes.tmp", "0" * 63):
        (tmp_path / name).write_bytes(b"somebody's" * 1000)
    local = LocalFolder(tmp_path, 2000)
    for n in range(4):
        local.open(BLOBS[n], lambda n=n: DATA[n])
    assert {path.name for path in tmp_path.iterdir()} - {blob.sha256 for blob in BLOBS.values()} == {
        "0000.tar", "notes.tmp", "0" * 63, "lock",
    }  # fmt: skip


def test_nothing_grows_beyond_the_limit_and_what_never_fits_is_said(tmp_path: Path) -> None:
    local = LocalFolder(tmp_path, 2500)
    sizes = []

    def size(path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:  # has its final name now
            return 0

    def download(n: int) -> bytes:
        with open(tmp_path / "lock", "wb") as lock:  # nobody evicts while this looks
            fcntl.flock(lock, fcntl.LOCK_EX)
            sizes.append(sum(map(size, tmp_path.iterdir())))
        return DATA[n]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: local.open(BLOBS[n % 8], lambda: download(n % 8)), range(64)))
    assert max(sizes) <= 2500
    with pytest.raises(StoreError, match=r"a file of 1e-06 GB does not fit into the 9e-07 GB .* --local-cache-gb"):
        LocalFolder(tmp_path / "small", 900).open(BLOBS[0], never)


def test_of_many_who_want_the_same_one_brings_it(tmp_path: Path) -> None:
    local = LocalFolder(tmp_path, 10_000)
    calls = []

    def slow() -> bytes:
        calls.append(1)
        time.sleep(0.2)
        return DATA[5]

    with ThreadPoolExecutor(8) as pool:
        maps = list(pool.map(lambda _: local.open(BLOBS[5], slow), range(8)))
    assert len(calls) == 1
    assert {bytes(each) for each in maps} == {DATA[5]}


def test_where_one_fails_the_next_tries_and_nothing_is_left(tmp_path: Path) -> None:
    local = LocalFolder(tmp_path, 10_000)

    def fail() -> bytes:
        raise StoreError("no network")

    with pytest.raises(StoreError, match="no network"):
        local.open(BLOBS[0], fail)
    assert names(tmp_path) == set()
    assert bytes(local.open(BLOBS[0], lambda: DATA[0])) == DATA[0]


BRING_SLOWLY = """
import sys, time
from pathlib import Path
from pipeline.storage.local_cache import Blob, LocalFolder

def slow():
    with open(sys.argv[2], "a") as log:
        log.write("x")
    time.sleep(1)
    return bytes([6]) * 1000

local = LocalFolder(Path(sys.argv[1]), 10_000)
assert bytes(local.open(Blob(sys.argv[3], 1000), slow)) == bytes([6]) * 1000
"""


def test_processes_share_it_and_one_that_is_killed_holds_up_nobody(tmp_path: Path) -> None:
    folder, log = tmp_path / "folder", tmp_path / "log"
    log.write_text("")
    command = [sys.executable, "-c", BRING_SLOWLY, str(folder), str(log), BLOBS[6].sha256]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert log.read_text() == "x"

    local = LocalFolder(folder, 1500)
    local.discard(BLOBS[6])
    victim = subprocess.Popen(command, cwd=ROOT)
    while log.read_text() == "x":
        time.sleep(0.01)
    victim.kill()
    victim.wait()
    assert len(list(folder.glob("*.tmp"))) == 1
    assert bytes(local.open(BLOBS[7], lambda: DATA[7])) == DATA[7]  # what it left is evicted
    assert names(folder) == {7}
    assert bytes(local.open(BLOBS[6], lambda: DATA[6])) == DATA[6]


def test_a_file_cut_by_a_power_cut_comes_again(tmp_path: Path) -> None:
    local = LocalFolder(tmp_path, 10_000)
    local.open(BLOBS[0], lambda: DATA[0])
    os.truncate(tmp_path / BLOBS[0].sha256, 10)
    assert bytes(local.open(BLOBS[0], lambda: DATA[0])) == DATA[0]


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf", "much"])
def test_a_limit_that_is_none_is_said(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUNDUS_LOCAL_CACHE", str(tmp_path))
    monkeypatch.setenv("FUNDUS_LOCAL_CACHE_GB", limit)
    with pytest.raises(StoreError, match=f"FUNDUS_LOCAL_CACHE_GB must be a positive number, got '{limit}'"):
        local_folder()


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"no folder to keep files in .* --local-cache names one"):
        LocalFolder(tmp_path / "file" / "x", 1000)
