"""Tables of grades in the spellings that people have."""

import re
from pathlib import Path

import pytest

from pipeline.errors import SourceError
from tools.sources.columns import ColumnOptions
from tools.sources.label_tables import LabelTable, UnreadTable, read_label_table
from tools.sources.scales import Scale
from tools.sources.tables import read_raw

TRUTH = {"10_left": 0, "11_left": 1, "12_left": 2, "13_left": 3, "14_left": 4, "15_left": 0}


def read_table(
    path: Path,
    options: ColumnOptions = ColumnOptions(),  # noqa: B008  # frozen
    scale: Scale | None = None,
) -> LabelTable | UnreadTable:
    read = read_label_table(read_raw(path.name, path.read_bytes())[0], options, scale, None, lambda name: True)
    assert isinstance(read, LabelTable | UnreadTable)
    return read


def rows(table: LabelTable | UnreadTable) -> list[tuple[str, int, str]]:
    """(name, grade, where) of each row."""
    assert isinstance(table, LabelTable), table
    at = table.columns.photograph
    return [(cells[at], table.label(cells).grade, table.where(number)) for number, cells in table.rows]


def labels(path: Path) -> dict[str, int]:
    found = {name: grade for name, grade, _ in rows(read_table(path))}
    assert len(found) == 6
    return found


@pytest.mark.parametrize(
    "spelling",
    ["plain", "bom", "bomquoted", "crlf", "cr", "noeol", "quoted", "semicolon", "tab", "spaces", "blanklines",
     "trailingcomma", "upper", "utf16"],
)  # fmt: skip
def test_every_spelling_gives_the_same_six_grades(shared: Path, spelling: str) -> None:
    assert labels(shared / f"cases/B20/data/variants/{spelling}.csv") == TRUTH


@pytest.mark.parametrize("variant", ["noheader", "index", "aptos", "usage", "swapped"])
def test_columns_are_known_by_name_and_a_first_row_without_header_counts(shared: Path, variant: str) -> None:
    assert labels(shared / f"cases/B21/data/variants/{variant}.csv") == TRUTH


def test_a_row_with_a_cell_too_many_is_refused_with_its_line(shared: Path) -> None:
    with pytest.raises(SourceError, match=re.escape("ragged.csv:4: expected 2 cells as in line 1, found 3")):
        read_table(shared / "cases/B21/data/variants/ragged.csv")


@pytest.mark.parametrize("header", ["Image name,Retinopathy grade,Risk of macular edema", "id_code,diagnosis,x"])
def test_other_data_sets_columns(tmp_path: Path, header: str) -> None:
    (tmp_path / "t.csv").write_text(f"{header}\nIDRiD_01,3,1\nIDRiD_02,0,0\n")
    assert rows(read_table(tmp_path / "t.csv")) == [("IDRiD_01", 3, "t.csv:2"), ("IDRiD_02", 0, "t.csv:3")]


@pytest.mark.parametrize("text", ["", "image,width,height\n1_left,10,10\n", "a,b\n1,2\n", "no table at all\n"])
def test_a_file_without_photographs_and_grades_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert isinstance(read_table(tmp_path / "t.csv"), UnreadTable)


def test_columns_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("eye,image,icdr,second reader\n1_left,x,4,3\n")
    table = read_table(tmp_path / "t.csv", ColumnOptions({"photograph": "Eye", "grade": "second reader"}))
    assert rows(table) == [("1_left", 3, "t.csv:2")]


def test_a_table_from_excel_in_a_western_code_page(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("image;level\nrétine_left;2\n".encode("cp1252"))
    assert rows(read_table(tmp_path / "t.csv"))[0][0] == "rétine_left"


def test_a_column_without_header_loses_no_row(shared: Path) -> None:
    raw = read_raw("train_img.csv", (shared / "data/course/train_img.csv").read_bytes())[0]
    assert len(raw.rows) == 28_100
    assert raw.rows[0] == (1, ["2576_right"])
