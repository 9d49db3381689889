"""A cache of DICOM files tells nobody who the patients are: every file that is made is searched for them."""

import csv
import os
import shutil
import stat
import struct
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("pydicom", reason="needs the extra dicom")

from pipeline.cache.cache import open_cache
from tests.dicoms import dicom
from tests.tools.sources.conftest import drawn_eye
from tools.cli import main

SECRETS = ("Xanadu", "Quentin", "19501231", "1950-12-31", "AC4711X", "20240229", "2024-02-29", "Doctor^Who", "PAT-0")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten patients with two eyes each, and files that are ignored, damaged, cut off and hostile."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    src = tmp_path / "src"
    src.mkdir()

    def write(name: str, patient: int, values: np.ndarray, **more: object) -> Path:
        about = {
            "PatientName": "Xanadu^Quentin",
            "PatientID": f"PAT-0{patient}",
            "PatientBirthDate": "19501231",
            "AccessionNumber": "AC4711X",
            "StudyDate": "20240229",
            "AcquisitionDate": "20240229",
            "ReferringPhysicianName": "Doctor^Who",
            "StudyDescription": "Xanadu Quentin 19501231",
            "Manufacturer": "Example",
        }
        (src / name).write_bytes(dicom(values, **about, **more))  # type: ignore[arg-type]
        return src / name

    for number in range(20):
        laterality = "RL"[number % 2]
        write(f"IMG{number:03}.dcm", number // 2, np.asarray(drawn_eye(number)), ImageLaterality=laterality)
    write("words.dcm", 3, np.asarray(drawn_eye(30)), BurnedInAnnotation="YES")
    write("angiogram.dcm", 3, np.zeros((3, 40, 50), np.uint8), frames=3)
    write("scrambled.dcm", 3, np.asarray(drawn_eye(31)), syntax="1.2.840.10008.1.2.4.90", stream=[b"Xanadu^Quentin"])
    cut = write("cut.dcm", 3, np.asarray(drawn_eye(32)))
    cut.write_bytes(cut.read_bytes()[:-1000])
    hostile = write("hostile.dcm", 3, np.asarray(drawn_eye(33)))
    data = hostile.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"Xanadu^Quentin 1950\0")
    hostile.write_bytes(data)
    charset = write("charset.dcm", 3, np.asarray(drawn_eye(34)))
    data, element = charset.read_bytes(), struct.pack("<HH2sH", 8, 5, b"CS", 14) + b"Xanadu^Quentin"
    at = data.index(b"\x08\0\x16\0UI")
    charset.write_bytes(data[:at] + element + data[at:])
    (src / "grades.csv").write_text(
        "image,level\n" + "".join(f"{path.stem},{number % 5}\n" for number, path in enumerate(sorted(src.iterdir())))
    )
    return src


def assert_nobody_in(folder: Path, *said: str) -> None:
    texts = {"what was said": "\n".join(said).encode()}
    texts |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(texts) > 4
    for name, text in texts.items():
        for secret in SECRETS:
            assert secret.encode() not in text, f"{secret} in {name}"


def preprocess(*arguments: object) -> str:
    done = CliRunner().invoke(main, ["preprocess", *map(str, arguments), "--size", "64", "--workers", "1"])
    assert done.exit_code == 0, done.output
    return done.output


def patients(cache: Path) -> dict[str, str]:
    with open_cache(cache) as opened:
        return dict(zip(opened.manifest["id"], opened.manifest["patient"], strict=True))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nobody_is_named_anywhere(clinic: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    command = ["preprocess", clinic, "--out", out, "--size", "64", "--keep-column", "manufacturer", "--max-rejects", 1]
    run = subprocess.run(
        [sys.executable, "-m", "tools", *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "found 26 = 22 cached + 3 rejected + 1 ignored" in run.stdout
    assert "flagged burned_in: 1" in run.stdout
    assert "file names are kept" in run.stdout
    assert str(tmp_path / "config" / "fundus-grading" / "id.key") in run.stdout
    assert_nobody_in(out, run.stdout, run.stderr)
    named = patients(out)
    assert len({named[f"IMG{number:03}"] for number in range(20)}) == 10
    assert all(named[f"IMG{number:03}"] == named[f"IMG{number + 1:03}"] for number in range(0, 20, 2))
    with open_cache(out) as cache:
        eyes = cache.manifest.set_index("id")["eye"]
    assert (eyes["IMG000"], eyes["IMG001"], eyes["words"]) == ("right", "left", "")
    with open(out / "attributes.csv", newline="") as file:
        assert {row["manufacturer"] for row in csv.DictReader(file)} == {"Example"}
    with open(out / "rejects.csv", newline="") as file:
        reasons = {row["source"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons["angiogram.dcm"].startswith("ignored: several grey frames")
    assert reasons["scrambled.dcm"].startswith("DICOM: scrambled, encrypted or damaged pixels")
    assert reasons["hostile.dcm"] == "DICOM: an unknown transfer syntax is not read: export it as JPEG 2000, or as PNG"
    assert reasons["cut.dcm"].startswith("cut off: ")


def test_one_key_gives_one_set_of_pseudonyms_and_another_key_others(clinic: Path, tmp_path: Path) -> None:
    out, other, third = (tmp_path / name for name in ("a", "b", "c"))
    key = tmp_path / "my.key"
    preprocess(clinic, "--out", out, "--id-key", key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 or os.name == "nt"
    shutil.copy(key, tmp_path / "copy.key")
    preprocess(clinic, "--out", other, "--id-key", tmp_path / "copy.key")
    preprocess(clinic, "--out", third)
    assert patients(out) == patients(other)
    assert not {*patients(out).values()} & {*patients(third).values()}
    digits = key.read_bytes().strip()
    assert not any(digits in text for text in tree(out).values())
    before = tree(out)
    assert " 0 encoded" in preprocess(clinic, "--out", out, "--id-key", key)
    assert tree(out) == before
    shutil.rmtree(out)
    preprocess(clinic, "--out", out, "--id-key", key)
    assert tree(out) == before


def test_ids_are_kept_where_that_is_asked_for(clinic: Path, tmp_path: Path) -> None:
    preprocess(clinic, "--out", tmp_path / "a", "--keep-ids")
    assert patients(tmp_path / "a")["IMG000"] == "PAT-00"
    assert not (tmp_path / "config").exists()
    both = ["preprocess", str(clinic), "--out", str(tmp_path / "b"), "--keep-ids", "--id-key", str(tmp_path / "k")]
    done = CliRunner().invoke(main, both)
    assert done.exit_code == 2
    assert "--id-key is for pseudonyms" in done.output


def test_dates_are_kept_where_they_are_asked_for(clinic: Path, tmp_path: Path) -> None:
    preprocess(clinic, "--out", tmp_path / "a", "--keep-column", "acquisition_date")
    assert "2024-02-29" in (tmp_path / "a" / "attributes.csv").read_text()


def test_no_key_is_made_where_no_dicom_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "src").mkdir()
    drawn_eye(1).save(tmp_path / "src" / "a.png")
    preprocess(tmp_path / "src", "--out", tmp_path / "a", "--id-key", tmp_path / "k")
    assert not (tmp_path / "config").exists()
    assert not (tmp_path / "k").exists()


def test_a_page_names_nobody(clinic: Path, tmp_path: Path) -> None:
    from trainer.cli import main as trainer

    preprocess(clinic, "--out", tmp_path / "cache")
    quick = "--model resnet18 --weights none --size 32 --batch 8 --head-epochs 0 --epochs 1 --device cpu --workers 1"
    run = tmp_path / "run"
    fit = CliRunner().invoke(trainer, ["fit", "--cache", str(tmp_path / "cache"), "--run", str(run), *quick.split()])
    assert fit.exit_code == 0, fit.output
    report = CliRunner().invoke(trainer, ["report", str(run)])
    assert report.exit_code == 0, report.output
    table = tmp_path / "predictions.csv"
    predict = CliRunner().invoke(trainer, ["predict", str(run), str(clinic), "--out", str(table), "--device", "cpu"])
    assert predict.exit_code == 0, predict.output
    assert_nobody_in(run, fit.output, report.output, predict.output, table.read_text())


def test_the_files_of_clinics_are_all_counted_and_show_what_their_twin_shows(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pi_heif")
    pytest.importorskip("imagecodecs")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    out = tmp_path / "cache"
    said = preprocess(shared / "sets/files", "--out", out)
    assert "found 13 = 12 cached + 1 rejected + 0 ignored" in said
    assert not any(secret in text for text in tree(out).values() for secret in (b"PAT-0042", b"Doe", b"19500101"))
    assert "PAT-0042" not in said
    with open_cache(out) as cache:
        table = cache.manifest.set_index("id")
        pictures = {
            id: np.asarray(Image.open(BytesIO(cache.read(row)))).astype(int)
            for row, id in enumerate(cache.manifest["id"])
        }
    assert table.loc[["raw", "j2k", "jpeg"], "eye"].tolist() == ["right", "right", "left"]
    assert table.loc[["raw", "j2k", "jpeg"], "patient"].nunique() == 1
    for id, picture in pictures.items():
        assert np.abs(picture - pictures["twin"]).mean() <= 4, id
