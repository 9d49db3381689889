"""A finished cache is a pure function of photographs, labels, recipe and splits, however it came about."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pipeline.cache.cache import Cache, open_cache
from pipeline.cache.index import CacheIndex
from pipeline.cache.manifest import Row, read_manifest
from pipeline.cache.shards import Entry, scan_shard, write_shard
from pipeline.cache.writing import make_record, make_tables, with_tables
from pipeline.photos.preparation import Recipe
from tools.cli import main
from tools.preprocessing.build_shards import CLOCK_SLACK_NS
from tools.preprocessing.preprocess import PreprocessSettings
from tools.preprocessing.preprocess import preprocess as bring_up_to_date
from tools.sources.layouts import list_source

ROOT = Path(__file__).parents[3]
Tree = dict[str, bytes]


def preprocess(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["preprocess", *map(str, arguments)], catch_exceptions=False)


def done(*arguments: object) -> str:
    result = preprocess(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def tree(folder: Path) -> Tree:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def entries(folder: Path) -> dict[str, list[Entry]]:
    """The samples of each shard."""
    return {path.name: list(scan_shard(path)) for path in sorted((folder / "shards").iterdir())}


def but_for_splits(folder: Path) -> dict[str, list[Entry]]:
    return {
        name: [entry._replace(meta={**entry.meta, "split": None}) for entry in inside]
        for name, inside in entries(folder).items()
    }


def places(folder: Path) -> dict[str, tuple[str, str]]:
    """id -> (patient, split) as the shards tell it, which must be as the manifest does."""
    with open_cache(folder) as cache:
        told = {row.id: (row.patient, row.split) for row in cache.manifest.itertuples()}
    inside = [entry for each in entries(folder).values() for entry in each]
    assert {entry.id: (entry.meta["patient"], entry.meta["split"]) for entry in inside} == told
    return told


def picture(cache: Cache, id: str) -> np.ndarray:
    row = cache.manifest.index[cache.manifest["id"] == id][0]
    return np.asarray(Image.open(BytesIO(cache.read(row)))).astype(int)


def case(shared: Path, name: str, tmp_path: Path) -> Path:
    """A copy of a case's photographs that may be changed."""
    shutil.copytree(shared / "cases" / name / "data", tmp_path / name, copy_function=shutil.copyfile)
    for path in (tmp_path / name).rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return tmp_path / name


@pytest.fixture
def eyes(tmp_path: Path) -> Path:
    """Twelve photographs of six patients in Kaggle's layout."""
    rng = np.random.default_rng(0)
    y, x = np.ogrid[:80, :100]
    disc = np.hypot(x - 50, y - 40) < 36
    rows = []
    (tmp_path / "src").mkdir()
    for patient in range(6):
        for eye in ("left", "right"):
            shade = (rng.integers(60, 200, 3) * disc[..., None]).astype(np.uint8)
            Image.fromarray(shade).save(tmp_path / f"src/{patient}_{eye}.jpeg", quality=90)
            rows.append(f"{patient}_{eye},{patient % 5}\n")
    (tmp_path / "src/trainLabels.csv").write_text("image,level\n" + "".join(rows))
    return tmp_path / "src"


def test_workers_do_not_change_a_byte(shared: Path, tmp_path: Path) -> None:
    trees = []
    for workers in (1, 2, 3):
        done(shared / "cases/B48/data", "--out", tmp_path / "c", "--size", 64, "--workers", workers)
        trees.append(tree(tmp_path / "c"))
        shutil.rmtree(tmp_path / "c")
    assert trees[0] == trees[1] == trees[2]


def test_a_rerun_writes_nothing(eyes: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    time.sleep(CLOCK_SLACK_NS / 1e9)  # photographs as fresh as that are looked into once more
    done(eyes, "--out", out, "--size", 64)
    before = {path: path.stat().st_mtime_ns for path in [out, *out.rglob("*")]}
    assert "up to date, nothing written" in done(eyes, "--out", out, "--size", 64)
    assert {path: path.stat().st_mtime_ns for path in [out, *out.rglob("*")]} == before


@pytest.mark.parametrize(
    "change", [["--size", 96], ["--size", 64, "--quality", 90], ["--size", 64, "--enhance", "clahe"]]
)
def test_another_recipe_is_never_served_from_the_old_one(eyes: Path, tmp_path: Path, change: list[object]) -> None:
    out = tmp_path / "c"
    done(eyes, "--out", out, "--size", 64)
    first = tree(out)
    assert "12 encoded" in done(eyes, "--out", out, *change)
    done(eyes, "--out", tmp_path / "fresh", *change)
    assert tree(out) == tree(tmp_path / "fresh") != first
    done(eyes, "--out", out, "--size", 64)
    assert tree(out) == first


def test_a_photograph_replaced_behind_its_size_and_time_is_noticed(shared: Path, tmp_path: Path) -> None:
    source, out = case(shared, "B36", tmp_path), tmp_path / "c"
    done(source, "--out", out, "--size", 64)
    with open_cache(out) as cache:
        before = picture(cache, "360_right")
    about = (source / "train/360_right.jpeg").stat()
    other = (shared / "cases/B36/v2/360_right.jpeg").read_bytes()
    other += bytes(max(0, about.st_size - len(other)))  # as long as it was
    (source / "train/360_right.jpeg").write_bytes(other)
    os.utime(source / "train/360_right.jpeg", ns=(about.st_atime_ns, about.st_mtime_ns))
    assert "1 encoded" in done(source, "--out", out, "--size", 64)
    with open_cache(out) as cache:
        assert np.abs(picture(cache, "360_right") - before).mean() > 5


def test_a_photograph_touched_but_the_same_is_not_encoded_again(eyes: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    done(eyes, "--out", out, "--size", 64)
    for path in eyes.glob("*.jpeg"):
        path.touch()
    assert ": 0 encoded" in done(eyes, "--out", out, "--size", 64)
    done(eyes, "--out", tmp_path / "fresh", "--size", 64)
    assert tree(out) == tree(tmp_path / "fresh")


def test_a_photograph_removed_is_gone_and_one_that_returns_is_back(eyes: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    done(eyes, "--out", out, "--size", 64)
    first = tree(out)
    (eyes / "3_left.jpeg").rename(tmp_path / "away.jpeg")
    output = done(eyes, "--out", out, "--size", 64)
    assert "'3_left' has no photograph" in output
    with open_cache(out) as cache:
        assert len(cache.manifest) == 11
        assert "3_left" not in set(cache.manifest["id"])
    (tmp_path / "away.jpeg").rename(eyes / "3_left.jpeg")
    assert "1 encoded" in done(eyes, "--out", out, "--size", 64)
    assert tree(out) == first


def test_changed_labels_encode_nothing_and_give_the_cache_of_those_labels(eyes: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    done(eyes, "--out", out, "--size", 64)
    with open_cache(out) as cache:
        sides = dict(zip(cache.manifest["patient"], cache.manifest["split"], strict=True))
    table = (eyes / "trainLabels.csv").read_text()
    (eyes / "trainLabels.csv").write_text(table.replace("3_left,3", "3_left,4"))
    assert ": 0 encoded" in done(eyes, "--out", out, "--size", 64)
    with open_cache(out) as cache:
        assert cache.manifest.set_index("id").at["3_left", "grade"] == 4
        assert dict(zip(cache.manifest["patient"], cache.manifest["split"], strict=True)) == sides
    assert "all well" in CliRunner().invoke(main, ["check", str(out)]).output


def test_no_patient_changes_side_when_photographs_are_added(eyes: Path, tmp_path: Path) -> None:
    out, rng = tmp_path / "c", np.random.default_rng(1)
    done(eyes, "--out", out, "--size", 64)
    with open_cache(out) as cache:
        before = dict(zip(cache.manifest["patient"], cache.manifest["split"], strict=True))
    with open(eyes / "trainLabels.csv", "a") as table:
        for patient in range(6, 40):
            pixels = rng.integers(0, 255, (60, 60, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(eyes / f"{patient}_left.jpeg")
            table.write(f"{patient}_left,{patient % 5}\n")
    assert "34 encoded" in done(eyes, "--out", out, "--size", 64)
    with open_cache(out) as cache:
        after = dict(zip(cache.manifest["patient"], cache.manifest["split"], strict=True))
    assert {patient: after[patient] for patient in before} == before
    done(eyes, "--out", tmp_path / "fresh", "--size", 64)
    assert but_for_splits(out) == but_for_splits(tmp_path / "fresh")  # only sides have a history


def test_growing_past_a_shard_copies_entries(eyes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cache.shards.SAMPLES_A_SHARD", 5)  # 12 photographs: 2 shards, 24: 4
    out = tmp_path / "c"
    done(eyes, "--out", out, "--size", 64, "--workers", 1)
    assert len(list((out / "shards").iterdir())) == 2
    with open(eyes / "trainLabels.csv", "a") as table:
        for n in range(12):
            shutil.copy(eyes / "0_left.jpeg", eyes / f"{n}0_left.jpeg")
            table.write(f"{n}0_left,0\n")
    assert "12 encoded" in done(eyes, "--out", out, "--size", 64, "--workers", 1)
    done(eyes, "--out", tmp_path / "fresh", "--size", 64, "--workers", 1)
    assert len(list((out / "shards").iterdir())) == 4
    assert but_for_splits(out) == but_for_splits(tmp_path / "fresh")


def test_damaged_files_are_found_and_mended(shared: Path, tmp_path: Path) -> None:
    source, out = shared / "cases/B35/data", tmp_path / "c"
    done(source, "--out", out, "--size", 64)
    clean = tree(out)
    for name, data in clean.items():
        half, third = len(data) // 2, len(data) // 3
        flipped = data[:half] + bytes([data[half] ^ 4]) + data[half + 1 :]
        for damaged in (data[:half], b"", data[:third] + bytes(len(data) - third), flipped):
            about = (out / name).stat()
            (out / name).write_bytes(damaged)
            os.utime(out / name, ns=(about.st_atime_ns, about.st_mtime_ns))
            checked = CliRunner().invoke(main, ["check", str(out)])
            assert checked.exit_code == 1
            assert name in checked.output
            done(source, "--out", out, "--size", 64)
            assert tree(out) == clean, name


def test_a_folder_of_somebody_else_is_left_alone(eyes: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.tex").write_text("important")
    result = preprocess(eyes, "--out", tmp_path / "thesis")
    assert result.exit_code == 1
    assert "is no cache; choose another folder with --out" in result.output
    assert tree(tmp_path / "thesis") == {"chapter1.tex": b"important"}


# --- photographs of every kind


def test_bad_photographs_are_named_and_the_good_ones_cached(shared: Path, tmp_path: Path) -> None:
    for name, bad in (
        ("B01", ["cut50", "cut90", "headonly"]),
        ("B02", ["zero", "one", "html", "noise", "lfs", "riff"]),
    ):
        output = done(shared / f"cases/{name}/data", "--out", tmp_path / name, "--size", 64)
        rejects = (tmp_path / name / "rejects.csv").read_text()
        for stem in bad:
            assert f"train/{stem}." in rejects
            assert f"train/{stem}." in output
        with open_cache(tmp_path / name) as cache:
            assert {"900_right", "901_left", "902_right"} <= set(cache.manifest["id"])
            assert not set(bad) & set(cache.manifest["id"])
        assert (
            preprocess(shared / f"cases/{name}/data", "--out", tmp_path / "s", "--size", 64, "--strict").exit_code == 1
        )


@pytest.mark.parametrize("name", ["B05", "B06", "B07", "B10"])
def test_twins_in_other_formats_give_the_same_picture(shared: Path, tmp_path: Path, name: str) -> None:
    expect = json.loads((shared / "cases" / name / "expect.json").read_text())
    done(shared / f"cases/{name}/data", "--out", tmp_path / "c", "--size", 128)
    with open_cache(tmp_path / "c") as cache:
        for twin, control in expect["same_as_control"]:
            assert np.abs(picture(cache, twin) - picture(cache, control)).mean() <= expect["tol_mean"], twin
        assert set(expect.get("accept", [])) | set(expect.get("controls", [])) <= set(cache.manifest["id"])


def test_decompression_bombs_are_refused_from_the_header(shared: Path, tmp_path: Path) -> None:
    measure = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', *sys.argv[1:]], check=True, timeout=600)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = ["tools", "preprocess", shared / "cases/B12/data", "--out", tmp_path / "c", "--size", "64"]
    run = subprocess.run(
        [sys.executable, "-c", measure, *command], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert int(run.stdout.splitlines()[-1]) < 1_500_000  # kB
    rejects = (tmp_path / "c/rejects.csv").read_text()
    assert "bomb400mp" in rejects
    assert "sofbomb" in rejects


def test_blank_photographs_take_no_part_unless_asked_for(shared: Path, tmp_path: Path) -> None:
    blank = {"492_right", "25313_right", "white", "flat128"}
    output = done(shared / "cases/B15/data", "--out", tmp_path / "c", "--size", 64)
    assert "flagged blank: 4, left out of every split" in output
    with open_cache(tmp_path / "c") as cache:
        table = cache.manifest.set_index("id")
        assert set(table.index[table["flags"].str.contains("blank")]) == blank
        assert set(table.index[table["split"] == ""]) == blank
    assert ": 0 encoded" in done(shared / "cases/B15/data", "--out", tmp_path / "c", "--size", 64, "--keep-blank")
    with open_cache(tmp_path / "c") as cache:
        assert (cache.manifest["split"] != "").all()


# --- splits and accounts


def test_no_patient_is_on_two_sides_for_twenty_seeds(shared: Path, tmp_path: Path) -> None:
    draws = set()
    for seed in range(20):
        done(shared / "cases/B25/data", "--out", tmp_path / "c", "--size", 64, "--split-seed", seed)
        with open_cache(tmp_path / "c") as cache:
            assert (cache.manifest.groupby("patient")["split"].nunique() == 1).all()
            draws.add(tuple(cache.manifest["split"]))
    assert len(draws) > 10


def test_a_leaking_layout_is_called_so_and_prevented_by_split_patient(tmp_path: Path, eyes: Path) -> None:
    (eyes / "trainLabels.csv").unlink()
    names = sorted(path.stem for path in eyes.glob("*.jpeg"))
    train, test = [name for name in names if "left" in name], [name for name in names if "right" in name]
    for split, ids in (("train", train), ("test", test)):
        (eyes / f"{split}_img.csv").write_text("".join(f"{id}\n" for id in ids))
        (eyes / f"{split}_label.csv").write_text("0\n" * len(ids))
    output = done(eyes, "--out", tmp_path / "c", "--size", 64)
    assert "of 6 test photographs" in output
    assert "Advice: --split patient" in output
    prevented = done(eyes, "--out", tmp_path / "c", "--size", 64, "--split", "patient")
    assert "leak: none" in prevented
    assert ": 0 encoded" in prevented


def test_the_shards_tell_patient_and_split_as_the_manifest_does(eyes: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    done(eyes, "--out", out, "--size", 64)
    first, jpegs = places(out), {entry.id: entry.jpeg for entry in entries(out)["0000.tar"]}
    assert first["3_left"][0] == "3"
    seed = next(seed for seed in range(1, 99) if drawn_with(eyes, tmp_path / "other", seed) != first)
    assert ": 0 encoded" in done(eyes, "--out", out, "--size", 64, "--split-seed", seed)
    assert places(out) != first
    assert {entry.id: entry.jpeg for entry in entries(out)["0000.tar"]} == jpegs
    done(eyes, "--out", tmp_path / "fresh", "--size", 64, "--split-seed", seed)
    assert tree(out) == tree(tmp_path / "fresh")


def drawn_with(eyes: Path, out: Path, seed: int) -> dict[str, tuple[str, str]]:
    done(eyes, "--out", out, "--size", 64, "--split-seed", seed)
    return places(out)


def test_ungradable_and_blank_photographs_are_in_no_split_of_the_shards(eyes: Path, tmp_path: Path) -> None:
    Image.new("RGB", (100, 80)).save(eyes / "2_left.jpeg")
    header, *rows = (eyes / "trainLabels.csv").read_text().splitlines()
    marked = [f"{header},gradable", *(f"{row},{int(not row.startswith('3_left'))}" for row in rows)]
    (eyes / "trainLabels.csv").write_text("\n".join(marked))
    done(eyes, "--out", tmp_path / "c", "--size", 64)
    assert {id for id, (_, split) in places(tmp_path / "c").items() if not split} == {"2_left", "3_left"}
    done(eyes, "--out", tmp_path / "c", "--size", 64, "--keep-blank")
    assert {id for id, (_, split) in places(tmp_path / "c").items() if not split} == {"3_left"}


@pytest.fixture
def spoilt(eyes: Path, tmp_path: Path) -> Path:
    """Photographs of which one patient's cannot be read, which is found out after the others are drawn: without that
    patient, others come to other sides."""
    done(eyes, "--out", tmp_path / "whole", "--size", 64)
    whole = places(tmp_path / "whole")
    for patient in range(6):
        pair = [eyes / f"{patient}_left.jpeg", eyes / f"{patient}_right.jpeg"]
        kept = [path.read_bytes() for path in pair]
        for path in pair:
            path.write_bytes(b"no photograph")
        done(eyes, "--out", tmp_path / f"without{patient}", "--size", 64)
        if any(whole[id] != it for id, it in places(tmp_path / f"without{patient}").items()):
            return eyes
        for path, data in zip(pair, kept, strict=True):
            path.write_bytes(data)
    raise AssertionError("no patient's absence changes a side")


def test_a_photograph_refused_at_the_end_leaves_no_wrong_split_in_a_shard(spoilt: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    assert "10 encoded" in done(spoilt, "--out", out, "--size", 64)
    places(out)
    assert "all well" in CliRunner().invoke(main, ["check", str(out)]).output
    first = tree(out)
    assert ": 0 encoded" in done(spoilt, "--out", out, "--size", 64)
    assert tree(out) == first


def test_interrupted_while_the_splits_are_mended_it_goes_on(spoilt: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    passes = []

    def interrupted(done: int, total: int) -> None:
        passes.append(total)
        if total == 10:  # 12 were built, and the 10 that could be are copied
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring_up_to_date(list_source(spoilt), out, Recipe(64), PreprocessSettings(), interrupted)
    assert passes[-1] == 10
    assert "incomplete" in CliRunner().invoke(main, ["check", str(out)]).output
    assert ": 0 encoded" in done(spoilt, "--out", out, "--size", 64)
    done(spoilt, "--out", tmp_path / "fresh", "--size", 64)
    assert tree(out) == tree(tmp_path / "fresh")


def test_a_cache_whose_shards_lack_the_splits_is_read_and_gets_them_without_encoding(
    eyes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c"
    done(eyes, "--out", out, "--size", 64)
    now = tree(out)
    forget_places(out)
    with open_cache(out) as cache:
        assert len(cache.rows("train"))
        assert len(cache.rows("test"))
        assert not cache.index.placed
        assert b"placed" not in (out / "cache.json").read_bytes()
    assert "all well" in CliRunner().invoke(main, ["check", str(out)]).output
    assert ": 0 encoded" in done(eyes, "--out", out, "--size", 64)
    assert tree(out) == now


def test_check_names_a_photograph_whose_shard_tells_another_split(eyes: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    done(eyes, "--out", out, "--size", 64, "--split", "train")
    rows = [Row(*row) for row in read_manifest(out / "manifest.csv").itertuples(index=False, name=None)]
    tables = make_tables((row._replace(split="test") if row.id == "3_left" else row for row in rows), [])
    (out / "manifest.csv").write_bytes(tables["manifest.csv"])
    with_tables(CacheIndex.read(out), tables).write(out)
    checked = CliRunner().invoke(main, ["check", str(out)])
    assert checked.exit_code == 1
    assert "3_left: patient and split ['3', 'test'] in the manifest, ['3', 'train'] in its shard" in checked.output


def forget_places(folder: Path) -> None:
    """Makes a cache of one shard what earlier versions wrote."""
    path, index = folder / "shards/0000.tar", CacheIndex.read(folder)
    old = [
        entry._replace(meta={key: cell for key, cell in entry.meta.items() if key not in ("patient", "split")})
        for entry in scan_shard(path)
    ]
    about = path.stat()
    written, digest, nbytes = write_shard(path, old, about.st_mtime_ns)
    table = read_manifest(folder / "manifest.csv").set_index("id", drop=False)
    table["offset"] = pd.Series({entry.id: entry.offset for entry in written})
    tables = make_tables((Row(*row) for row in table.itertuples(index=False, name=None)), [])
    (folder / "manifest.csv").write_bytes(tables["manifest.csv"])
    record = make_record(written, digest, nbytes)
    with_tables(replace(index, shards=(record,), placed=False), tables).write(folder)


CASES = [
    "B01",
    "B02",
    "B05",
    "B06",
    "B07",
    "B10",
    "B15",
    "B16",
    "B17",
    "B19",
    "B22",
    "B23",
    "B26",
    "B27",
    "B28",
    "B30",
    "B47",
]


@pytest.mark.parametrize("name", CASES)
def test_found_is_cached_and_rejected_and_ignored(shared: Path, tmp_path: Path, name: str) -> None:
    output = done(shared / f"cases/{name}/data", "--out", tmp_path / "c", "--size", 64)
    match = re.search(r"found (\d+) = (\d+) cached \+ (\d+) rejected \+ (\d+) ignored", output)
    assert match
    found, cached, rejected, ignored = map(int, match.groups())
    assert found == cached + rejected + ignored
    with open_cache(tmp_path / "c") as cache:
        assert len(cache.manifest) == cached
    expect = json.loads((shared / "cases" / name / "expect.json").read_text())
    with open_cache(tmp_path / "c") as cache:
        assert set(expect.get("controls", [])) <= set(cache.manifest["id"])


@pytest.mark.parametrize("name", ["B16", "B17"])
def test_the_crop_keeps_the_retina(shared: Path, tmp_path: Path, name: str) -> None:
    done(shared / f"cases/{name}/data", "--out", tmp_path / "c", "--size", 128)
    with open_cache(tmp_path / "c") as cache:
        for row in cache.manifest.itertuples():
            side = 2 * row.radius if row.radius == row.radius else max(row.width, row.height)
            assert side >= min(row.width, row.height) / 2, row.id


def test_too_many_bad_photographs_stop_the_run(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    Image.new("RGB", (50, 50)).save(source / "good.jpeg")
    for n in range(101):
        (source / f"{n}.jpeg").write_bytes(b"")
    Image.new("RGB", (50, 50)).save(source / "50.jpeg")  # so that there are never 100 in a row
    (source / "101.jpeg").write_bytes(b"")
    result = preprocess(source, "--out", tmp_path / "c", "--size", 64)
    assert result.exit_code == 1
    assert "101 of 103 photographs are refused, more than --max-rejects allows" in result.output
    assert not (tmp_path / "c/cache.json").exists()
    assert preprocess(source, "--out", tmp_path / "c", "--size", 64, "--max-rejects", 1).exit_code == 0


@pytest.mark.parametrize(
    "bad", [["--size", "31"], ["--patient-pattern", "("], ["--patient-pattern", "x"], ["--gradable-column", "a"]]
)
def test_wrong_usage_exits_2(eyes: Path, tmp_path: Path, bad: list[str]) -> None:
    result = preprocess(eyes, "--out", tmp_path / "c", *bad)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_what_lacked_its_package_is_read_once_that_is_there(
    eyes: Path, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pi_heif")
    (eyes / "trainLabels.csv").unlink()
    shutil.copyfile(shared / "sets/files/c.heic", eyes / "c.heic")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pi_heif", None)
        said = done(eyes, "--out", tmp_path / "c", "--size", 64, "--max-rejects", 1)
        assert "found 13 = 12 cached + 1 rejected + 0 ignored" in said
    rejects = (tmp_path / "c/rejects.csv").read_text()
    assert "c.heic,HEIC: needs a package that is not here: pip install 'fundus-grading[heic]'" in rejects
    assert "found 13 = 13 cached + 0 rejected + 0 ignored" in done(eyes, "--out", tmp_path / "c", "--size", 64)
