"""`tools preprocess` end to end: every file is accounted for, and nothing is replaced without a word."""

import csv
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageEnhance

from pipeline.cache.cache import open_cache
from pipeline.cache.folder import verify_files
from tests.tools.sources.conftest import drawn_eye
from tools.cli import main

ROWS = "image,level,patient_id,camera\n"


def preprocess(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["preprocess", *map(str, arguments), "--size", "64"], catch_exceptions=False)


def done(*arguments: object) -> str:
    result = preprocess(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object) -> str:
    """The one line of a known failure."""
    result = preprocess(*arguments)
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return line


def rejects(cache: Path) -> dict[str, str]:
    with open(cache / "rejects.csv", newline="") as file:
        return {row["source"]: row["reason"] for row in csv.DictReader(file)}


@pytest.fixture
def eyes(tmp_path: Path) -> Path:
    """Twenty photographs of ten patients whose names tell nothing; a table with patients and cameras beside them."""
    src, rows = tmp_path / "src", ROWS
    src.mkdir()
    for number in range(20):
        drawn_eye(number).save(src / f"IMG{number:03}.jpg", quality=92)
        rows += f"IMG{number:03},{number % 5},P{number // 2},{'Canon' if number % 4 else 'Topcon'}\n"
    (src / "labels.csv").write_text(rows)
    return src


def test_patients_of_a_column_stay_on_one_side(eyes: Path, tmp_path: Path) -> None:
    output = done(eyes, "--out", tmp_path / "c")
    assert "leak: none, no patient of the" in output
    with open_cache(tmp_path / "c") as cache:
        table = cache.manifest
        assert table.groupby("patient")["split"].nunique().max() == 1
        assert table["patient"].nunique() == 10


def test_what_is_ignored_and_refused_stands_in_rejects(eyes: Path, tmp_path: Path) -> None:
    drawn_eye(99).save(eyes / "extra.png")
    (eyes / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (eyes / "notes.docx").write_bytes(b"x")
    text = (eyes / "labels.csv").read_text().replace("IMG003,3", "IMG003,9") + "broken,1,P99,\nmissing,2,P98,\n"
    (eyes / "labels.csv").write_text(text)
    output = done(eyes, "--out", tmp_path / "c")
    assert "found 22 = 19 cached + 2 rejected + 1 ignored" in output
    assert "notes.docx: neither a photograph nor a table" in output
    reasons = rejects(tmp_path / "c")
    assert reasons["extra.png"] == "ignored: no row names it"
    assert reasons["IMG003.jpg"] == "not used: labels.csv:5: grade '9' is not in 0..4"
    assert "broken.jpg" in reasons
    assert reasons["labels.csv:23"] == "'missing' has no photograph"


def test_a_photograph_refused_for_its_row_is_taken_once_the_row_is_mended(eyes: Path, tmp_path: Path) -> None:
    right = (eyes / "labels.csv").read_text()
    (eyes / "labels.csv").write_text(right.replace("IMG003,3", "IMG003,9"))
    drawn_eye(99).save(eyes / "extra.png")
    for path in eyes.iterdir():
        os.utime(path, ns=(10**18, 10**18))
    assert "19 cached + 1 rejected + 1 ignored" in done(eyes, "--out", tmp_path / "c")
    (eyes / "labels.csv").write_text(right + "extra,0,P50,\n")
    assert "found 21 = 21 cached + 0 rejected + 0 ignored" in done(eyes, "--out", tmp_path / "c")


def test_ungradable_photographs_are_cached_flagged_and_in_no_split(eyes: Path, tmp_path: Path) -> None:
    rows = (eyes / "labels.csv").read_text().splitlines()
    marked = [f"{row},{'gradable' if not n else int(n > 3)}" for n, row in enumerate(rows)]
    (eyes / "labels.csv").write_text("\n".join(marked) + "\n")
    output = done(eyes, "--out", tmp_path / "c")
    assert "flagged ungradable: 3" in output
    with open_cache(tmp_path / "c") as cache:
        table = cache.manifest.set_index("id")
        assert table["flags"].str.contains("ungradable").sum() == 3
        assert (table.loc[["IMG000", "IMG001", "IMG002"], "split"] == "").all()
        assert (table.loc[["IMG000", "IMG001", "IMG002"], "grade"] == -1).all()
    (eyes / "labels.csv").write_text("\n".join(rows) + "\n")
    assert "flagged ungradable" not in done(eyes, "--out", tmp_path / "c")


def test_kept_columns_stand_in_attributes(eyes: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    done(eyes, "--out", out, "--keep-column", "camera")
    with open(out / "attributes.csv", newline="") as file:
        kept = {row["id"]: row["camera"] for row in csv.DictReader(file)}
    assert kept == {f"IMG{n:03}": "Canon" if n % 4 else "Topcon" for n in range(20)}
    with open_cache(out) as cache:
        assert not verify_files(out, cache.index)
    (out / "attributes.csv").write_text("id,camera\n")
    with open_cache(out) as cache:
        assert verify_files(out, cache.index) == ["attributes.csv: damaged"]
    done(eyes, "--out", out, "--keep-column", "camera")
    done(eyes, "--out", tmp_path / "fresh", "--keep-column", "camera")
    assert (out / "attributes.csv").read_bytes() == (tmp_path / "fresh/attributes.csv").read_bytes()
    done(eyes, "--out", out)
    assert not (out / "attributes.csv").exists()


def test_labels_that_are_forgotten_do_not_cost_the_grades(eyes: Path, tmp_path: Path) -> None:
    (eyes / "labels.csv").rename(tmp_path / "labels.csv")
    out = tmp_path / "c"
    done(eyes, "--out", out, "--labels", tmp_path / "labels.csv")
    before = (out / "cache.json").read_bytes()
    line = refused(eyes, "--out", out)
    assert "has grades of 20 photographs, and now no photograph has one" in line
    assert "--labels labels.csv" in line
    assert (out / "cache.json").read_bytes() == before


def test_another_data_sets_cache_is_not_replaced(eyes: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "c", tmp_path / "other"
    done(eyes, "--out", out)
    other.mkdir()
    for number in range(3):
        drawn_eye(50 + number).save(other / f"{number}_left.jpg")
    (other / "t.csv").write_text("image,level\n0_left,0\n1_left,1\n2_left,2\n")
    assert "is the cache of another data set" in refused(other, "--out", out)
    shutil.rmtree(out)
    done(other, "--out", out)


def test_no_cache_inside_a_cache(eyes: Path, tmp_path: Path) -> None:
    done(eyes, "--out", tmp_path / "c")
    assert "cache" in refused(eyes, "--out", tmp_path / "c" / "inner")
    assert not (tmp_path / "c" / "inner").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_whole_set_as_one_split(eyes: Path, tmp_path: Path, split: str) -> None:
    done(eyes, "--out", tmp_path / "c", "--split", split)
    with open_cache(tmp_path / "c") as cache:
        assert set(cache.manifest["split"]) == {split}
        assert cache.index.split == split


def test_splits_of_a_table(eyes: Path, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("image,split\n" + "".join(f"IMG{n:03},{'train' if n < 14 else 'test'}\n" for n in range(20)))
    done(eyes, "--out", tmp_path / "c", "--split", table)
    with open_cache(tmp_path / "c") as cache:
        told = dict(zip(cache.manifest["id"], cache.manifest["split"], strict=True))
    assert {told[f"IMG{n:03}"] for n in range(14, 20)} == {"test"}
    assert {told[f"IMG{n:03}"] for n in range(14)} == {"train", "val"}  # val is drawn by patient


def test_copies_across_splits_are_said_whatever_the_names_tell(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for split, numbers in (("train", range(8)), ("test", range(100, 104))):
        for grade in "012":
            (src / split / grade).mkdir(parents=True)
        for number in numbers:
            drawn_eye(number, (256, 192)).save(src / split / str(number % 3) / f"{number}_left.jpg", quality=92)
    copied = ImageEnhance.Brightness(drawn_eye(3, (256, 192))).enhance(1.15).resize((200, 150))
    copied.save(src / "test/1/777_left.jpg", quality=85)
    mirrored = drawn_eye(4, (256, 192)).transpose(0)  # left to right
    mirrored.save(src / "test/0/778_left.jpg", quality=85)
    output = done(src, "--out", tmp_path / "c")
    assert "COPIES: 2 of 6 test photographs (33%) look like a photograph of train or val" in output
    assert "777_left = 3_left, correlation 0.9" in output
    assert "778_left = 4_left, correlation 0.9" in output
    assert "leak: none" not in output
    assert "COPIES: 2 of 6" in done(src, "--out", tmp_path / "c")  # nothing to build, still said
    with open_cache(tmp_path / "c") as cache:
        assert cache.index.copies == cache.leak("test").copies == 2


def test_a_pattern_without_an_eye_tells_patients_too(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for number in range(12):
        folder = src / ("train" if number < 8 else "test") / str(number % 5)
        folder.mkdir(parents=True, exist_ok=True)
        drawn_eye(number).save(folder / f"P{number % 6}_{number}.jpg")
    output = done(src, "--out", tmp_path / "c", "--patient-pattern", r"(P\d+)_")
    assert "LEAK: 4 of 4 test photographs (100%) show a patient who is also in train" in output


def test_the_options_that_mattered_are_kept_in_the_cache(eyes: Path, tmp_path: Path) -> None:
    options = ["--patient-column", "patient_id", "--keep-column", "camera", "--split", "patient"]
    done(eyes, "--out", tmp_path / "c", *options)
    with open_cache(tmp_path / "c") as cache:
        assert list(cache.index.options) == options


def test_a_scale_is_kept_in_the_cache(eyes: Path, tmp_path: Path) -> None:
    (eyes / "labels.csv").write_text("image,level\n" + "".join(f"IMG{n:03},R{n % 4}\n" for n in range(20)))
    assert "--scale scottish or --scale nhs" in refused(eyes, "--out", tmp_path / "c")
    output = done(eyes, "--out", tmp_path / "c", "--scale", "nhs")
    assert "scale: nhs, English NHS Diabetic Eye Screening Programme" in output
    with open_cache(tmp_path / "c") as cache:
        assert (cache.index.scale, cache.index.exact) == ("nhs", False)
        assert set(cache.manifest["grade"]) == {0, 1, 2, 4}


def test_where_copies_are_not_looked_for_it_is_said(
    eyes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.preprocessing.preprocess.MAX_COMPARED", 10)
    assert "copies across splits were not searched for: 20 photographs are too many" in done(
        eyes, "--out", tmp_path / "c"
    )


def test_photographs_smaller_than_the_cached_ones_are_counted(eyes: Path, tmp_path: Path) -> None:
    with Image.open(next(eyes.rglob("*.jpg"))) as photo:
        width, height = photo.size
    sides = max(width, height)
    enlarged = f"enlarged: 20 of 20 photographs are smaller than {sides + 1} x {sides + 1} pixels. That adds no detail"
    for size, said in ((sides, False), (sides + 1, True)):
        arguments = ["preprocess", str(eyes), "--out", str(tmp_path / str(size)), "--size", str(size)]
        result = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert (enlarged in result.output, "enlarged" in result.output) == (said, said)
