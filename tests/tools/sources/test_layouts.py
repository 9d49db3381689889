"""Layouts people have on disk: what is recognised, and that every photograph and row is accounted for."""

import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import SourceError
from tools.sources.archives import read_source
from tools.sources.columns import ColumnOptions
from tools.sources.evidence import SourceOptions
from tools.sources.layouts import list_source
from tools.sources.listing import Listing


def draw(path: Path, value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((48, 48, 3), value, np.uint8)).save(path, "JPEG")


def grades(listing: Listing) -> dict[str, int]:
    return {sample.id: sample.grade for sample in listing.samples}


def splits(listing: Listing) -> dict[str, str]:
    return {sample.id: sample.split for sample in listing.samples}


def test_kaggle(tmp_path: Path) -> None:
    for name in ("1_left", "1_right", "2_left"):
        draw(tmp_path / f"train/{name}.jpeg")
    (tmp_path / "trainLabels.csv").write_text("image,level\n1_left,0\n1_right,2\n2_left,4\n")
    (tmp_path / "sampleSubmission.csv").write_text("image,level\n1_left,3\n")
    listing = list_source(tmp_path)
    assert listing.layout == "table trainLabels.csv (columns image, level)"
    assert grades(listing) == {"1_left": 0, "1_right": 2, "2_left": 4}
    assert listing.found == 3


def test_the_courses_four_tables_in_src_or_beside_it(tmp_path: Path) -> None:
    for name in ("1_left", "1_right", "2_left"):
        draw(tmp_path / f"photos/{name}.jpeg")
    tables = {
        "train_img": "1_left\n2_left\n9_left\n",
        "train_label": "0\n3\n1\n",
        "test_img": "1_right\n",
        "test_label": "4\n",
    }
    for name, text in tables.items():
        (tmp_path / f"{name}.csv").write_text(text)
    for src in (tmp_path, tmp_path / "photos"):
        listing = list_source(src)
        assert "four tables without header" in listing.layout
        assert grades(listing) == {"1_left": 0, "1_right": 4, "2_left": 3}
        assert splits(listing) == {"1_left": "train", "1_right": "test", "2_left": "train"}
        assert [row.source for row in listing.rows] == ["train_img.csv:3, train_label.csv:3"]


def test_the_courses_tables_must_pair_up(tmp_path: Path) -> None:
    draw(tmp_path / "1_left.jpeg")
    for name, text in {"train_img": "1_left\n2_left\n", "train_label": "0\n", "test_img": "", "test_label": ""}.items():
        (tmp_path / f"{name}.csv").write_text(text)
    with pytest.raises(SourceError, match=r"train_img.csv has 2 rows, .*train_label.csv has 1"):
        list_source(tmp_path)


def test_two_tables_named_after_their_splits(tmp_path: Path) -> None:
    for name in ("IDRiD_001", "IDRiD_002"):
        draw(tmp_path / f"1. Images/{name}.jpg")
    tables = tmp_path / "2. Groundtruths"
    tables.mkdir()
    header = "Image name,Retinopathy grade,Risk of macular edema ,\n"
    (tables / "a. IDRiD_Disease Grading_Training Labels.csv").write_text(f"{header}IDRiD_001,3,1,\n")
    (tables / "b. IDRiD_Disease Grading_Testing Labels.csv").write_text(f"{header}IDRiD_002,0,0,\n")
    assert splits(list_source(tmp_path)) == {"IDRiD_001": "train", "IDRiD_002": "test"}


def test_a_folder_per_grade_where_one_is_missing(shared: Path) -> None:
    listing = list_source(shared / "cases/B47/data")
    by_source = {sample.file.source: (sample.grade, sample.split) for sample in listing.samples}
    assert by_source["train/4/510_left.jpeg"] == (4, "train")
    assert by_source["val/4/510_left.jpeg"] == (4, "val")
    assert {it.split for it in listing.samples if it.file.source.startswith("val_single/")} == {""}
    assert listing.found == len(listing.samples) == 24


def test_a_folder_per_grade_without_splits(tmp_path: Path) -> None:
    for grade in (0, 4):
        draw(tmp_path / f"photos/{grade}/{grade}7_left.JPG")
    listing = list_source(tmp_path)
    assert grades(listing) == {"07_left": 0, "47_left": 4}
    assert set(splits(listing).values()) == {""}


def test_medmnist(shared: Path) -> None:
    listing = list_source(shared / "data/retinamnist")
    assert len(listing.samples) == 1080 + 120 + 400
    by_id = {sample.id: sample for sample in listing.samples}
    with np.load(shared / "data/retinamnist/retinamnist.npz") as arrays:
        for split, n in (("train", 0), ("val", 119), ("test", 399)):
            sample = by_id[f"{split}_{n}"]
            assert (sample.grade, sample.split) == (int(arrays[f"{split}_labels"][n, 0]), split)
            picture = Image.open(io.BytesIO(read_source(listing.root, sample.file.source)))
            assert np.array_equal(np.asarray(picture), arrays[f"{split}_images"][n])


def test_a_bare_folder_has_no_grades(tmp_path: Path) -> None:
    draw(tmp_path / "a/x.jpeg")
    draw(tmp_path / "b/x.jpeg", 120)
    listing = list_source(tmp_path)
    assert grades(listing) == {"a/x": -1, "b/x": -1}
    assert "without grades" in listing.layout


def test_a_table_named_by_the_user(tmp_path: Path) -> None:
    draw(tmp_path / "photos/1.jpeg")
    (tmp_path / "my.csv").write_text("Eye;Reader A;Reader B\n1.jpeg;2;3\n")
    listing = list_source(
        tmp_path / "photos",
        SourceOptions(tmp_path / "my.csv", ColumnOptions({"photograph": "Eye", "grade": "Reader B"})),
    )
    assert grades(listing) == {"1": 3}
    with pytest.raises(SourceError, match="--id-column and --grade-column name them"):
        list_source(tmp_path / "photos", SourceOptions(tmp_path / "my.csv"))


def test_rows_and_photographs_without_partner_are_named(shared: Path) -> None:
    listing = list_source(shared / "cases/B22/data")
    assert len(listing.samples) == 6
    assert [row.reason for row in listing.rows] == ["'700_left' has no photograph", "'701_right' has no photograph"]
    assert [it.source for it in listing.ignored] == ["train/800_left.jpeg", "train/801_right.jpeg"]


def test_what_is_no_grade_is_refused_with_file_line_and_value(shared: Path) -> None:
    listing = list_source(shared / "cases/B23/data")
    assert grades(listing) == {"230_right": 0, "231_left": 1, "232_right": 2, "233_left": 3, "234_right": 4,
                               "bad02": 2, "bad05": 2, "bad07": 3}  # fmt: skip
    reasons = {it.source: it.reason for it in listing.refused}
    assert len(reasons) == 10
    assert reasons["train/bad00.jpeg"] == "trainLabels.csv:7: grade '5' is not in 0..4"
    assert reasons["train/bad03.jpeg"] == "trainLabels.csv:10: the grade is empty"


def test_ids_that_look_like_numbers_dates_or_nothing(shared: Path) -> None:
    listing = list_source(shared / "cases/B19/data")
    assert len(listing.samples) == 16
    assert not listing.rows
    assert {"000123", "1e5", "nan", "NA", "None", "007.0", "-5", "1,5"} <= grades(listing).keys()


def test_no_name_leads_out_of_src(shared: Path) -> None:
    listing = list_source(shared / "cases/B26/data")
    assert grades(listing).keys() == {"260_right", "261_left", "262_right", "linkout"}  # linkout: text, refused later
    assert len(listing.rows) == 4
    assert all("leads out" in row.reason or "another computer" in row.reason for row in listing.rows)


def test_links_that_leave_src_are_refused_and_those_inside_followed(tmp_path: Path) -> None:
    draw(tmp_path / "outside/secret.jpeg")
    draw(tmp_path / "src/1_left.jpeg")
    (tmp_path / "src/out.jpeg").symlink_to(tmp_path / "outside/secret.jpeg")
    (tmp_path / "src/folder").symlink_to(tmp_path / "outside")
    (tmp_path / "src/again.jpeg").symlink_to("1_left.jpeg")
    (tmp_path / "src/loop.jpeg").symlink_to("loop.jpeg")
    os.mkfifo(tmp_path / "src/fifo.jpeg")
    listing = list_source(tmp_path / "src")
    assert grades(listing).keys() == {"1_left", "again"}
    assert {it.source for it in listing.refused} == {"out.jpeg", "folder", "loop.jpeg", "fifo.jpeg"}


def test_what_systems_and_browsers_leave_behind_is_no_photograph(shared: Path) -> None:
    listing = list_source(shared / "cases/B27/data")
    assert grades(listing).keys() == {"270_right", "271_left", "272_right"}
    assert listing.found == 3


def test_suffixes_of_any_case_and_content_without_suffix(shared: Path, tmp_path: Path) -> None:
    assert list_source(shared / "cases/B28/data").found == 6
    draw(tmp_path / "1.2.840.113")
    (tmp_path / "readme.txt").write_text("no photograph")
    assert grades(list_source(tmp_path)).keys() == {"1.2.840"} or grades(list_source(tmp_path)).keys() == {
        "1.2.840.113"
    }


def test_of_files_of_one_stem_the_usual_suffix_is_taken_and_the_others_are_named(shared: Path) -> None:
    listing = list_source(shared / "cases/B30/data")
    assert grades(listing) == {"10_left": 0, "a/20_left": 3, "b/20_left": 4, "Case": 0, "case": 1}
    assert next(it.file.source for it in listing.samples if it.id == "10_left") == "train/10_left.jpeg"  # as most are
    assert {it.source for it in listing.ignored} == {"train/10_left.jpg", "train/10_left.png"}


def test_a_name_that_fits_two_folders_is_refused_and_names_both(tmp_path: Path) -> None:
    for folder, value in (("a", 90), ("b", 120)):
        draw(tmp_path / f"{folder}/20_left.jpeg", value)
    draw(tmp_path / "1_left.jpeg")
    (tmp_path / "t.csv").write_text("image,level\n20_left,3\n1_left,0\n")
    (row,) = list_source(tmp_path).rows
    assert "a/20_left.jpeg, b/20_left.jpeg" in row.reason


def test_doubled_rows_count_once_and_contradicting_rows_not_at_all(tmp_path: Path) -> None:
    draw(tmp_path / "1_left.jpeg")
    draw(tmp_path / "2_left.jpeg")
    (tmp_path / "t.csv").write_text("image,level\n1_left,3\n2_left,0\n1_left.jpeg,3\n2_left,1\n")
    listing = list_source(tmp_path)
    assert grades(listing) == {"1_left": 3}
    assert listing.row_notes == ["t.csv:2 and t.csv:4: the same row 2 times, used once"]
    assert listing.refused[0].reason == "t.csv:3 and t.csv:5 contradict each other: 0, 1"


@pytest.mark.parametrize(
    ("folder", "complaint"),
    [
        ("data", "a header and no rows"),
        ("data_headeronly", "a header and no rows"),
        ("data_noimages", "no photographs below it (looked for .avif .bmp"),
        ("data_missing", "no such folder"),
    ],
)
def test_nothing_to_do_is_said_in_one_line(shared: Path, folder: str, complaint: str) -> None:
    with pytest.raises(SourceError, match=re.escape(complaint)) as caught:
        list_source(shared / "cases/B33" / folder)
    assert "\n" not in caught.value.message


def test_a_cache_inside_src_is_not_taken_for_photographs(tmp_path: Path) -> None:
    draw(tmp_path / "1_left.jpeg")
    draw(tmp_path / "cache/shards/x.jpeg")
    (tmp_path / "cache/cache.json").write_text("{}")
    assert list_source(tmp_path).found == 1
