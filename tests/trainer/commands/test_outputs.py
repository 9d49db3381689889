"""Nothing that was read is ever written over, and nothing that somebody else has made."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline.command_line import Guarded
from tests.trainer.conftest import Trained, invoke
from trainer.training.range_test import RATES

CPU = ("--device", "cpu")


def test_a_file_that_cannot_take_its_place_is_called_by_its_name_and_not_by_a_temporary_one(tmp_path: Path) -> None:
    @click.command(cls=Guarded)
    def command() -> None:
        os.replace(tmp_path / "dates.json.123.tmp", tmp_path / "dates.json")

    (tmp_path / "dates.json.123.tmp").write_text("{}")
    (tmp_path / "dates.json").mkdir()
    result = CliRunner().invoke(command)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {tmp_path / 'dates.json'}: cannot be read or written (")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photographs, a, b and c."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate("abc"):
        picture = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(*arguments: object) -> str:
    """The one line with which `trainer` refuses these."""
    stderr = invoke(*arguments, exit=1).stderr
    assert re.fullmatch(r"Error: .*\n", stderr), stderr
    return stderr


@pytest.mark.parametrize("out", ["photos", "photos/../photos", "link", "."])
def test_photographs_are_never_replaced_by_their_overlays(
    out: str, photos: Path, trained: Trained, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(photos)
    before = tree(photos)
    assert "the command reads" in refused("explain", trained.run, "photos", "--out", out, *CPU)
    assert tree(photos) == before


def test_nor_where_they_are_named_one_by_one(photos: Path, trained: Trained) -> None:
    before = tree(photos)
    line = refused("explain", trained.run, "photos/a.png", "photos/b.png", "--out", "photos", *CPU)
    assert "contains photos/a.png" in line
    assert tree(photos) == before


def test_the_first_photograph_is_no_place_for_a_table(photos: Path, trained: Trained) -> None:
    """`--out photos/*.png`: the shell gives --out the first of them."""
    before = tree(photos)
    line = refused("predict", trained.run, "--out", "photos/a.png", "photos/b.png", "photos/c.png", *CPU)
    assert "photos/a.png: exists and is not a table of predictions" in line
    line = refused("predict", trained.run, "photos/a.png", "--out", "photos/a.png", *CPU)
    assert "photos/a.png: the command reads it" in line
    assert tree(photos) == before


@pytest.mark.parametrize(
    ("command", "option", "name"),
    [
        ("export", "--onnx", "model.safetensors"),
        ("export", "--pt2", "last.pt"),
        ("predict", "--out", "predictions_test.csv"),
        ("predict", "--out", "predictions_train.csv"),  # which is not there yet
        ("report", "--out", "confusion_test.png"),
        ("report", "--card", "metrics_test.json"),
    ],
)
def test_the_files_of_a_run_are_its_own(command: str, option: str, name: str, photos: Path, trained: Trained) -> None:
    run = trained.copy("run")
    before = tree(run)
    more = ["photos", *CPU] if command == "predict" else []
    line = refused(command, "run", *more, option, f"run/{name}")
    assert re.search(f"run/{name}: (a file of the run|the command reads it)", line), line
    assert tree(run) == before


def test_what_users_put_into_a_run_is_theirs_to_make(photos: Path, trained: Trained) -> None:
    trained.copy("run")
    invoke("predict", "run", "photos", "--out", "run/new.csv", *CPU)
    invoke("export", "run", "--pt2", "run/model.pt2")
    assert len(pd.read_csv("run/new.csv")) == 3


def test_another_commands_result_stays(photos: Path, trained: Trained) -> None:
    for name in ("out.csv", "compare.csv", "m.pt2", "page.html", "card.md"):
        Path(name).write_text("somebody's")
    for arguments in (
        ("predict", trained.run, "photos", "--out", "out.csv", *CPU),
        ("compare", trained.run),
        ("export", trained.run, "--pt2", "m.pt2"),
        ("report", trained.run, "--out", "page.html"),
        ("report", trained.run, "--out", "other.html", "--card", "card.md"),
    ):
        assert "so it is left as it is" in refused(*arguments)
    assert {path.read_text() for path in Path().glob("*.*")} == {"somebody's"}


def test_a_newer_result_of_the_same_kind_takes_the_olders_place(
    photos: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.training.range_test.RATES", RATES[::12])
    trained.copy("run")
    for arguments in (
        ("predict", "run", "photos", *CPU),
        ("compare", "run"),
        ("export", "run", "--pt2", "m.pt2"),
        ("report", "run", "--out", "page.html", "--card", "card.md"),
        ("fit", "--cache", trained.cache, "--find-lr", "--batch", 8, "--weights", "none", *CPU),
    ):
        for _ in range(2):
            invoke(*arguments, rendered=True)
    Path("predictions.csv").write_text("")  # as `mktemp` leaves it
    invoke("predict", "run", "photos", *CPU)
    assert len(pd.read_csv("predictions.csv")) == 3


def test_a_model_card_that_was_filled_in_is_kept(trained: Trained) -> None:
    trained.copy("run")
    invoke("report", "run", "--card", "card.md")
    edited = Path("card.md").read_text().replace("TODO", "Clinic of Xyz", 1)
    Path("card.md").write_text(edited)
    assert "an edited one is kept" in refused("report", "run", "--card", "card.md")
    assert Path("card.md").read_text() == edited


def test_two_outputs_need_two_names(trained: Trained) -> None:
    assert "two outputs of one name" in refused("export", trained.run, "--onnx", "m", "--pt2", "./m")
    assert not Path("m").exists()


def test_explained_again_the_folder_holds_one_result(photos: Path, trained: Trained) -> None:
    invoke("explain", trained.run, "photos", *CPU)
    (photos / "a.png").unlink()
    invoke("explain", trained.run, "photos", *CPU)
    assert sorted(tree(Path("explained"))) == ["b.jpg", "c.jpg", "contact_sheet.png", "explained.csv", "rejects.csv"]
    record = pd.read_csv("explained/explained.csv", keep_default_na=False)
    assert sorted(record["file"]) == sorted(tree(Path("explained")))
    assert record.loc[record["id"] != "", "id"].tolist() == ["b", "c"]
    Path("explained/a.jpg").write_bytes(b"somebody's")
    before = tree(Path("explained"))
    assert "holds 'a.jpg', which this command did not make" in refused("explain", trained.run, "photos", *CPU)
    assert tree(Path("explained")) == before


def test_a_record_never_leads_out_of_its_folder(photos: Path, trained: Trained) -> None:
    invoke("explain", trained.run, "photos", *CPU)
    Path("mine.jpg").write_bytes(b"mine")
    with open("explained/explained.csv", "a") as record:
        record.write("../mine.jpg,,,,,\n")
    invoke("explain", trained.run, "photos/b.png", *CPU)
    assert Path("mine.jpg").read_bytes() == b"mine"


def test_explaining_that_was_killed_goes_on_in_its_folder(photos: Path, trained: Trained) -> None:
    """The record is there before the first picture: it says which files are the command's own."""
    invoke("explain", trained.run, "photos", *CPU)
    for name in ("contact_sheet.png", "rejects.csv", "c.jpg"):
        (Path("explained") / name).unlink()
    lines = Path("explained/explained.csv").read_text().splitlines()
    planned = [lines[0], *(f"{line.partition(',')[0]},,,,," for line in lines[1:])]
    Path("explained/explained.csv").write_text("\n".join(planned) + "\n")
    invoke("explain", trained.run, "photos", *CPU)
    assert "c.jpg" in tree(Path("explained"))


def test_a_photograph_with_an_endless_name_has_a_picture(photos: Path, trained: Trained) -> None:
    (photos / "a.png").rename(photos / f"{'é' * 120}.png")
    invoke("explain", trained.run, "photos", *CPU)
    assert len(tree(Path("explained"))) == 6


def test_a_link_is_followed(photos: Path, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to("elsewhere.csv")
    invoke("predict", trained.run, "photos", "--out", "link.csv", *CPU)
    assert (tmp_path / "link.csv").is_symlink()
    assert len(pd.read_csv("elsewhere.csv")) == 3
    (tmp_path / "other.csv").symlink_to("photos/a.png")
    before = tree(photos)
    assert "exists and is not a table" in refused("predict", trained.run, "photos", "--out", "other.csv", *CPU)
    assert tree(photos) == before


def test_a_fifo_gets_the_rows_and_stderr_the_rest(photos: Path, trained: Trained) -> None:
    (photos / "bad.png").write_text("no picture")
    os.mkfifo("p")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(Path("p").read_text()))
    reader.start()
    done = invoke("predict", trained.run, "photos", "--out", "p", *CPU)
    reader.join()
    assert Path("p").is_fifo()
    assert [line.split(",")[0] for line in got[0].splitlines()] == ["id", "a", "b", "c"]
    assert done.stdout == ""
    assert "photos/bad.png: not an image: text" in done.stderr
    assert not list(Path().glob("*rejects*"))


TWICE = """
import os, sys
from trainer.cli import main
main(sys.argv[1:], standalone_mode=False)
os.dup2(os.open("out.csv", os.O_WRONLY | os.O_CREAT), 1)
main(sys.argv[1:], standalone_mode=False)
"""


def test_to_stdout_go_the_rows_alone(photos: Path, trained: Trained) -> None:
    """To a pipe, and to a file."""
    arguments = ["predict", str(trained.run), "photos", "--out", "/dev/stdout", *CPU]
    done = subprocess.run([sys.executable, "-c", TWICE, *arguments], capture_output=True, text=True, check=True)
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["id", "a", "b", "c"]
    assert Path("out.csv").read_text() == done.stdout


HOLD = """
import sys
from pathlib import Path
from pipeline.storage.atomic import claimed
with claimed([Path("predictions.csv")]):
    print("ready", flush=True)
    sys.stdin.read()
"""
"""What a predict does to its output while it works, for as long as stdin is open."""


def test_a_second_predict_into_the_same_file_is_told(photos: Path, trained: Trained) -> None:
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "ready\n"
    line = refused("predict", trained.run, "photos", *CPU)
    assert "predictions.csv: another command is writing it; wait until that ends" in line
    first.communicate()
    invoke("predict", trained.run, "photos", *CPU)


def test_figures_among_the_photographs_are_not_graded(photos: Path, trained: Trained) -> None:
    """`trainer predict runs/* .` in a folder that holds data and results."""
    Path("runs").mkdir()
    for name in ("one", "two"):
        trained.copy(Path("runs") / name) if Path("runs").exists() else (
            Path("runs").mkdir(),
            trained.copy("runs/" + name),
        )
    invoke("explain", "runs/one", "photos", *CPU)
    invoke("compare", "runs/one", "runs/two")
    done = invoke("predict", "runs/one", "runs/two", "runs/two/accuracy.png", ".", *CPU)
    assert pd.read_csv("predictions.csv")["id"].tolist() == ["a", "b", "c"]
    left_out = [line for line in done.stderr.splitlines() if line.startswith("left out: ")]
    assert left_out == [
        "left out: runs/two, a run of this program",
        "left out: explained, pictures of `trainer explain` of this program",
        "left out: runs/one, a run of this program",
        "left out: runs/two, a run of this program",
    ]
    assert "WARNING: runs/two: no photographs below it" in done.stderr
    rejects = pd.read_csv("predictions_rejects.csv").set_index("source")["reason"]
    assert rejects["runs/two/accuracy.png"] == "belongs to a run of this program, no photograph"
    assert rejects["compare.png"] == "a picture that this program drew, no photograph"


def test_a_record_copied_beside_photographs_makes_them_nobodys_to_delete(photos: Path, trained: Trained) -> None:
    """The record of other photographs, and a table of the user's own that has its name."""
    invoke("explain", trained.run, "photos", "--out", "ex", *CPU)
    mine = {f"{name}.jpg": (photos / f"{name}.png").read_bytes() for name in "abc"}
    for table in (Path("ex/explained.csv").read_bytes(), b"picture,remark\na.jpg,ok\n"):
        folder = Path("mine")
        folder.mkdir(exist_ok=True)
        for name, data in {**mine, "explained.csv": table}.items():
            (folder / name).write_bytes(data)
        before = tree(folder)
        assert "which this command did not make" in refused("explain", trained.run, "photos", "--out", "mine", *CPU)
        assert tree(folder) == before
        invoke("predict", trained.run, "mine", "--out", "p.csv", *CPU)
        assert len(pd.read_csv("p.csv")) == 3


def test_a_link_among_the_files_of_a_run_or_of_explained_leads_nowhere(photos: Path, trained: Trained) -> None:
    before = tree(photos)
    invoke("explain", trained.run, "photos", *CPU)
    Path("explained/a.jpg").unlink()
    Path("explained/a.jpg").symlink_to(photos / "a.png")
    assert "holds 'a.jpg', which this command did not make" in refused("explain", trained.run, "photos", *CPU)
    for name, command in (("report.html", "report"), ("roc_test.png", "report"), ("confusion_test.csv", "evaluate")):
        run = trained.copy(f"run-{name}")
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(photos / "a.png")
        refused(command, run)
    assert tree(photos) == before


def test_a_page_of_ones_own_in_a_run_stays(trained: Trained) -> None:
    run = trained.copy("run")
    (run / "report.html").write_text("our ward's report")
    assert "exists and is not a report" in refused("report", "run")
    assert (run / "report.html").read_text() == "our ward's report"
    trained.copy("other")
    invoke("report", "other")
    assert "the report of another run" in refused("report", "run", "--out", "other/report.html")
    Path("other/report.html").unlink()
    assert "need a file each" in refused("report", "other", "--card", "other/report.html")


def test_a_text_that_names_this_program_is_no_network(trained: Trained) -> None:
    for option, text in (("--onnx", "We used fundus-grading (Smith)."), ("--pt2", "import fundus_grading.json")):
        Path("thesis.txt").write_text(text)
        assert "exists and is not an exported network" in refused("export", trained.run, option, "thesis.txt")
        assert Path("thesis.txt").read_text() == text


def test_a_fifo_among_photographs_hangs_nothing(photos: Path, trained: Trained) -> None:
    for name in ("config.json", "explained.csv"):
        os.mkfifo(photos / name)
    invoke("predict", trained.run, "photos", *CPU)
    for arguments in (("show", "photos/config.json"), ("export", "photos/config.json", "--pt2", "m")):
        assert "not a regular file" in refused(*arguments)
    stderr = invoke("fit", "--cache", trained.cache, "--weights", "photos/config.json", exit=1).stderr
    assert "photos/config.json is damaged" in stderr
    (photos / "explained.csv").unlink()
    (photos / "config.json").unlink()
    (photos / "config.json").write_text("[" * 200_000)
    invoke("predict", trained.run, "photos", *CPU)


def test_a_current_folder_that_is_gone_is_one_line(
    trained: Trained, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "the current folder is gone" in refused("predict", trained.run, photos, *CPU)
    monkeypatch.chdir(tmp_path)


def test_a_full_disk_is_one_line_in_every_command(trained: Trained) -> None:
    for name in ("page.html", "m.pt2"):
        Path(name).symlink_to("/dev/full")
    assert "No space left on device" in refused("report", trained.copy("run"), "--out", "page.html")
    assert "No space left on device" in refused("export", trained.run, "--pt2", "m.pt2")


COMMANDS = """
import json, sys
from pipeline.machine import set_up
set_up()
from trainer.cli import main
for arguments in json.loads(sys.argv[1]):
    main(arguments, standalone_mode=False)
"""


@pytest.mark.slow
def test_a_run_may_be_called_anything(photos: Path, trained: Trained) -> None:
    name = "r\udce9s $x$ [b]"  # bytes that are no UTF-8, and what means something to matplotlib and rich
    trained.copy(name)
    fit = ["fit", "--cache", trained.cache, "--epochs", 1, "--head-epochs", 0, "--batch", 8, *CPU]
    commands = [
        ["evaluate", name, *CPU],
        ["report", name, "--card", "card.md"],
        ["compare", name, trained.run],
        ["predict", name, "photos", *CPU],
        ["export", name, "--pt2", "m.pt2"],
        ["show", name],
        [*fit, "--weights", f"{name}/model.safetensors", "--run", f"{name}2"],
        ["fit", "--resume", "--run", f"{name}2"],
    ]
    texts = json.dumps([[str(word) for word in command] for command in commands])
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    done = subprocess.run([sys.executable, "-c", COMMANDS, texts], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"r\xe9s $x$ [b]2 is finished" in done.stdout
    assert b"TensorBoard writes no folder whose name is not UTF-8" in done.stderr


def test_a_locale_without_utf8_is_one_line(trained: Trained) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "show", str(trained.run)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1
    assert done.stderr == "Error: names of files are read as ascii here, not as UTF-8; set PYTHONUTF8=1\n"
