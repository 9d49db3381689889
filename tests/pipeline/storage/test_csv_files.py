"""Tables as they are written can be read again, and those that people open in a spreadsheet compute nothing."""

import csv
import io

import pandas as pd
import pytest

from pipeline.storage.csv_files import csv_lines, defused

ODD = ["a", "", "a,b", 'a "b"', "a\nb", "a\rb", "\r", "\r\n", " a", "'a", "=1+1", "\u0660", "a;b", "\t"]


def test_texts_are_read_again_as_they_were() -> None:
    rows = [[text, str(number)] for number, text in enumerate(ODD)]
    data = csv_lines([("text", "number"), *rows])
    assert list(csv.reader(io.StringIO(data.decode(), newline="")))[1:] == rows
    table = pd.read_csv(io.BytesIO(data), dtype=str, na_filter=False)
    assert table.to_numpy().tolist() == rows
    assert csv_lines([("a", 1.5, None)]) == b"a,1.5,\n"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''"])
def test_a_text_that_a_spreadsheet_would_compute_gets_an_apostrophe_that_can_be_taken_away(text: str) -> None:
    assert defused(text) == f"'{text}"


def test_other_texts_stay_and_no_two_become_one() -> None:
    plain = ["", "17_left", "1-1", "a=b", "Ä", " =1"]
    assert [defused(text) for text in plain] == plain
    texts = [*plain, "=1", "'=1", "''=1"]
    assert len({defused(text) for text in texts}) == len(texts)
