"""docs/tutorial.md: each command of the page, word for word and in order, on drawn eyes with an Excel table."""

import csv
import re
import shlex
import shutil
from pathlib import Path

import openpyxl
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from tests.trainer.conftest import invoke
from tools.cli import main as tools
from tools.phantoms.dataset import write_phantoms

PAGE = (Path(__file__).resolve().parents[1] / "docs/tutorial.md").read_text("utf-8")
COMMANDS = re.findall(r"^    ((?:tools|trainer) .*)$", PAGE, re.MULTILINE)
HEADER = [cell.strip() for cell in re.findall(r"^\| (File .*) \|$", PAGE, re.MULTILINE)[0].split("|")]
EYES = 40
"""Fewer leave a validation with one kind of patients, which gives no threshold; `predict --defer` needs one."""


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with clinic/ and new/ as the page shows them, with a row and a photograph too many."""
    drawn = tmp_path / "drawn"
    write_phantoms(drawn, EYES)
    (tmp_path / "clinic/photos").mkdir(parents=True)
    (tmp_path / "new").mkdir()
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.append(HEADER)
    for number, row in enumerate(csv.DictReader((drawn / "trainLabels.csv").read_text("utf-8").splitlines())):
        patient, eye = row["image"].split("_")
        shutil.move(drawn / f"train/{row['image']}.jpeg", tmp_path / f"clinic/photos/IMG_{number:04d}.jpg")
        laterality, camera = {"left": "OS", "right": "OD"}[eye], f"Camera {'AB'[int(patient) % 2]}"
        book.active.append([f"IMG_{number:04d}.jpg", f"{int(patient):06d}", laterality, int(row["level"]), camera])
    book.active.append(["IMG_9998.jpg", "000999", "OD", 1, "Camera A"])
    book.save(tmp_path / "clinic/grades.xlsx")
    shutil.copy(tmp_path / "clinic/photos/IMG_0000.jpg", tmp_path / "clinic/photos/IMG_9999.jpg")
    shutil.copy(tmp_path / "clinic/photos/IMG_0001.jpg", tmp_path / "new/IMG_7000.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_runs_as_it_stands(clinic: Path) -> None:
    torch.set_num_threads(1)  # small photographs: a second thread only waits
    outputs = []
    for line in COMMANDS:
        program, *arguments = shlex.split(line)
        if program == "trainer":
            outputs.append(invoke(*arguments).output)
        else:
            result = CliRunner().invoke(tools, arguments)
            assert result.exit_code == 0, result.output
            outputs.append(result.output)
    unnamed, named = outputs[:2]
    assert "leak: the patients are not known" in unnamed
    assert "leak: none, no patient of the 8 test photographs is in train" in named
    for mistake in ("IMG_9998.jpg' has no photograph", "IMG_9999.jpg: no row names it", "found 41 = 40 cached"):
        assert mistake in unnamed
        assert mistake in named
    assert ": 0 encoded in" in named, "only the table is another"
    manifest = pd.read_csv("cache/manifest.csv", dtype=str)
    assert manifest["patient"].nunique() == EYES / 2
    assert set(manifest["eye"]) == {"left", "right"}
    for name in ("sheet.png", "runs/trial/report.html", "runs/trial/confusion_test.png", "cache/rejects.csv"):
        assert (clinic / name).stat().st_size, name
    predictions = pd.read_csv("predictions.csv")
    assert predictions["id"].tolist() == ["IMG_7000"]
    assert {"predicted", "p0", "p4", "referable", "defer", "defer_why"} <= set(predictions)


def test_the_page_has_every_step() -> None:
    assert [" ".join(line.split()[:2]) for line in COMMANDS] == [
        *("tools preprocess", "tools preprocess", "tools sheet", "tools audit"),
        *("trainer fit", "trainer evaluate", "trainer report", "trainer predict"),
    ]
