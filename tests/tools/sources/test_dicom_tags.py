"""Whose eye a DICOM file shows: by its tags, unless the user's own columns, pairs or patterns say otherwise."""

import os
import stat
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs the extra dicom")

from pipeline.errors import SourceError
from pipeline.storage.url import Url
from tests.dicoms import dicom
from tests.tools.sources.conftest import drawn_eye
from tools.sources.columns import ColumnOptions
from tools.sources.evidence import SourceOptions
from tools.sources.layouts import list_source
from tools.sources.listing import Listing
from tools.sources.pseudonyms import Pseudonyms, key_file, unchanged_id

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(source, **tags): an eye as a DICOM file below tmp_path / "src"."""

    def write(source: str, **tags: object) -> Path:
        path = tmp_path / "src" / source
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dicom(np.asarray(drawn_eye(len(source))), **tags))  # type: ignore[arg-type]
        return path

    return write


def listed(tmp_path: Path, **options: object) -> Listing:
    return list_source(tmp_path / "src", SourceOptions(name_patient=unchanged_id, **options))  # type: ignore[arg-type]


def told(listing: Listing) -> list[tuple[str, str, str]]:
    return [(sample.id, sample.patient, sample.eye) for sample in listing.samples]


def test_tags_tell_patient_and_eye(tmp_path: Path, write: Write) -> None:
    write("a.dcm", PatientID="P7", ImageLaterality="R")
    write("b.dicom", PatientID="P7 ", Laterality="L")
    write("1.2.840.55", PatientID="P8", ImageLaterality="B")
    write("d", PatientID="unknown")
    write("9_left.dcm", PatientID="P8", ImageLaterality="R")  # tags before names
    write("10_left.dcm")
    listing = listed(tmp_path)
    assert told(listing) == [
        ("1.2.840", "P8", ""),
        ("10_left", "10", "left"),
        ("9_left", "P8", "right"),
        ("a", "P7", "right"),
        ("b", "P7", "left"),
        ("d", "", ""),
    ]
    assert any("6 DICOM files, the patients of 4 by their tags; file names are kept" in it for it in listing.notes)


def test_columns_come_before_tags_and_tags_fill_what_they_leave_empty(tmp_path: Path, write: Write) -> None:
    write("a.dcm", PatientID="P7", ImageLaterality="R")
    write("b.dcm", PatientID="P8", ImageLaterality="R")
    (tmp_path / "src" / "t.csv").write_text("image,level,patient,eye\na,1,Q1,L\nb,2,,\n")
    assert told(listed(tmp_path)) == [("a", "Q1", "left"), ("b", "P8", "right")]


def test_a_pattern_comes_before_tags(tmp_path: Path, write: Write) -> None:
    write("a-1.dcm", PatientID="P7", ImageLaterality="R")
    write("b.dcm", PatientID="P8")
    assert told(listed(tmp_path, patient_pattern="^(.)-")) == [("a-1", "a", "right"), ("b", "P8", "")]


def test_pairs_come_before_tags(tmp_path: Path, write: Write) -> None:
    write("a.dcm", PatientID="P7", ImageLaterality="R")
    write("b.dcm", PatientID="P8", ImageLaterality="R")
    (tmp_path / "src" / "grades.csv").write_text("image,level\na,1\nb,2\n")
    (tmp_path / "src" / "pairs.csv").write_text("left;right\na;b\n")
    assert told(listed(tmp_path)) == [("a", "a", "left"), ("b", "a", "right")]


def test_names_tell_the_patients_of_other_photographs(tmp_path: Path, write: Write) -> None:
    write("a.dcm", PatientID="P7")
    drawn_eye(1).save(tmp_path / "src" / "17_left.png")
    assert told(listed(tmp_path)) == [("17_left", "17", "left"), ("a", "P7", "")]


def test_one_id_for_all_is_not_believed(tmp_path: Path, write: Write) -> None:
    for number in range(21):
        write(f"{number}.dcm", PatientID="ANON")
    listing = listed(tmp_path)
    assert {sample.patient for sample in listing.samples} == {""}
    assert any("name one patient; that is not believed" in note for note in listing.notes)


def test_angiograms_and_indices_are_ignored_with_the_reason(tmp_path: Path, write: Write) -> None:
    write("a.dcm", PatientID="P7")
    frames = np.zeros((3, 40, 50), np.uint8)
    (tmp_path / "src" / "angiogram.dcm").write_bytes(dicom(frames, frames=3))
    write("DICOMDIR", SOPClassUID="1.2.840.10008.1.3.10")
    write("oct.dcm", SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.5.4")
    listing = listed(tmp_path)
    assert dict(listing.ignored) == {
        "DICOMDIR": "an index of other files, no picture",
        "angiogram.dcm": "several grey frames, as of an angiogram, no colour photograph",
        "oct.dcm": "a tomogram, no photograph",
    }
    assert listing.found == 4


def test_files_in_archives_have_tags_too(tmp_path: Path, write: Write) -> None:
    path = write("a.dcm", PatientID="P7", ImageLaterality="L")
    with zipfile.ZipFile(tmp_path / "src" / "z.zip", "w") as archive:
        archive.write(path, "in/b.dcm")
    path.unlink()
    assert told(listed(tmp_path)) == [("z.zip#in/b", "P7", "left")]


def test_files_behind_a_url_have_tags_too(tmp_path: Path, write: Write, web: Url) -> None:
    write("a.dcm", PatientID="P7", ImageLaterality="L")
    write("deep/b.dcm", PatientID="P8")
    options = SourceOptions(name_patient=unchanged_id)
    assert told(list_source(web / "src", options)) == [("a", "P7", "left"), ("deep/b", "P8", "")]


def test_columns_to_keep_may_be_tags(tmp_path: Path, write: Write) -> None:
    write("a.dcm", Manufacturer="Example", ManufacturerModelName="Cam 1", StudyDate="20240131")
    drawn_eye(1).save(tmp_path / "src" / "b.png")
    keep = ("Manufacturer", "model", "study_date")
    listing = listed(tmp_path, columns=ColumnOptions(keep=keep))
    assert listing.kept == keep
    assert [sample.kept for sample in listing.samples] == [("Example", "Cam 1", "2024-01-31"), ("", "", "")]
    with pytest.raises(SourceError, match="no column 'PatientName'"):
        listed(tmp_path, columns=ColumnOptions(keep=("PatientName",)))


def test_a_table_comes_before_tags_that_are_kept(tmp_path: Path, write: Write) -> None:
    write("a.dcm", Manufacturer="Example")
    write("b.dcm", Manufacturer="Example")
    (tmp_path / "src" / "t.csv").write_text("image,level,manufacturer\na,1,Other\nb,2,\n")
    listing = listed(tmp_path, columns=ColumnOptions(keep=("manufacturer", "model")))
    assert [sample.kept for sample in listing.samples] == [("Other", ""), ("Example", "")]


# --- pseudonyms


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "config" / "id.key"
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: Pseudonyms(path)("P7"), range(40)))
    assert len(names) == 1
    assert os.listdir(path.parent) == ["id.key"]
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    name = names.pop()
    assert len(name) == 16
    assert int(name, 16)
    assert Pseudonyms(path)("P8") != name
    assert Pseudonyms(tmp_path / "other.key")("P7") != name


def test_the_default_key_lies_with_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPDATA" if os.name == "nt" else "XDG_CONFIG_HOME", str(tmp_path))
    assert key_file(None, None) == tmp_path / "fundus-grading" / "id.key"
    monkeypatch.delenv("APPDATA" if os.name == "nt" else "XDG_CONFIG_HOME")
    assert key_file(None, None).is_absolute()


def test_no_key_lies_in_a_cache(tmp_path: Path) -> None:
    out = tmp_path / "cache"
    with pytest.raises(SourceError, match="so no key may lie in one"):
        key_file(out / "id.key", out)
    (out / "shards").mkdir(parents=True)
    (out / "cache.json").touch()
    with pytest.raises(SourceError, match="so no key may lie in one"):
        key_file(out / "id.key", None)


@pytest.mark.parametrize("text", ["", "no key", "ab" * 31, "AB" * 32, "ab" * 33])
def test_what_is_no_key_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "k").write_text(text)
    with pytest.raises(SourceError, match="no key, which is 64 hexadecimal digits"):
        key_file(tmp_path / "k", None)
    assert (tmp_path / "k").read_text() == text
