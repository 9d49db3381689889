"""Full disks, quotas and photographs that may not be touched: one line, nothing half-written, and it goes on."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

ROOT = Path(__file__).resolve().parents[2]
Tools = Callable[..., Result]
Trees = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """small_disk(kilobytes) -> a file system of that size; growing where there is one already."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(kilobytes: int) -> Path:
        options = f"size={kilobytes}k" + (",remount" if place.is_mount() else "")
        run = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True)
        if run.returncode:
            pytest.skip(f"cannot mount a small disk: {run.stderr.strip()}")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", place], check=True)


def fill(
    source: Path,
    whole: dict[str, bytes],
    part: float,
    start: Callable[..., Any],
    small_disk: Callable[[int], Path],
    tree: Trees,
    workers: int,
) -> None:
    """Preprocesses onto a disk with room for a part of the cache; then there is room, and the same command again."""
    needed = sum(map(len, whole.values())) // 1024
    out = small_disk(int(part * needed)) / "c"
    command = ("preprocess", source, "--out", out, "--size", 64, "--workers", workers)
    code, _, err = start(*command).end()
    assert (code, err) == (
        1,
        f"Error: {out}: cannot be written (No space left on device); run the same command to continue\n",
    )
    left = tree(out)
    assert not [name for name in left if name.endswith(".tmp")]
    assert all(whole[name] == data for name, data in left.items() if name != "unfinished.json")
    small_disk(4 * needed)
    assert start(*command).end()[0] == 0
    assert tree(out) == whole


@pytest.mark.parametrize("part", [0.05, 0.3, 0.7, 0.98])
def test_a_full_disk_ends_the_run_in_one_line_and_room_lets_it_go_on(
    eyes: Path,
    tmp_path: Path,
    tools: Tools,
    tree: Trees,
    start: Callable[..., Any],
    small_disk: Callable[[int], Path],
    part: float,
) -> None:
    assert tools("preprocess", eyes, "--out", tmp_path / "whole", "--size", 64).exit_code == 0
    fill(eyes, tree(tmp_path / "whole"), part, start, small_disk, tree, workers=1)


@pytest.mark.slow
def test_a_full_disk_ends_all_workers(
    many: Path, undisturbed: dict[str, bytes], tree: Trees, start: Callable[..., Any], small_disk: Callable[[int], Path]
) -> None:
    fill(many, undisturbed, 0.5, start, small_disk, tree, workers=2)


@pytest.mark.parametrize("part", [0.001, 0.05, 0.4, 0.9])
def test_a_quota_on_file_sizes_ends_the_run_in_one_line(
    eyes: Path, tmp_path: Path, tools: Tools, tree: Trees, part: float
) -> None:
    out = tmp_path / "c"
    assert tools("preprocess", eyes, "--out", tmp_path / "whole", "--size", 64).exit_code == 0
    whole = tree(tmp_path / "whole")
    limit = int(part * len(whole["shards/0000.tar"]))
    run = subprocess.run(
        [sys.executable, "-B", "-m", "tools", "preprocess", eyes, "--out", out, "--size", "64"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode == 1
    assert run.stderr == f"Error: {out}: cannot be written (File too large); run the same command to continue\n"
    assert tools("preprocess", eyes, "--out", out, "--size", 64).exit_code == 0
    assert tree(out) == whole


def test_too_little_memory_is_no_fault_of_the_photograph(
    eyes: Path, tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photograph that memory did not suffice for is not refused, let alone remembered as bad."""

    def short(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("pipeline.photos.photo.simplejpeg.decode_jpeg", short)
    result = tools("preprocess", eyes, "--out", tmp_path / "c", "--size", 64, "--workers", 1)
    assert result.exit_code == 1
    assert "Error: a worker was killed, probably because memory ran out" in result.output
    assert not (tmp_path / "c/rejects.csv").exists()


def _dates(folder: Path) -> dict[str, tuple[int, int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_ctime_ns, path.stat().st_ino) for path in folder.rglob("*")
    }


def test_source_folders_are_never_written_to(eyes: Path, tmp_path: Path, tools: Tools, tree: Trees) -> None:
    (eyes / "broken.jpeg").write_bytes(b"")
    before, dates = tree(eyes), _dates(tmp_path / "src")
    for options in ([], ["--size", 96], ["--split", "patient"], ["--strict"], ["--enhance", "clahe"]):
        tools("preprocess", eyes, "--out", tmp_path / "c", "--size", 64, *options)
    tools("audit", eyes)
    assert tree(eyes) == before
    assert _dates(tmp_path / "src") == dates


def test_a_source_on_a_disk_that_is_read_only_serves_as_well(
    eyes: Path, tmp_path: Path, tools: Tools, tree: Trees
) -> None:
    place = tmp_path / "cdrom"
    place.mkdir()
    run = subprocess.run(["mount", "--bind", "-o", "ro", eyes, place], capture_output=True, text=True)
    if run.returncode:
        pytest.skip(f"cannot mount a folder read-only: {run.stderr.strip()}")
    try:
        assert tools("preprocess", place, "--out", tmp_path / "c", "--size", 64).exit_code == 0
        result = tools("preprocess", place, "--out", place / "cache", "--size", 64)
    finally:
        subprocess.run(["umount", place], check=True)
    assert result.exit_code == 1
    assert "cannot be written (its file system may only be read)" in result.output
    assert tools("preprocess", eyes, "--out", tmp_path / "d", "--size", 64).exit_code == 0
    assert tree(tmp_path / "c") == tree(tmp_path / "d")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_photograph_that_may_not_be_read_is_named(eyes: Path, tmp_path: Path, tools: Tools) -> None:
    (eyes / "3_left.jpeg").chmod(0)
    result = tools("preprocess", eyes, "--out", tmp_path / "c", "--size", 64)
    assert result.exit_code == 0
    assert "3_left.jpeg: cannot be read (Permission denied)" in result.output
