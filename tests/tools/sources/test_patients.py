"""Patients and eyes, from names, columns and tables of pairs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.photos.discovery import Found
from tools.sources.columns import ColumnOptions
from tools.sources.evidence import SourceOptions
from tools.sources.layouts import list_source
from tools.sources.listing import ListedSample
from tools.sources.patients import with_patients

Draw = Callable[..., None]


def told(*names: str, pattern: str | None = None) -> list[tuple[str, str]]:
    samples = [ListedSample(name, Found(name, 1, 0, 0), 0) for name in names]
    return [(sample.patient, sample.eye) for sample in with_patients(samples, pattern, {})[0]]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("17_left", "17_right"), [("17", "left"), ("17", "right")]),
        (("17_left-600", "17_left-600-FA", "17_left_aug1"), [("17", "left")] * 3),
        (("P001_OD", "P001_OS"), [("P001", "right"), ("P001", "left")]),
        (("IMG_17_R", "IMG_17_L", "IMG_18_r"), [("IMG_17", "right"), ("IMG_17", "left"), ("IMG_18", "right")]),
        (("1_l1", "1_r2", "12_l2"), [("1", "left"), ("1", "right"), ("12", "left")]),
        (("12.3", "12.4"), [("12", ""), ("12", "")]),
        (("train/2/17_left.jpeg",), [("17", "left")]),
        (("IDRiD_001", "IDRiD_002"), [("", "")] * 2),
        (("12.3", "x"), [("", "")] * 2),  # one of the two names tells nothing, so the point may mean anything
        (("17_left", "IMG0003"), [("17", "left"), ("", "")]),
    ],
)
def test_usual_names(names: tuple[str, ...], wanted: list[tuple[str, str]]) -> None:
    assert told(*names) == wanted


def test_a_pattern_of_ones_own() -> None:
    assert told("P12-OD-3", "x", pattern=r"^(P\d+)-(?P<eye>O[DS])") == [("P12", "right"), ("", "")]


def test_columns(tmp_path: Path, draw: Draw) -> None:
    rows = "file,subject,laterality,grade\n"
    for number, (patient, eye) in enumerate([("A", "OD"), ("A", "OS"), ("B", "re"), ("B", "L"), ("C", "")]):
        draw(f"IMG{number}.jpg")
        rows += f"IMG{number}.jpg,{patient},{eye},{number}\n"
    (tmp_path / "t.csv").write_text(rows)
    found = [(sample.patient, sample.eye) for sample in list_source(tmp_path).samples]
    assert found == [("A", "right"), ("A", "left"), ("B", "right"), ("B", "left"), ("C", "")]


def test_columns_that_only_an_option_names(tmp_path: Path, draw: Draw) -> None:
    for number in range(2):
        draw(f"{number}.jpg")
    (tmp_path / "t.csv").write_text("image,level,Fallnummer,Auge\n0,1,K7,R\n1,2,K7,L\n")
    options = SourceOptions(columns=ColumnOptions({"patient": "Fallnummer", "eye": "Auge"}))
    assert [(it.patient, it.eye) for it in list_source(tmp_path, options).samples] == [("K7", "right"), ("K7", "left")]


def test_a_table_of_pairs(tmp_path: Path, draw: Draw) -> None:
    for name in ("IM1.jpg", "IM2.JPG", "IM3.jpg"):
        draw(f"IMAGES/{name}")
    (tmp_path / "data.csv").write_text("image_id,adjudicated_dr_grade,x\nIM1.jpg,0,\nIM2.jpg,1,\nIM3.jpg,2,\n")
    (tmp_path / "pairs.csv").write_text("left;right\nIM1.jpg;IM2.jpg\n")
    patients = {sample.id: (sample.patient, sample.eye) for sample in list_source(tmp_path).samples}
    assert patients == {"IM1": ("IM1", "left"), "IM2": ("IM1", "right"), "IM3": ("", "")}
