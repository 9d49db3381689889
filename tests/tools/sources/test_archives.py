"""Archives read in place, and those that are not, with the advice."""

import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from pipeline.errors import SourceError
from tests.tools.sources.conftest import drawn_eye, encoded
from tools.sources.archives import read_source
from tools.sources.layouts import list_source

Draw = Callable[..., None]


def test_photographs_and_table_in_zips(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "train.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"train/{number}_left.jpeg", encoded(drawn_eye(number)))
        archive.writestr("__MACOSX/train/._0_left.jpeg", b"x")
        archive.writestr("train/readme.md", b"x")
    with zipfile.ZipFile(tmp_path / "trainLabels.csv.zip", "w") as archive:
        archive.writestr("trainLabels.csv", "image,level\n" + "".join(f"{n}_left,{n}\n" for n in range(4)))
    listing = list_source(tmp_path)
    assert {sample.file.source: sample.grade for sample in listing.samples} == {
        f"train.zip#train/{number}_left.jpeg": number for number in range(4)
    }
    assert read_source(tmp_path, "train.zip#train/2_left.jpeg") == encoded(drawn_eye(2))
    assert [it.source for it in listing.unread] == ["train.zip#train/readme.md"]


def test_an_archive_beside_its_unpacked_photographs_is_not_read_twice(tmp_path: Path, draw: Draw) -> None:
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        for number in range(3):
            draw(f"train/{number}_left.jpeg", number)
            archive.write(tmp_path / f"train/{number}_left.jpeg", f"{number}_left.jpeg")
    listing = list_source(tmp_path)
    assert [sample.file.source for sample in listing.samples] == [f"train/{number}_left.jpeg" for number in range(3)]
    assert listing.unread == [("train.zip", "an archive whose photographs are also here, unpacked")]


def test_what_cannot_be_read_in_place_is_named_with_the_cure(tmp_path: Path, draw: Draw) -> None:
    draw("1_left.jpg")
    for name in ("train.zip.001", "train.zip.002", "b.7z", "c.tar.gz", "d.z01", "broken.zip", "notes.docx"):
        (tmp_path / name).write_bytes(b"x")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.writestr("inner.zip", b"x")
    unread = {it.source: it.reason for it in list_source(tmp_path).unread}
    assert "cat train.zip.* > train.zip" in unread["train.zip.001"]
    assert "2 parts" in unread["train.zip.001"]
    assert "zip -s 0" in unread["d.z01"]
    assert unread["b.7z"] == unread["c.tar.gz"] == "an archive: unpack it first"
    assert "not a ZIP that can be read" in unread["broken.zip"]
    assert unread["outer.zip#inner.zip"] == "an archive in an archive: unpack the outer one"
    assert unread["notes.docx"] == "neither a photograph nor a table"


def test_a_member_that_is_damaged_or_gone_is_one_photographs_reason(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.jpg", encoded(drawn_eye(1)))
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[200] ^= 255
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(OSError, match="damaged in its archive"):
        read_source(tmp_path, "a.zip#1.jpg")
    with pytest.raises(OSError, match="archive"):
        read_source(tmp_path, "a.zip#2.jpg")


def test_a_file_whose_own_name_has_a_hash_is_a_file(tmp_path: Path, draw: Draw) -> None:
    draw("a.zip#1.jpg", 5)
    assert read_source(tmp_path, "a.zip#1.jpg") == (tmp_path / "a.zip#1.jpg").read_bytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_reads_its_own_place_in_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(40):
            archive.writestr(f"{number}.jpg", encoded(drawn_eye(number)))
    wanted = {number: read_source(tmp_path, f"a.zip#{number}.jpg") for number in range(40)}
    child = os.fork()
    if not child:
        os._exit(int(any(read_source(tmp_path, f"a.zip#{n}.jpg") != wanted[n] for n in list(wanted) * 5)))
    assert all(read_source(tmp_path, f"a.zip#{n}.jpg") == wanted[n] for n in list(wanted) * 5)
    assert os.waitpid(child, 0)[1] == 0


def parquet(path: Path, columns: dict[str, list[object]], classes: list[str] | None = None, group: int = 4) -> None:
    table = pyarrow.table(columns)
    if classes is not None:
        features = {"info": {"features": {"label": {"names": classes, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, row_group_size=group)


def pictures(count: int, path: str = "{}.jpg") -> list[object]:
    return [{"bytes": encoded(drawn_eye(number)), "path": path.format(number)} for number in range(count)]


def test_parquet_with_image_bytes(tmp_path: Path) -> None:
    for split, count in (("train", 10), ("test", 5)):
        columns = {"image": pictures(count, "{}_left.jpg"), "label": [number % 5 for number in range(count)]}
        parquet(tmp_path / f"data/{split}-00000-of-00001.parquet", columns)
    listing = list_source(tmp_path)
    by_source = {sample.file.source: sample for sample in listing.samples}
    assert len(by_source) == 15
    sample = by_source["data/train-00000-of-00001.parquet#7"]
    assert (sample.grade, sample.split, sample.patient) == (2, "train", "7")
    assert by_source["data/test-00000-of-00001.parquet#4"].split == "test"
    for row in (9, 0, 5):  # of any group, in any order
        assert read_source(tmp_path, f"data/train-00000-of-00001.parquet#{row}") == encoded(drawn_eye(row))


def test_the_names_of_classes_decide_not_their_numbers(tmp_path: Path) -> None:
    columns = {"image": pictures(5), "label": [0, 1, 2, 3, 4]}
    parquet(tmp_path / "x.parquet", columns, ["Mild", "Moderate", "No_DR", "Proliferate_DR", "Severe"])
    assert [sample.grade for sample in list_source(tmp_path).samples] == [1, 2, 0, 4, 3]


def test_a_parquet_file_without_pictures_is_a_table(tmp_path: Path, draw: Draw) -> None:
    draw("7_left.jpg")
    parquet(tmp_path / "labels.parquet", {"image": ["7_left"], "level": [3]})
    assert [sample.grade for sample in list_source(tmp_path).samples] == [3]


def test_without_pyarrow_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path / "x.parquet", {"image": pictures(2), "label": [0, 1]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SourceError, match=r"pip install 'fundus-grading\[parquet\]'"):
        list_source(tmp_path)


def test_medmnist_at_any_size(tmp_path: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = np.full((5, 64, 64, 3), 90, np.uint8)
        arrays[f"{split}_labels"] = np.arange(5, dtype=np.uint8)[:, None]
    np.savez(tmp_path / "retinamnist_64.npz", **arrays)
    assert len(list_source(tmp_path).samples) == 15
    np.savez(tmp_path / "retinamnist_128.npz", **arrays)
    with pytest.raises(SourceError, match="the same photographs at several sizes; give one"):
        list_source(tmp_path)
    assert len(list_source(tmp_path / "retinamnist_128.npz").samples) == 15
