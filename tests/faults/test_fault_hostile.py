"""Whatever lies below SRC: nothing outside is read, nothing hangs, nothing is eaten that is not a photograph."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from pipeline.cache.cache import open_cache

Tools = Callable[..., Result]
Trees = Callable[[Path], dict[str, bytes]]


def test_pipes_devices_and_loops_are_refused_by_name_and_hang_nothing(
    eyes: Path, tmp_path: Path, start: Callable[..., Any]
) -> None:
    os.mkfifo(eyes / "pipe.jpeg")
    os.mkfifo(eyes / "more.csv")
    (eyes / "loop.jpeg").symlink_to("loop.jpeg")
    (eyes / "there.jpeg").symlink_to("back.jpeg")
    (eyes / "back.jpeg").symlink_to("there.jpeg")
    (eyes / "zeros.jpeg").symlink_to("/dev/zero")
    (eyes / "round").mkdir()
    (eyes / "round/round").symlink_to("..")
    (eyes / "stdin.jpeg").symlink_to("/proc/self/fd/0")
    code, out, err = start("preprocess", eyes, "--out", tmp_path / "c", "--size", 64).end()
    assert (code, err) == (0, "")
    assert "found 31 = 24 cached + 7 rejected + 0 ignored" in out
    for name in ("pipe.jpeg", "loop.jpeg", "there.jpeg", "back.jpeg", "zeros.jpeg", "stdin.jpeg", "round/round"):
        assert f"\n{name},"[1:] in (tmp_path / "c/rejects.csv").read_text()


def test_a_device_is_refused(eyes: Path, tmp_path: Path, tools: Tools) -> None:
    try:
        os.mknod(eyes / "null.jpeg", 0o20644, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("cannot make a device")
    assert "null.jpeg: not a regular file" in tools("preprocess", eyes, "--out", tmp_path / "c", "--size", 64).output


@pytest.mark.parametrize("src", ["pipe", "/dev/zero", "/dev/null", "nowhere", "x" * 300, "trainLabels.csv"])
def test_what_is_no_folder_is_refused_as_src(eyes: Path, tmp_path: Path, start: Callable[..., Any], src: str) -> None:
    os.mkfifo(eyes / "pipe")
    code, _, err = start("preprocess", eyes / src, "--out", tmp_path / "c").end()
    assert code == 1
    assert err == f"Error: {eyes / src}: no such folder\n"
    assert not (tmp_path / "c").exists()


def test_paths_and_links_that_lead_outside_are_refused_and_nothing_green_comes_in(
    shared: Path, tmp_path: Path, tools: Tools, tree: Trees
) -> None:
    """B26: outside/secret.jpeg is green all over."""
    case = shutil.copytree(shared / "cases/B26", tmp_path / "case", symlinks=True, copy_function=shutil.copy)
    outside = tree(case / "outside")
    result = tools("preprocess", case / "data", "--out", tmp_path / "c", "--size", 64)
    assert result.exit_code == 0
    rejects = (tmp_path / "c/rejects.csv").read_text()
    for name in ("../../outside/secret", "train/../../outside/secret", "..\\\\..\\\\outside\\\\secret", "linkout"):
        assert name in rejects
    assert rejects.count("leads out of the folder of photographs: refused") == 3
    assert rejects.count("is a path on another computer, and no photograph here has that name") == 1
    with open_cache(tmp_path / "c") as cache:
        assert set(cache.manifest["id"]) == {"260_right", "261_left", "262_right"}
    assert tree(case / "outside") == outside


def test_a_table_behind_a_link_that_leads_outside_is_not_read(eyes: Path, tmp_path: Path, tools: Tools) -> None:
    (eyes / "trainLabels.csv").rename(tmp_path / "elsewhere.csv")
    (eyes / "trainLabels.csv").symlink_to(tmp_path / "elsewhere.csv")
    result = tools("preprocess", eyes, "--out", tmp_path / "c", "--size", 64)
    assert result.exit_code == 1
    assert f"{eyes}/trainLabels.csv: a link that leads out of {eyes}; name it with --labels" in result.output
    named = tools("preprocess", eyes, "--labels", eyes / "trainLabels.csv", "--out", tmp_path / "c", "--size", 64)
    assert named.exit_code == 0


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_cache_inside_the_source_is_not_eaten(
    eyes: Path, tmp_path: Path, tools: Tools, tree: Trees, labelled: bool, finished: bool
) -> None:
    if not labelled:
        (eyes / "trainLabels.csv").unlink()
    assert tools("preprocess", eyes, "--out", tmp_path / "c", "--size", 64).exit_code == 0
    wanted = tree(tmp_path / "c")
    assert tools("preprocess", eyes, "--out", eyes / "cache", "--size", 64).exit_code == 0
    if not finished:
        (eyes / "cache/cache.json").rename(eyes / "cache/unfinished.json")
    for _ in range(2):
        result = tools("preprocess", eyes, "--out", eyes / "cache", "--size", 64)
        assert "found 24 = 24 cached + 0 rejected + 0 ignored" in result.output
        assert tree(eyes / "cache") == wanted


@pytest.mark.parametrize("what", ["thesis.tex", "cache.jsonx", ".git", "shards"])
def test_a_folder_that_is_not_ours_is_left_alone(
    eyes: Path, tmp_path: Path, tools: Tools, tree: Trees, what: str
) -> None:
    out = tmp_path / "work"
    out.mkdir()
    (out / what).mkdir() if what == "shards" else (out / what).write_text("important")
    before = tree(out)
    result = tools("preprocess", eyes, "--out", out, "--size", 64)
    assert result.exit_code == 1
    assert f"{out} holds {what!r} and is no cache; choose another folder with --out" in result.output
    assert tree(out) == before
    assert tools("preprocess", eyes, "--out", eyes, "--size", 64).exit_code == 1  # nor SRC itself


def test_an_archive_that_hides_a_pickle_is_refused_and_runs_nothing(tmp_path: Path, tools: Tools) -> None:
    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "fired"),)

    trap = np.array([Canary()], dtype=object)
    arrays = {f"{split}_{kind}": trap for split in ("train", "val", "test") for kind in ("images", "labels")}
    np.savez(tmp_path / "retinamnist.npz", **arrays)
    result = tools("preprocess", tmp_path / "retinamnist.npz", "--out", tmp_path / "c")
    assert result.exit_code == 1
    assert "not a MedMNIST file" in result.output
    assert not (tmp_path / "fired").exists()
