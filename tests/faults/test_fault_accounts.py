"""found = cached + rejected + ignored, whatever people have on disk; and when too much is refused, the run stops."""

import csv
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipeline.cache.cache import open_cache
from pipeline.photos.formats import SUFFIXES

Tools = Callable[..., Result]
CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"
SOURCES = sorted(path for path in CASES.glob("B*/data*") if path.is_dir())


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_case_adds_up(source: Path, tmp_path: Path, tools: Tools) -> None:
    out = tmp_path / "c"
    result = tools("preprocess", source, "--out", out, "--size", 64)
    assert "Traceback" not in result.output
    if result.exit_code == 1:
        assert re.search(r"^Error: .*\n\Z", result.output, re.MULTILINE)
        assert str(source) in result.output.splitlines()[-1]
        assert not (out / "cache.json").exists()
        return
    assert result.exit_code == 0
    said = re.search(r"found (\d+) = (\d+) cached \+ (\d+) rejected \+ (\d+) ignored", result.output)
    assert said
    found, cached, rejected, ignored = map(int, said.groups())
    assert found == cached + rejected + ignored
    assert found == _photographs(source)
    with open_cache(out) as cache:
        assert len(cache.manifest) == cached
        assert cache.manifest["source"].nunique() == cached
    with open(out / "rejects.csv", newline="") as file:
        refused = list(csv.DictReader(file))
    assert all(row["source"] and row["reason"] for row in refused)
    rows = re.search(r"done with skips \(photographs: \d+, rows: (\d+)\)", result.output)
    assert len(refused) == rejected + ignored + (int(rows[1]) if rows else 0)
    assert tools("check", out).exit_code == 0


def _photographs(source: Path) -> int:
    """Files below a folder that ought to be photographs, counted without our own walk."""
    junk = ("__MACOSX", ".")
    paths = [path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and not path.is_dir()]
    return sum(not any(part.startswith(junk) for part in path.relative_to(source).parts) for path in paths)


@pytest.mark.parametrize(
    "name", ["data", "data_headeronly", "data_nocsv", "data_noimages", "data_empty", "data_missing"]
)
def test_with_nothing_to_do_it_says_what_was_looked_for_and_where(
    shared: Path, tmp_path: Path, tools: Tools, name: str
) -> None:
    source = shared / "cases/B33" / name
    if name == "data_empty":
        source = tmp_path / name
        source.mkdir()
    result = tools("preprocess", source, "--out", tmp_path / "c", "--size", 64)
    if name == "data_nocsv":  # photographs without grades are something to do: to predict on
        assert result.exit_code == 0
        assert "photographs without grades (no table of grades found; name one with --labels)" in result.output
        return
    assert result.exit_code == 1
    assert str(source) in result.output.splitlines()[-1]
    assert not (tmp_path / "c").exists()


# --- too many


def test_a_hundred_refusals_in_a_row_stop_the_run(many: Path, tmp_path: Path, tools: Tools) -> None:
    source = shutil.copytree(many, tmp_path / "src")
    for path in sorted(source.glob("*.jpeg"))[-250:]:
        path.write_bytes(b"")
    result = tools("preprocess", source, "--out", tmp_path / "c", "--size", 64, "--max-rejects", 0.9, "--workers", 2)
    assert result.exit_code == 1
    last = result.output.splitlines()[-1]
    assert re.fullmatch(
        r"Error: 100 photographs in a row are refused; the disk may be failing; the last one: \S+\.jpeg: empty file",
        last,
    )
    assert not (tmp_path / "c/cache.json").exists()
    for path in source.glob("*.jpeg"):
        shutil.copyfile(many / path.name, path)
    assert tools("preprocess", source, "--out", tmp_path / "c", "--size", 64).exit_code == 0


def test_more_than_the_share_that_is_allowed_stops_the_run(many: Path, tmp_path: Path, tools: Tools) -> None:
    source = shutil.copytree(many, tmp_path / "src")
    for path in sorted(source.glob("*.jpeg"))[::3]:
        path.write_bytes(b"")
    time.sleep(2.1)  # what changed within two seconds of a run is looked into again by the next
    command = ("preprocess", source, "--out", tmp_path / "c", "--size", 64, "--workers", 2)
    result = tools(*command)
    assert result.exit_code == 1
    assert re.search(
        r"Error: \d+ of 400 photographs are refused, more than --max-rejects allows; the disk may be failing",
        result.output,
    )
    result = tools(*command, "--max-rejects", 0.4)
    assert result.exit_code == 0
    assert "found 400 = 266 cached + 134 rejected + 0 ignored" in result.output
    assert "done with skips (photographs: 134, rows: 0)" in result.output
    assert tools(*command).exit_code == 1  # what was refused then counts as much as what is refused now
    assert tools("check", tmp_path / "c").exit_code == 0


def test_below_it_the_run_is_done_with_skips_and_strict_makes_it_an_error(
    eyes: Path, tmp_path: Path, tools: Tools
) -> None:
    (eyes / "3_left.jpeg").write_bytes(b"<html>")
    command = ("preprocess", eyes, "--out", tmp_path / "c", "--size", 64)
    for strict in (False, True, False):  # also where the refusal is remembered from an earlier run
        result = tools(*command, *["--strict"] * strict)
        assert result.exit_code == strict
        assert "3_left.jpeg: not an image: HTML text" in result.output
        assert ("done with skips (photographs: 1, rows: 0)" in result.output) is not strict
    (eyes / "3_left.jpeg").unlink()
    result = tools(*command, "--strict")
    assert result.exit_code == 1
    assert "--strict: trainLabels.csv:9: '3_left' has no photograph" in result.output
