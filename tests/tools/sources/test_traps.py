"""Sets that would be read wrongly at first sight: what is right, or what is asked."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openpyxl
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from pipeline.errors import SourceError
from tests.tools.sources.conftest import drawn_eye, encoded
from tools.sources.columns import ColumnOptions
from tools.sources.evidence import SourceOptions
from tools.sources.layouts import list_source
from tools.sources.listing import Listing
from tools.sources.scales import open_scale

Draw = Callable[..., None]


def grades(listing: Listing) -> dict[str, int]:
    return {sample.file.source: sample.grade for sample in listing.samples}


def patients(listing: Listing) -> dict[str, str]:
    return {sample.file.source: sample.patient for sample in listing.samples}


@pytest.mark.parametrize("folders", [("1", "2", "3"), ("0", "1", "2", "3", "4")])
def test_digits_beside_a_table_whose_grades_are_not_understood_stop(
    tmp_path: Path, draw: Draw, folders: tuple[str, ...]
) -> None:
    rows = "Datei;Stadium\n"
    for number in range(10):
        draw(f"{folders[number % len(folders)]}/{number}_left.jpg")
        rows += f"{number}_left.jpg;{number % 4}\n"
    (tmp_path / "befunde.csv").write_text(rows)
    with pytest.raises(SourceError, match=r"befunde\.csv, which names these photographs"):
        list_source(tmp_path)


def test_folders_of_all_five_grades_beside_a_table_of_ages_are_grades(tmp_path: Path, draw: Draw) -> None:
    rows = "image,patient_id,age\n"
    for number in range(15):
        draw(f"{number % 5}/{number}.jpg")
        rows += f"{number}.jpg,P{number // 3},{50 + number}\n"
    (tmp_path / "people.csv").write_text(rows)
    listing = list_source(tmp_path)
    assert grades(listing) == {f"{number % 5}/{number}.jpg": number % 5 for number in range(15)}
    assert len(set(patients(listing).values())) == 5  # the second table tells patients


def test_patients_in_a_second_table(tmp_path: Path, draw: Draw) -> None:
    for number in range(4):
        draw(f"{number}.jpg")
    (tmp_path / "train.csv").write_text("image,level\n" + "".join(f"{n}.jpg,{n}\n" for n in range(4)))
    (tmp_path / "metadata.csv").write_text("image,patient_id,eye\n0.jpg,A,L\n1.jpg,A,R\n2.jpg,B,L\n3.jpg,B,R\n")
    listing = list_source(tmp_path)
    assert [(it.grade, it.patient, it.eye) for it in listing.samples] == [
        (0, "A", "left"),
        (1, "A", "right"),
        (2, "B", "left"),
        (3, "B", "right"),
    ]
    assert not listing.row_notes


def test_one_row_never_grades_two_photographs(tmp_path: Path, draw: Draw) -> None:
    for source in ("train/001.jpg", "train/002.jpg", "test/001.jpg"):
        draw(source)
    (tmp_path / "labels.csv").write_text("image,grade\n001.jpg,3\n002.jpg,0\n")
    listing = list_source(tmp_path)
    assert grades(listing) == {"train/002.jpg": 0}
    assert "fits photographs in several folders" in listing.rows[0].reason


@pytest.mark.parametrize("row", ['a1,"unclear 3,3\na2,x,1\na3,"again,4\n', 'a1,"unclear,3\na2,x,1\na3,x,2\n'])
def test_a_quote_that_is_not_closed_stops_with_its_line(tmp_path: Path, draw: Draw, row: str) -> None:
    for name in ("a0", "a1", "a2", "a3"):
        draw(f"{name}.jpg")
    (tmp_path / "labels.csv").write_text(f"image,comment,grade\na0,x,0\n{row}")
    with pytest.raises(SourceError, match=r"labels\.csv:3: a quote is opened and not closed"):
        list_source(tmp_path)


def test_an_unrelated_text_stops_nothing(tmp_path: Path, draw: Draw) -> None:
    draw("1_left.jpg")
    (tmp_path / "labels.csv").write_text("image,grade\n1_left,3\n")
    (tmp_path / "notes.txt").write_text('"' + "a long story\n" * 20_000)
    assert grades(list_source(tmp_path)) == {"1_left.jpg": 3}


def test_a_comment_cell_of_several_lines_is_one_cell(tmp_path: Path, draw: Draw) -> None:
    draw("1_left.jpg")
    draw("2_left.jpg")
    (tmp_path / "labels.csv").write_text('image,comment,grade\n1_left,"soft\nexudates",3\n2_left,,1\n')
    assert grades(list_source(tmp_path)) == {"1_left.jpg": 3, "2_left.jpg": 1}


def test_an_empty_cell_is_not_filled_from_the_other_eyes_column(tmp_path: Path, draw: Draw) -> None:
    for name in ("P1_L", "P1_R"):
        draw(f"{name}.jpg")
    (tmp_path / "t.csv").write_text("image,left_grade,right_grade\nP1_L.jpg,1,\nP1_R.jpg,1,\n")
    listing = list_source(tmp_path)
    assert grades(listing) == {"P1_L.jpg": 1}
    assert listing.refused == [("P1_R.jpg", "t.csv:3: the grade is empty")]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("image_id,filename,grade\n1,2.jpg,0\n2,1.jpg,1\n", r"image_id \(1\) and filename \(2\.jpg\) may both name"),
        ("image,grade,Grade\n1,0,1\n2,1,1\n", r"two columns are called grade, and one says '0', the other '1'"),
        ("image,stage\n", "Stage"),
    ],
)
def test_two_columns_that_contradict_each_other_stop(tmp_path: Path, draw: Draw, table: str, said: str) -> None:
    for number in range(1, 6):
        draw(f"{number}.jpg")
    if table.endswith("stage\n"):
        table = "image,grade\n" + "".join(f"{n},Stage {n}\n" for n in range(1, 6))
        said = "the grades run from 1 to 5"
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(SourceError, match=said):
        list_source(tmp_path)


def test_grades_1_to_4_without_0_are_asked_about(tmp_path: Path, draw: Draw) -> None:
    for number in range(32):
        draw(f"{number}.jpg", number)
    (tmp_path / "t.csv").write_text("image,grade\n" + "".join(f"{n},{n % 4 + 1}\n" for n in range(32)))
    with pytest.raises(SourceError, match="--scale icdr"):
        list_source(tmp_path)
    assert set(grades(list_source(tmp_path, SourceOptions(scale=open_scale("icdr")))).values()) == {1, 2, 3, 4}


def test_folders_0_and_1_may_mean_has_dr(tmp_path: Path, draw: Draw) -> None:
    for number in range(4):
        draw(f"{number % 2}/{number}.jpg")
    with pytest.raises(SourceError, match="'has no DR, has DR'"):
        list_source(tmp_path)
    assert set(grades(list_source(tmp_path, SourceOptions(layout="folders"))).values()) == {0, 1}


@pytest.mark.parametrize("column", ["quality", "adjudicated_gradable", "ungradable"])
def test_numbers_with_a_point_mean_the_same(tmp_path: Path, draw: Draw, column: str) -> None:
    for name in "abc":
        draw(f"{name}.jpg")
    cells = ("0.0", "0.0", "1.0") if column == "ungradable" else ("1.0", "1.0", "0.0")
    rows = "".join(f"{name},{n},{cell}\n" for n, (name, cell) in enumerate(zip("abc", cells, strict=True)))
    (tmp_path / "t.csv").write_text(f"image,grade,{column}\n{rows}")
    options = ColumnOptions({"gradable": "quality"}, frozenset({"1"})) if column == "quality" else ColumnOptions()
    listing = list_source(tmp_path, SourceOptions(columns=options))
    assert [sample.ungradable for sample in listing.samples] == [False, False, True]
    if column == "quality":
        with pytest.raises(SourceError, match="no cell of column quality says good"):
            list_source(tmp_path, SourceOptions(columns=ColumnOptions({"gradable": "quality"}, frozenset({"good"}))))


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("P0_2019_OD", "P0_2021_OS", "P1_2019_OD"), ["P0", "P0", "P1"]),
        (("P0_visit1_left", "P0_visit2_left", "P1_visit1_left"), ["P0", "P0", "P1"]),
        (("P_2019_OD", "P_2021_OS"), ["P", "P"]),
        (("A_1999_OD", "B_2000_OD"), ["A_1999", "B_2000"]),  # nobody comes twice: the year may be part of the name
    ],
)
def test_a_patient_who_comes_twice_is_one(
    tmp_path: Path, draw: Draw, names: tuple[str, ...], wanted: list[str]
) -> None:
    for name in names:
        draw(f"{name}.jpg")
    assert sorted(patients(list_source(tmp_path)).values()) == sorted(wanted)


def test_folders_of_patients_visits_and_eyes(tmp_path: Path, draw: Draw) -> None:
    for patient in range(3):
        for visit in (1, 2):
            draw(f"a/P{patient}/visit{visit}_left.jpg")
        for eye in ("OD", "OS"):
            draw(f"b/P{patient}/{eye}/1.jpg")
    assert set(patients(list_source(tmp_path / "a")).values()) == {"P0", "P1", "P2"}
    found = list_source(tmp_path / "b").samples
    assert {(it.patient, it.eye) for it in found} == {(f"P{n}", eye) for n in range(3) for eye in ("left", "right")}
    by_pattern = list_source(tmp_path / "b", SourceOptions(patient_pattern=r"(P\d)"))
    assert set(patients(by_pattern).values()) == {"P0", "P1", "P2"}


def test_a_way_to_name_patients_that_makes_one_of_all_is_not_believed(tmp_path: Path, draw: Draw) -> None:
    for number in range(10):
        draw(f"IMG_left_{number:03}.jpg")
    listing = list_source(tmp_path)
    assert set(patients(listing).values()) == {""}
    assert "not believed; --patient-pattern" in "\n".join(listing.notes)


def test_cells_of_patients_as_programs_write_them(tmp_path: Path, draw: Draw) -> None:
    cells = ("1.0", "1", "P3", "p3", "unknown", "n/a", "")
    for number in range(len(cells)):
        draw(f"IMG{number}.jpg")
    rows = "".join(f"IMG{n},{n % 5},{cell}\n" for n, cell in enumerate(cells))
    (tmp_path / "t.csv").write_text(f"image,grade,patient\n{rows}")
    listing = list_source(tmp_path)
    assert list(patients(listing).values()) == ["1", "1", "P3", "P3", "", "", ""]
    assert "the column of patients is empty for 3 photographs" in "\n".join(listing.notes)


def test_a_blank_patient_is_filled_by_the_name_where_names_say_the_same(tmp_path: Path, draw: Draw) -> None:
    for name in ("0_left", "0_right", "1_left", "2_left"):
        draw(f"{name}.jpg")
    (tmp_path / "t.csv").write_text("image,grade,patient\n0_left,0,K7\n0_right,1,\n1_left,2,K8\n2_left,3,\n")
    assert list(patients(list_source(tmp_path)).values()) == ["K7", "K7", "K8", ""]


def test_hospitals_that_number_their_patients_alike_in_a_column_are_said(tmp_path: Path, draw: Draw) -> None:
    for site in "AB":
        for number in range(2):
            draw(f"{site}/{site}{number}.jpg")
        (tmp_path / site / "labels.csv").write_text(f"image,patient,grade\n{site}0,1,0\n{site}1,2,1\n")
    (warning,) = list_source(tmp_path).warnings
    assert "the tables in A and B share 2 patients, such as 1" in warning


def test_every_sheet_of_a_workbook_is_read(tmp_path: Path, draw: Draw) -> None:
    book = openpyxl.Workbook()
    book.active.title = "Info"
    book.active.append(["Eyes of two years"])
    for year in (2022, 2023):
        sheet = book.create_sheet(str(year))
        sheet.append(["image", "grade"])
        draw(f"{year}.jpg")
        sheet.append([f"{year}.jpg", year - 2021])
    book.save(tmp_path / "t.xlsx")
    listing = list_source(tmp_path)
    assert grades(listing) == {"2022.jpg": 1, "2023.jpg": 2}
    assert "t.xlsx[2022]" in listing.layout
    assert grades(list_source(tmp_path, SourceOptions(labels=tmp_path / "t.xlsx"))) == {"2022.jpg": 1, "2023.jpg": 2}


def test_a_key_that_the_first_json_object_lacks_is_read(tmp_path: Path, draw: Draw) -> None:
    draw("a.jpg")
    draw("b.jpg")
    lines = '{"file_name": "a.jpg", "label": 1}\n{"file_name": "b.jpg", "label": 2, "patient": "K"}\n'
    (tmp_path / "metadata.jsonl").write_text(lines)
    assert patients(list_source(tmp_path)) == {"a.jpg": "", "b.jpg": "K"}


def test_both_eyes_of_a_parquet_row_are_read(tmp_path: Path) -> None:
    columns = {
        f"{side}_image": [{"bytes": encoded(drawn_eye(10 * n + at)), "path": None} for n in range(3)]
        for at, side in enumerate(("left", "right"))
    }
    pyarrow.parquet.write_table(pyarrow.table({**columns, "label": [0, 1, 2]}), tmp_path / "x.parquet")
    found = {it.file.source: (it.grade, it.eye) for it in list_source(tmp_path).samples}
    assert found["x.parquet#2/left_image"] == (2, "left")
    assert found["x.parquet#2/right_image"] == (2, "right")
    assert len(found) == 6


def test_a_folder_may_have_any_name(tmp_path: Path, draw: Draw) -> None:
    draw("batch2.part/1_left.jpg")
    assert len(list_source(tmp_path).samples) == 1


def test_names_in_other_letters_and_paths_of_another_computer(tmp_path: Path, draw: Draw) -> None:
    for number in range(2):
        draw(f"images/img_00{number}.jpg")
    (tmp_path / "t.csv").write_text("image,grade\nIMG_000.JPG,1\nC:\\Users\\Anna\\photos\\img_001.jpg,2\n")
    assert grades(list_source(tmp_path)) == {"images/img_000.jpg": 1, "images/img_001.jpg": 2}


def test_a_table_that_fits_no_photograph_grades_nothing_in_silence(tmp_path: Path, draw: Draw) -> None:
    draw("a.jpg")
    (tmp_path / "t.csv").write_text("image,grade\nz.jpg,1\n")
    with pytest.raises(SourceError, match="nothing to prepare"):
        list_source(tmp_path)


def test_a_hash_in_a_name_is_a_letter(tmp_path: Path, draw: Draw) -> None:
    for number in range(2):
        draw(f"images/P{number}#1.jpg")
    (tmp_path / "t.csv").write_text("image,grade\nP0#1.jpg,1\nP1#1,2\n")
    assert grades(list_source(tmp_path)) == {"images/P0#1.jpg": 1, "images/P1#1.jpg": 2}


def test_black_frames_of_one_name_say_nothing_of_their_folders(tmp_path: Path, draw: Draw) -> None:
    black = Image.fromarray(np.zeros((96, 128, 3), np.uint8))
    for patient in range(3):
        for number in (1, 2):
            draw(f"P{patient}/{number}_left.jpg")
        draw(f"P{patient}/3_left.jpg", picture=black)
    assert set(patients(list_source(tmp_path)).values()) == {f"P{p}/{n}" for p in range(3) for n in (1, 2, 3)}


def test_a_zip_of_an_old_program_on_windows(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(5):
            archive.writestr(zipfile.ZipInfo(f"set\\{number}\\a{number}.jpg"), encoded(drawn_eye(number)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(zipfile.ZipInfo("set\\0\\a0.jpg"), encoded(drawn_eye(9)))
    listing = list_source(tmp_path)
    assert grades(listing) == {f"a.zip#set/{n}/a{n}.jpg": n for n in range(5)}
    assert "second member of the same name" in listing.unread[0].reason


def test_a_hospital_may_be_called_val_de_grace(tmp_path: Path, draw: Draw) -> None:
    rows = "image,grade\n"
    for number, site in enumerate(("Val-de-Grace", "Training hospital", "Pitie")):
        draw(f"{site}/{number}.jpg")
        rows += f"{number}.jpg,{number}\n"
    (tmp_path / "t.csv").write_text(rows)
    assert {sample.split for sample in list_source(tmp_path).samples} == {""}


def test_a_lone_test_column_is_said(tmp_path: Path, draw: Draw) -> None:
    draw("a.jpg")
    draw("b.jpg")
    (tmp_path / "t.csv").write_text("image,grade,split\na,1,test\nb,2,test\n")
    listing = list_source(tmp_path)
    assert "--split test keeps all photographs in test" in "\n".join(listing.notes)


def test_commas_in_comments_do_not_hide_semicolons(tmp_path: Path, draw: Draw) -> None:
    rows = "image;grade;Bemerkung\n"
    for number in range(4):
        draw(f"{number}.jpg")
        rows += f"{number}.jpg;{number};Blutungen, Exsudate, Mikroaneurysmen, Narben\n"
    (tmp_path / "t.csv").write_text(rows)
    assert grades(list_source(tmp_path)) == {f"{n}.jpg": n for n in range(4)}


def test_eyes_in_spanish_and_eyes_that_are_not_known(tmp_path: Path, draw: Draw) -> None:
    draw("a.jpg")
    draw("b.jpg")
    (tmp_path / "t.csv").write_text("image,grade,Ojo\na,1,OD\nb,2,OI\n")
    options = SourceOptions(columns=ColumnOptions({"eye": "Ojo"}))
    assert [it.eye for it in list_source(tmp_path, options).samples] == ["right", "left"]
    (tmp_path / "t.csv").write_text("image,grade,Ojo\na,1,1\nb,2,2\n")
    with pytest.raises(SourceError, match="which is neither left nor right"):
        list_source(tmp_path, options)


def test_an_eye_that_the_name_contradicts_is_said(tmp_path: Path, draw: Draw) -> None:
    draw("0_left.jpg")
    (tmp_path / "t.csv").write_text("image,grade,patient,eye\n0_left,1,A,R\n")
    assert "another eye than their column" in "\n".join(list_source(tmp_path).notes)


def test_a_link_to_a_table_that_leads_out_is_never_passed_over(tmp_path: Path, draw: Draw) -> None:
    draw("src/1_left.jpg")
    (tmp_path / "labels.csv").write_text("image,grade\n1_left,2\n")
    (tmp_path / "src/labels.csv").symlink_to(tmp_path / "labels.csv")
    with pytest.raises(SourceError, match=r"labels\.csv: a link that leads out of .*--labels, or .*--follow-links"):
        list_source(tmp_path / "src")
    assert grades(list_source(tmp_path / "src", SourceOptions(follow_links=True))) == {"1_left.jpg": 2}


def test_labels_leave_other_tables_unread_and_say_so(tmp_path: Path, draw: Draw) -> None:
    draw("1_left.jpg")
    (tmp_path / "mine.csv").write_text("image,grade\n1_left,2\n")
    (tmp_path / "other.csv").write_text("image,grade\n1_left,4\n")
    listing = list_source(tmp_path, SourceOptions(labels=tmp_path / "mine.csv"))
    assert grades(listing) == {"1_left.jpg": 2}
    assert listing.unread == [("other.csv", "a table, not read: --labels names another")]


def test_a_scale_file_is_checked(tmp_path: Path) -> None:
    for text in ('exact = "false"\ncodes = { 1 = 0 }\n', "codes = {}\n"):
        (tmp_path / "s.toml").write_text(text)
        with pytest.raises(SourceError, match="not a scale"):
            open_scale(str(tmp_path / "s.toml"))
