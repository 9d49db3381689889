"""What columns mean, by their usual headers and by what cells say."""

import pytest

from pipeline.errors import SourceError
from tools.sources.columns import ColumnOptions, find_columns, gradable_cells, split_in_name, split_word


@pytest.mark.parametrize(
    ("header", "photograph", "grade"),
    [
        ("image,level", "image", "level"),
        ("id_code,diagnosis", "id_code", "diagnosis"),
        ("Image name,Retinopathy grade,Risk of macular edema ", "Image name", "Retinopathy grade"),
        ("image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable", "image_id", "adjudicated_dr_grade"),
        ("image_id,patient_id,exam_eye,DR_SDRG,DR_ICDR,quality", "image_id", "DR_ICDR"),
        ("patient,file,laterality,final_quality,final_icdr,final_edema", "file", "final_icdr"),
        (",image,quality,DR_grade", "image", "DR_grade"),
        ("Fundus_images,DR_grade(International_Clinical_DR_Severity_Scale)", "Fundus_images", None),
        ("file_name,label", "file_name", "label"),
        ("FILE NAME;dr-grade".replace(";", ","), "FILE NAME", "dr-grade"),
    ],
)
def test_headers_of_public_sets(header: str, photograph: str, grade: str | None) -> None:
    cells = header.split(",")
    columns = find_columns(cells, ColumnOptions())
    assert columns is not None
    assert columns.grade is not None
    assert cells[columns.photograph] == photograph
    assert grade is None or cells[columns.grade] == grade


def test_patient_eye_split_and_gradable() -> None:
    header = ["image", "Patient ID", "Laterality", "Usage", "gradable", "level"]
    columns = find_columns(header, ColumnOptions())
    assert columns is not None
    assert (columns.patient, columns.eye, columns.split, columns.gradable) == (1, 2, 3, 4)


def test_an_option_names_a_column_that_no_list_has() -> None:
    header = ["Foto", "Stufe", "Nummer"]
    assert find_columns(header, ColumnOptions()) is None
    columns = find_columns(header, ColumnOptions({"photograph": "foto", "grade": "STUFE", "patient": "Nummer"}))
    assert columns is not None
    assert (columns.photograph, columns.grade, columns.patient) == (0, 1, 2)


def test_of_several_columns_of_names_the_one_that_names_photographs_is_taken() -> None:
    columns = find_columns(["image_id", "image_path", "level"], ColumnOptions(), lambda at: at == 1)
    assert columns is not None
    assert columns.photograph == 1


def test_a_grade_column_an_eye_and_a_column_a_grade() -> None:
    columns = find_columns(["image_path", "left_eye_DR_Level", "right_eye_DR_Level"], ColumnOptions())
    assert columns is not None
    assert columns.of_eye == {"left": 1, "right": 2}
    columns = find_columns(["image", "No DR", "Mild", "Moderate", "Severe", "Proliferative"], ColumnOptions())
    assert columns is not None
    assert columns.one_hot == (1, 2, 3, 4, 5)


def test_which_cells_mean_gradable() -> None:
    assert "adequate" in gradable_cells("quality", ["Adequate", "Inadequate", ""], ColumnOptions(), "t.csv")
    assert "1" in gradable_cells("adjudicated_gradable", ["1", "0", ""], ColumnOptions(), "t.csv")
    assert gradable_cells("quality", ["0", "2"], ColumnOptions(gradable=frozenset({"0"})), "t.csv") == {"0"}
    with pytest.raises(SourceError, match=r"--gradable-column 'quality=0,\.\.\.'"):
        gradable_cells("quality", ["0", "1", "2"], ColumnOptions(), "t.csv")


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("a. Training Set", "train"), ("b. IDRiD_Disease Grading_Testing Labels", "test"),
     ("valid", "val"), ("regular-fundus-validation", "val"), ("Evaluation", "test"), ("resized_train_cropped", "train"),
     ("all_labels", ""), ("train-test", ""), ("trainer", ""), ("contest", ""), ("public", "")],
)  # fmt: skip
def test_a_name_that_tells_a_split(name: str, split: str) -> None:
    assert split_in_name(name) == split


def test_a_cell_that_tells_a_split() -> None:
    assert [split_word(cell) for cell in ("Public", "PRIVATE", "valid", "", "fold3")] == [
        "test",
        "test",
        "val",
        "",
        None,
    ]
