"""The manifest: what was written is read, and a patient is in one split only."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cache.manifest import COLUMNS, Row, manifest_csv, read_manifest
from pipeline.cache.splits import SPLIT_FRACTIONS, draw_splits, known_patients, leak_of, parse_patient
from pipeline.errors import CacheError
from tests.conftest import EYEPACS


def row(id: str, **changes: object) -> Row:
    plain = Row(
        id, id, "", 2, "train", f"{id}.jpeg", 9, 1_700_000_000_123_456_789, 64, 48, 31.5, 24.0, 20.25, "", 0, 512, 9, 7
    )
    return plain._replace(**changes)  # type: ignore[arg-type]


names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


@settings(deadline=None)  # a busy machine is no fault
@given(st.lists(names, unique=True, min_size=1, max_size=5), st.integers(-1, 4), st.sampled_from(["", "train", "test"]))
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], grade: int, split: str
) -> None:
    path = tmp_path_factory.mktemp("m") / "manifest.csv"
    rows = [row(id, grade=grade, split=split, crc32=n) for n, id in enumerate(ids)]
    path.write_bytes(manifest_csv(rows))
    read = [Row(*cells) for cells in read_manifest(path).itertuples(index=False, name=None)]
    assert read == [it._replace(radius=20.2) for it in rows]


@pytest.mark.parametrize(
    "id", ["NA", "nan", "null", "007", "1e5", "True", "2015-03-01", "1,5", '"', " x ", "-5", "0x1A"]
)
def test_ids_that_look_like_something_else_stay_text(tmp_path: Path, id: str) -> None:
    (tmp_path / "m.csv").write_bytes(manifest_csv([row(id)]))
    assert read_manifest(tmp_path / "m.csv")["id"].tolist() == [id]


def test_no_disc_and_no_grade_are_empty_cells(tmp_path: Path) -> None:
    data = manifest_csv([row("a", cx=math.nan, cy=math.nan, radius=math.nan, grade=-1)])
    assert data.decode().splitlines()[1] == "a,a,,,train,a.jpeg,9,1700000000123456789,64,48,,,,,0,512,9,7"
    (tmp_path / "m.csv").write_bytes(data)
    table = read_manifest(tmp_path / "m.csv")
    assert table["grade"].tolist() == [-1]
    assert math.isnan(table["cx"][0])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"grade": "five"}, "m.csv:3: grade 'five' is not a number"),
        ({"grade": 7}, "m.csv:3: grade '7' is not in 0..4"),
        ({"split": "tset"}, "m.csv:3: split 'tset' is not one of train, val, test"),
        ({"offset": ""}, "m.csv:3: offset '' is not a number"),
        ({"id": "first"}, "m.csv:3: id 'first' is not unique"),
    ],
)
def test_a_bad_cell_is_named_with_its_line(tmp_path: Path, changes: dict[str, object], complaint: str) -> None:
    cells = [row("first")._asdict(), {**row("second")._asdict(), **changes}]
    pd.DataFrame(cells, columns=list(COLUMNS)).to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(CacheError, match=re.escape(complaint)):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("id", "patient", "eye"),
    [
        ("17_left", "17", "left"),
        ("17_right", "17", "right"),
        ("train/17_left", "17", "left"),
        ("10_left.png", "10", "left"),
        ("a_b_right", "a_b", "right"),
        ("IDRiD_001", "IDRiD_001", ""),
        ("site/IDRiD_001", "site/IDRiD_001", ""),
        ("17_LEFT", "17_LEFT", ""),
        ("007.0", "007.0", ""),
    ],
)
def test_the_patient_is_what_stands_before_the_eye(id: str, patient: str, eye: str) -> None:
    assert parse_patient(id, EYEPACS) == (patient, eye)


def test_another_pattern_for_other_names() -> None:
    assert parse_patient("P12-OD-3", re.compile(r"^(P\d+)-(?P<eye>O[DS])")) == ("P12", "OD")


patients = st.dictionaries(names, st.integers(0, 4), max_size=60)


@given(patients, st.integers(0, 3))
def test_every_patient_has_one_split_whatever_the_order(patients: dict[str, int], seed: int) -> None:
    splits = draw_splits(patients, SPLIT_FRACTIONS, seed, {})
    assert splits.keys() == patients.keys()
    assert set(splits.values()) <= SPLIT_FRACTIONS.keys()
    assert draw_splits(dict(reversed(patients.items())), SPLIT_FRACTIONS, seed, {}) == splits


@given(patients, patients)
def test_a_patient_stays_when_others_come(before: dict[str, int], after: dict[str, int]) -> None:
    splits = draw_splits(before, SPLIT_FRACTIONS, 0, {})
    later = draw_splits(before | after, SPLIT_FRACTIONS, 0, splits)
    assert {patient: later[patient] for patient in before} == splits


def test_fractions_hold_within_every_grade_and_over_all() -> None:
    rng = np.random.default_rng(0)
    grades = rng.choice(5, size=2000, p=[0.735, 0.07, 0.15, 0.025, 0.02])
    splits = draw_splits({str(n): int(grade) for n, grade in enumerate(grades)}, SPLIT_FRACTIONS, 0, {})
    table = pd.crosstab(grades, [splits[str(n)] for n in range(2000)], normalize="index")
    for split, fraction in SPLIT_FRACTIONS.items():
        assert np.mean([it == split for it in splits.values()]) == pytest.approx(fraction, abs=0.002)
        assert table[split].to_numpy() == pytest.approx(
            fraction, abs=0.05
        )  # 40 patients have grade 4: 2 of them are 0.05


def test_a_set_that_grows_patient_by_patient_keeps_its_fractions() -> None:
    splits: dict[str, str] = {}
    for n in range(200):
        splits = draw_splits({str(k): k % 5 for k in range(n + 1)}, SPLIT_FRACTIONS, 0, splits)
    assert [sum(split == it for it in splits.values()) for split in SPLIT_FRACTIONS] == [140, 20, 40]


def test_another_seed_draws_other_patients() -> None:
    people = {str(n): 0 for n in range(100)}
    assert draw_splits(people, SPLIT_FRACTIONS, 0, {}) != draw_splits(people, SPLIT_FRACTIONS, 1, {})


def test_a_leak_is_a_test_photograph_whose_patient_is_in_train() -> None:
    table = pd.DataFrame(
        {
            "id": ["1_left", "1_right", "2_left", "2_right", "3"],
            "patient": ["1", "1", "2", "2", "3"],
            "eye": "",
            "split": ["train", "test", "test", "val", "test"],
        }
    )
    assert leak_of(table) == (
        3,
        1,
        0,
        1,
        4,
    )  # tested, leaked, copies; patient unknown, of the photographs of train and test


def test_patients_are_known_whether_or_not_eyes_are() -> None:
    table = pd.DataFrame({"id": ["a", "b", "7"], "patient": ["P1", "P1", "7"], "eye": "", "split": "test"})
    assert known_patients(table).tolist() == [True, True, False]
