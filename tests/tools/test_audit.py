"""What the audit finds without training anything."""

import io
import shutil
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image

from pipeline.photos.fingerprint import COPY_CORRELATION, fingerprint
from pipeline.photos.preparation import Recipe, prepare
from tools.audit import audit
from tools.cli import main


def test_the_courses_tables_leak_and_copying_the_fellow_eye_beats_its_net(shared: Path) -> None:
    report = audit(shared / "data/course")
    assert "LEAK: 5,618 of 7,026 test photographs" in report
    assert "majority grade: accuracy 73.36%, quadratic weighted kappa 0.000" in report
    assert "fellow eye's grade: accuracy 84.73%, quadratic weighted kappa 0.723" in report
    assert "28100" in report  # no first row swallowed


def test_copies_are_told_from_other_eyes(shared: Path, tmp_path: Path) -> None:
    """Of 30 photographs, three get a copy: the file itself, one of another size and quality, one with a border."""
    source = tmp_path / "src"
    source.mkdir()
    photographs = sorted((shared / "data/eyepacs/train").glob("*.jpeg"))[:30]
    rows = []
    for n, photograph in enumerate(photographs):
        shutil.copyfile(photograph, source / photograph.name)
        rows.append(f"{photograph.stem},{n % 3}\n")
    shutil.copyfile(photographs[0], source / "900_left.jpeg")
    Image.open(photographs[1]).resize((500, 330)).save(source / "901_left.jpeg", quality=70)
    wide = Image.new("RGB", (1400, 900))
    wide.paste(Image.open(photographs[2]), (150, 60))
    wide.save(source / "902_left.png")
    (source / "t.csv").write_text("image,level\n" + "".join(rows) + "900_left,4\n901_left,1\n902_left,2\n")
    cache = tmp_path / "cache"
    assert CliRunner().invoke(main, ["preprocess", str(source), "--out", str(cache), "--size", "256"]).exit_code == 0
    for target in (source, cache):
        report = audit(target)
        assert "same file: 1 pairs, 1 with contradicting grades" in report
        assert f"{photographs[0].stem} (grade 0" in report
        assert "near-duplicates: 2 pairs, 0 with contradicting grades" in report
        assert "901_left" in report
        assert "902_left" in report


def test_fingerprints_of_different_eyes_are_far_apart(shared: Path) -> None:
    photographs = sorted((shared / "data/eyepacs/train").glob("*.jpeg"))[30:70]
    prints = np.stack([fingerprint(prepare(path.read_bytes(), Recipe(256)).jpeg) for path in photographs])
    alike = prints @ prints.T - np.eye(len(prints))
    assert alike.max() < COPY_CORRELATION - 0.1


def test_a_table_with_unknown_columns_is_named_and_what_to_do(tmp_path: Path) -> None:
    """The audit has no options that say how to read it."""
    data = io.BytesIO()
    Image.new("RGB", (60, 60), (90, 30, 10)).save(data, "JPEG")
    for number in range(3):
        (tmp_path / f"{number}_left.jpeg").write_bytes(data.getvalue())
    (tmp_path / "Liste.csv").write_text("Bild-Datei;DR Grad\n0_left;1\n1_left;2\n2_left;0\n")
    report = audit(tmp_path)
    assert "layout: photographs without grades (no table here could be read as one of grades)" in report
    assert "WARNING: no photograph has a grade, though there are tables: Liste.csv: no columns for photograph" in report
    assert "`tools preprocess` has options that say how to read it; then audit its cache: `tools audit CACHE`" in report


def test_a_set_without_test_photographs_says_so(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.new("RGB", (60, 60), (90, 30, 10)).save(data, "JPEG")
    (tmp_path / "1_left.jpeg").write_bytes(data.getvalue())
    assert "no-image baselines: none" in audit(tmp_path)


def test_where_no_patient_is_on_both_sides_the_fellow_eye_is_not_available(tmp_path: Path) -> None:
    rows = [f"{n}_{eye},{n % 3}" for n in range(40) for eye in ("left", "right")]
    (tmp_path / "trainLabels.csv").write_text("\n".join(["image,level", *rows]))
    said = audit(tmp_path)
    assert "fellow eye's grade: not available, for no patient of test has a photograph in train" in said
    assert said.count("quadratic weighted kappa") == 1, "the majority's, and no second time as the fellow eye's"
