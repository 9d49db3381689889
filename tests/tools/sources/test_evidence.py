"""Tables, folders and splits that agree, contradict each other, or can be read in two ways."""

import os
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest

from pipeline.errors import SourceError
from tools.sources.columns import ColumnOptions
from tools.sources.evidence import SourceOptions
from tools.sources.layouts import list_source
from tools.sources.listing import Listing
from tools.sources.scales import open_scale

Draw = Callable[..., None]


def grades(listing: Listing) -> dict[str, int]:
    return {sample.file.source: sample.grade for sample in listing.samples}


def splits(listing: Listing) -> dict[str, str]:
    return {sample.id: sample.split for sample in listing.samples}


# --- tables and folders


def test_a_table_that_names_every_photograph_wins_over_folders_and_what_contradicts_is_said(
    tmp_path: Path, draw: Draw
) -> None:
    for fold in range(5):
        draw(f"{fold}/{fold}_left.jpg")
    (tmp_path / "t.csv").write_text("image,level\n" + "".join(f"{fold}_left,{4 - fold}\n" for fold in range(5)))
    listing = list_source(tmp_path)
    assert grades(listing) == {f"{fold}/{fold}_left.jpg": 4 - fold for fold in range(5)}
    assert "4 of 5 photographs lie in a folder of another grade" in listing.notes[0]
    assert "0/0_left.jpg lies in folder 0, t.csv:2 says 4" in listing.notes[0]


def test_a_table_that_names_some_and_contradicts_stops_and_an_option_chooses(tmp_path: Path, draw: Draw) -> None:
    for grade in range(5):
        draw(f"{grade}/{grade}_left.jpg")
    (tmp_path / "t.csv").write_text("image,level\n0_left,3\n1_left,1\n")
    with pytest.raises(SourceError, match=r"names 2 of 5 .* 1 of them contradict.* choose with --layout tables or"):
        list_source(tmp_path)
    assert grades(list_source(tmp_path, SourceOptions(layout="folders"))) == {f"{n}/{n}_left.jpg": n for n in range(5)}
    by_table = list_source(tmp_path, SourceOptions(layout="tables"))
    assert grades(by_table) == {"0/0_left.jpg": 3, "1/1_left.jpg": 1}
    assert len(by_table.ignored) == 3


def test_a_table_that_names_some_and_agrees_is_joined_with_the_folders(tmp_path: Path, draw: Draw) -> None:
    for grade in range(5):
        draw(f"{grade}/{grade}_left.jpg")
    (tmp_path / "t.csv").write_text("image,level,patient_id\n0_left,0,P7\n")
    listing = list_source(tmp_path)
    assert grades(listing) == {f"{n}/{n}_left.jpg": n for n in range(5)}
    assert next(it.patient for it in listing.samples if it.id == "0_left") == "P7"


def test_digits_beside_a_table_of_another_disease_stop(tmp_path: Path, draw: Draw) -> None:
    rows = "challenge_id,class\n".replace("challenge_id", "id")
    for part in range(5):
        draw(f"{part}/TRAIN{part}.jpg")
        rows += f"TRAIN{part},{'RG' if part else 'NRG'}\n"
    (tmp_path / "train_labels.csv").write_text(rows)
    with pytest.raises(SourceError, match=r"train_labels\.csv, which names these photographs, has no grades of icdr"):
        list_source(tmp_path)
    ungraded = list_source(tmp_path, SourceOptions(layout="tables"))
    assert set(grades(ungraded).values()) == {-1}


def test_a_table_that_is_not_understood_is_named_with_its_columns_and_the_option(tmp_path: Path, draw: Draw) -> None:
    draw("1_left.jpg")
    (tmp_path / "t.csv").write_text("Foto,Stufe\n1_left,2\n")
    listing = list_source(tmp_path)
    (warning,) = listing.warnings
    assert "no photograph has a grade" in warning
    assert (
        "t.csv: no columns for photograph and grade (Foto, Stufe); --id-column and --grade-column name them" in warning
    )
    options = SourceOptions(columns=ColumnOptions({"photograph": "Foto", "grade": "Stufe"}))
    assert grades(list_source(tmp_path, options)) == {"1_left.jpg": 2}


def test_two_columns_that_may_both_be_the_grade(tmp_path: Path, draw: Draw) -> None:
    draw("1_left.jpg")
    draw("2_left.jpg")
    (tmp_path / "t.csv").write_text("image,level,diagnosis\n1_left,2,2\n2_left,1,3\n")
    with pytest.raises(SourceError, match=r"t\.csv:3: columns level \(1\) and diagnosis \(3\) may both be the grade"):
        list_source(tmp_path)
    options = SourceOptions(columns=ColumnOptions({"grade": "diagnosis"}))
    assert grades(list_source(tmp_path, options)) == {"1_left.jpg": 2, "2_left.jpg": 3}


def test_has_dr_or_has_not_is_no_grade(tmp_path: Path, draw: Draw) -> None:
    rows = "image,label\n"
    for number in range(32):
        draw(f"{number}.jpg")
        rows += f"{number},{number % 2}\n"
    (tmp_path / "t.csv").write_text(rows)
    with pytest.raises(SourceError, match="only 0 and 1: grades of ICDR, or 'has no DR, has DR'"):
        list_source(tmp_path)
    assert len(list_source(tmp_path, SourceOptions(columns=ColumnOptions({"grade": "label"}))).samples) == 32


# --- kinds of table


def test_a_clinics_excel_table(tmp_path: Path, draw: Draw) -> None:
    book = openpyxl.Workbook()
    book.active.append(["Diabetes clinic, eyes of 2024"])
    book.active.append([])
    book.active.append(["image_path", "patient_id", "eye", "visit", "dr_grade"])
    for number, (eye, grade) in enumerate([("OD", "Mild NPDR"), ("OS", "PDR"), ("OD", 0)]):
        draw(f"img/IMG{number}.jpg")
        book.active.append([f"img/IMG{number}.jpg", f"P{number // 2}", eye, "2024-01-01", grade])
    book.save(tmp_path / "labels.xlsx")
    listing = list_source(tmp_path, SourceOptions(columns=ColumnOptions(keep=("visit",))))
    assert [(it.grade, it.patient, it.eye, it.kept) for it in listing.samples] == [
        (1, "P0", "right", ("2024-01-01",)),
        (4, "P0", "left", ("2024-01-01",)),
        (0, "P1", "right", ("2024-01-01",)),
    ]


def test_metadata_of_hugging_face_in_each_splits_folder(tmp_path: Path, draw: Draw) -> None:
    for split in ("train", "test"):
        for number in range(3):
            draw(f"{split}/{number}.jpg")
        lines = [f'{{"file_name": "{number}.jpg", "label": {number}}}\n' for number in range(3)]
        (tmp_path / split / "metadata.jsonl").write_text("".join(lines))
    listing = list_source(tmp_path)
    assert sorted((it.file.source, it.grade, it.split) for it in listing.samples) == [
        (f"{split}/{number}.jpg", number, split) for split in ("test", "train") for number in range(3)
    ]


def test_a_grade_column_an_eye_and_one_hot_columns(tmp_path: Path, draw: Draw) -> None:
    for name in ("1_l1", "1_r1", "56_r3"):
        draw(f"{name}.jpg")
    text = "image_path,left_eye_DR_Level,right_eye_DR_Level\n\\x\\1_l1.jpg,2,4\n\\x\\1_r1.jpg,2,4\n\\x\\56_r3.jpg,1,\n"
    (tmp_path / "t.csv").write_text(text)
    assert grades(list_source(tmp_path)) == {"1_l1.jpg": 2, "1_r1.jpg": 4}  # an empty cell is no grade of the other eye
    (tmp_path / "t.csv").write_text(
        "image,No_DR,Mild,Moderate,Severe,PDR\n1_l1,0,0,1,0,0\n1_r1,1,0,0,0,0\n56_r3,1,1,0,0,0\n"
    )
    listing = list_source(tmp_path)
    assert grades(listing) == {"1_l1.jpg": 2, "1_r1.jpg": 0}
    assert listing.refused == [("56_r3.jpg", "t.csv:4: several grades are marked: [0, 1]")]


# --- scales


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("a,1\nb,2\nc,5\n", "the grades run from 1 to 5"),
        ("a,R0\nb,R1\nc,R3\n", "--scale scottish or --scale nhs"),
    ],
)
def test_a_foreign_scale_stops_and_is_never_shifted(tmp_path: Path, draw: Draw, rows: str, reason: str) -> None:
    for name in "abc":
        draw(f"{name}.jpg")
    (tmp_path / "t.csv").write_text(f"image,level\n{rows}")
    with pytest.raises(SourceError, match=reason):
        list_source(tmp_path)


def test_a_scale_is_named_and_then_read(tmp_path: Path, draw: Draw) -> None:
    for name in "abc":
        draw(f"{name}.jpg")
    (tmp_path / "t.csv").write_text("image,level\na,R0\nb,R3\nc,R6\n")
    listing = list_source(tmp_path, SourceOptions(scale=open_scale("scottish")))
    assert grades(listing) == {"a.jpg": 0, "b.jpg": 3, "c.jpg": -1}
    assert [sample.ungradable for sample in listing.samples] == [False, False, True]
    assert listing.scale.name == "scottish"


def test_messidor_is_known_by_its_department_and_needs_its_scale(tmp_path: Path, draw: Draw) -> None:
    draw("1.tif")
    (tmp_path / "t.csv").write_text("Image name,Ophthalmologic department,Retinopathy grade\n1.tif,X,3\n")
    with pytest.raises(SourceError, match="--scale messidor"):
        list_source(tmp_path)
    assert grades(list_source(tmp_path, SourceOptions(scale=open_scale("messidor")))) == {"1.tif": 3}
    (tmp_path / "t.csv").write_text("Image name,Retinopathy grade\n1.tif,3\n")  # IDRiD's
    assert grades(list_source(tmp_path)) == {"1.tif": 3}


# --- ungradable


def test_ungradable_is_an_answer_whatever_the_grade_beside_it(tmp_path: Path, draw: Draw) -> None:
    for name in "abcd":
        draw(f"{name}.jpg")
    (tmp_path / "t.csv").write_text("image_id,dr_grade,gradable\na,0,0\nb,,0\nc,2,1\nd,,1\n")
    listing = list_source(tmp_path)
    assert {it.id: (it.grade, it.ungradable) for it in listing.samples} == {
        "a": (-1, True),
        "b": (-1, True),
        "c": (2, False),
    }
    assert listing.refused == [("d.jpg", "t.csv:5: the grade is empty")]


def test_a_quality_code_of_unknown_direction_stops_and_asks(tmp_path: Path, draw: Draw) -> None:
    for name in "abc":
        draw(f"{name}.jpg")
    (tmp_path / "t.csv").write_text("image,level,quality\na,0,0\nb,1,1\nc,2,2\n")
    with pytest.raises(SourceError, match=r"which of 0, 1, 2 means it .*--gradable-column 'quality=0,\.\.\.'"):
        list_source(tmp_path)
    options = SourceOptions(columns=ColumnOptions({"gradable": "quality"}, frozenset({"0", "1"})))
    assert [it.ungradable for it in list_source(tmp_path, options).samples] == [False, False, True]


# --- splits


def test_a_column_of_splits_and_kaggles_usage(tmp_path: Path, draw: Draw) -> None:
    for name in ("1_left", "2_left", "3_left", "4_left"):
        draw(f"{name}.jpg")
    (tmp_path / "a.csv").write_text("image,level,split\n1_left,0,train\n2_left,1,valid\n3_left,2,test\n4_left,3,\n")
    listing = list_source(tmp_path)
    assert splits(listing) == {"1_left": "train", "2_left": "val", "3_left": "test", "4_left": ""}
    assert "1 photographs are in no split: the data set has splits, but not for them" in listing.notes
    (tmp_path / "a.csv").unlink()
    (tmp_path / "trainLabels.csv").write_text("image,level\n1_left,0\n2_left,1\n")
    (tmp_path / "solution.csv").write_text("image,level,Usage\n3_left,2,Public\n4_left,3,Private\n")
    assert splits(list_source(tmp_path)) == {"1_left": "train", "2_left": "train", "3_left": "test", "4_left": "test"}


def test_a_third_table_does_not_dissolve_the_splits_of_two(tmp_path: Path, draw: Draw) -> None:
    for number in range(4):
        draw(f"{number}_left.jpg")
    (tmp_path / "train.csv").write_text("image,level\n0_left,0\n1_left,1\n")
    (tmp_path / "test.csv").write_text("image,level\n2_left,2\n")
    (tmp_path / "all_labels.csv").write_text("image,level\n" + "".join(f"{n}_left,{n}\n" for n in range(4)))
    assert splits(list_source(tmp_path)) == {"0_left": "train", "1_left": "train", "2_left": "test", "3_left": ""}


def test_a_lone_train_is_no_split_and_a_folder_above_src_tells_none(tmp_path: Path, draw: Draw) -> None:
    for number in range(4):
        draw(f"test/train/{number}_left.jpg")
    (tmp_path / "test/trainLabels.csv").write_text("image,level\n" + "".join(f"{n}_left,{n}\n" for n in range(4)))
    assert set(splits(list_source(tmp_path / "test")).values()) == {""}


def test_folders_and_rows_of_other_splits_stop(tmp_path: Path, draw: Draw) -> None:
    draw("train/1_left.jpg")
    draw("test/2_left.jpg")
    (tmp_path / "t.csv").write_text("image,level,split\n1_left,0,test\n2_left,1,train\n")
    with pytest.raises(SourceError, match=r"2 photographs lie in a folder of another split .*--split FILE"):
        list_source(tmp_path)


def test_splits_of_a_table_that_the_user_names(tmp_path: Path, draw: Draw) -> None:
    for number in range(3):
        draw(f"eyes/{number}_left.jpg")
    (tmp_path / "eyes/t.csv").write_text("image,level\n0_left,0\n1_left,1\n2_left,2\n")
    mine = tmp_path / "mine.csv"
    mine.write_text("image,split\n0_left,train\n1_left,test\n9_left,test\n")
    listing = list_source(tmp_path / "eyes", SourceOptions(split_table=mine))
    assert splits(listing) == {"0_left": "train", "1_left": "test", "2_left": ""}
    mine.write_text("image,split\n0_left,trian\n")
    with pytest.raises(SourceError, match=r"mine\.csv:2: no split, which is train, val or test"):
        list_source(tmp_path / "eyes", SourceOptions(split_table=mine))
    mine.write_text("image,side\n0_left,train\n")
    with pytest.raises(SourceError, match="no columns for photograph and split"):
        list_source(tmp_path / "eyes", SourceOptions(split_table=mine))


# --- links


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_a_hugging_face_cache_consists_of_links_out_of_src(tmp_path: Path, draw: Draw) -> None:
    snapshot = tmp_path / "snapshots/abc"
    (snapshot / "train").mkdir(parents=True)
    for number in range(3):
        draw(f"blobs/{number}.jpg", number)
        (tmp_path / f"blobs/{number}.jpg").rename(tmp_path / f"blobs/{number}")
        (snapshot / f"train/{number}_left.jpg").symlink_to(f"../../../blobs/{number}")
    (tmp_path / "blobs/t").write_text("image,level\n0_left,0\n1_left,1\n2_left,2\n")
    (snapshot / "trainLabels.csv").symlink_to("../../blobs/t")
    with pytest.raises(SourceError, match="--follow-links"):
        list_source(snapshot)
    listing = list_source(snapshot, SourceOptions(follow_links=True))
    assert sorted(grades(listing).values()) == [0, 1, 2]
    (snapshot / "loop").symlink_to(".")
    assert len(list_source(snapshot, SourceOptions(follow_links=True)).samples) == 3


def test_a_column_that_no_table_has_is_said(tmp_path: Path, draw: Draw) -> None:
    draw("1_left.jpg")
    (tmp_path / "t.csv").write_text("image,level\n1_left,0\n")
    for options in (ColumnOptions({"patient": "Fall"}), ColumnOptions(keep=("Fall",))):
        with pytest.raises(SourceError, match=r"t\.csv:1: no column 'Fall' among image, level"):
            list_source(tmp_path, SourceOptions(columns=options))
