"""Files to rows of cells: the dialects of CSV, Excel, JSON lines, text in columns."""

import io
import sys

import openpyxl
import pytest

from tools.sources.tables import NoTable, read_raw

ROWS = [["image", "level"], ["10_left", "4"], ["10_right", "1"]]


@pytest.mark.parametrize(
    "text",
    [
        "image,level\n10_left,4\n10_right,1\n",
        "sep=;\nimage;level\n10_left;4\n10_right;1\n",
        "\ufeffsep=;\r\nimage;level\r\n10_left;4\r\n10_right;1\r\n",
        '"sep=|"\nimage|level\n10_left|4\n10_right|1',
        "image|level\n10_left|4\n10_right|1\n",
        "image\tlevel\n10_left\t4\n10_right\t1\n",
        '"image";"level"\n"10_left";"4"\n"10_right";"1"\n',
    ],
)
def test_any_dialect_of_csv(text: str) -> None:
    assert [cells for _, cells in read_raw("t.csv", text.encode())[0].rows] == ROWS


def test_lines_are_counted_as_an_editor_counts_them() -> None:
    raw = read_raw("t.csv", b"sep=;\n\nimage;level\n\n10_left;4\n")[0]
    assert raw.rows == [(3, ["image", "level"]), (5, ["10_left", "4"])]


def test_a_header_with_commas_in_quotes() -> None:
    raw = read_raw("t.csv", b'image;level;"comment (artifacts, blur, flash)"\n10_left;4;"x, y"\n')[0]
    assert raw.rows[0][1] == ["image", "level", "comment (artifacts, blur, flash)"]
    assert raw.rows[1][1] == ["10_left", "4", "x, y"]


def test_text_in_columns() -> None:
    raw = read_raw("DR/train.txt", b"007-0004-000.jpg 0\n007-0007-000.jpg   2\n\n")[0]
    assert raw.rows == [(1, ["007-0004-000.jpg", "0"]), (2, ["007-0007-000.jpg", "2"])]


def test_excel_numbers_stay_what_a_person_sees() -> None:
    book = openpyxl.Workbook()
    book.active.append(["image", "level", "visit"])
    book.active.append([7, 2.0, None])
    book.active.append(["007", 1.5, "x"])
    out = io.BytesIO()
    book.save(out)
    rows = [cells for _, cells in read_raw("t.xlsx", out.getvalue())[0].rows]
    assert rows == [["image", "level", "visit"], ["7", "2", ""], ["007", "1.5", "x"]]


def test_excel_without_its_package_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(NoTable, match=r"pip install 'fundus-grading\[excel\]'"):
        read_raw("t.xlsx", b"PK")[0]


def test_a_file_that_is_not_what_its_suffix_says() -> None:
    with pytest.raises(NoTable, match="not an Excel table"):
        read_raw("t.xlsx", b"no workbook")[0]
    with pytest.raises(NoTable, match="line 2 is no JSON object"):
        read_raw("t.jsonl", b'{"file_name": "1.jpg"}\n[1]\n')[0]


def test_json_lines() -> None:
    raw = read_raw("metadata.jsonl", b'{"file_name": "1.jpg", "label": 2}\n{"label": 0, "file_name": "2.jpg"}\n')[0]
    assert [cells for _, cells in raw.rows] == [["file_name", "label"], ["1.jpg", "2"], ["2.jpg", "0"]]


def test_a_cell_that_is_too_long_is_one_line_of_error() -> None:
    broken = read_raw("t.csv", b'image,level\n"' + b"x" * 200_000 + b'",1\n')[0].broken
    assert broken.startswith("t.csv:2: field larger than")
    assert "\n" not in broken
