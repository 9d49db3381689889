"""`tools datasets` and docs/datasets.md say what known_sets.toml knows."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from tools.cli import main
from tools.datasets import details, overview, published
from tools.preprocess_options import READING_OPTIONS
from tools.sources.columns import ROLES
from tools.sources.known_sets import known_sets
from tools.sources.scales import known_scales

PAGE = (Path(__file__).parents[2] / "docs/datasets.md").read_text()
OPTIONS = {
    "photograph": "`--id-column C`",
    "grade": "`--grade-column C`",
    "patient": "`--patient-column C`",
    "eye": "`--eye-column C`",
    "split": "`--split-column C`",
    "gradable": "`--gradable-column C=VALUES`",
}


def rows(*columns: str) -> str:
    return "| " + " | ".join(columns) + " |"


@pytest.mark.parametrize("width", [80, 120])
def test_every_set_has_a_line_that_fits_the_terminal(width: int) -> None:
    lines = overview(width).splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines if line[:1].strip()][1 : len(known_sets()) + 1] == [*known_sets()]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", known_sets())
def test_one_set_is_told_whole_and_fits_the_terminal(name: str, width: int) -> None:
    told, known = details(name, width), known_sets()[name]
    assert all(len(line) <= width or "https://" in line for line in told.splitlines())
    whole = " ".join(told.split())
    for text in (known.title, known.home, known.lies, known.command, known.patients, known.wrong, known.checked):
        assert " ".join(text.split()) in whole


def test_the_command_lists_and_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    listed = CliRunner().invoke(main, ["datasets"])
    assert (listed.exit_code, listed.output) == (0, overview(80) + "\n")
    assert "\neyepacs             35,126  EyePACS (Kaggle 2015)\n" in listed.output
    assert "\nairogs                none  AIROGS\n" in listed.output
    shown = CliRunner().invoke(main, ["datasets", "paraguay"])
    assert (shown.exit_code, shown.output) == (0, details("paraguay", 80) + "\n")
    assert "command     tools preprocess SRC --scale paraguay\n" in shown.output
    assert "published   757: 187 / 4 / 80 / 284 / 202 (Castillo Benitez et al. 2021," in shown.output


def test_a_name_that_no_set_has_is_one_line_with_those_that_are_known() -> None:
    done = CliRunner().invoke(main, ["datasets", "kaggle"])
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: no data set is called 'kaggle'; known are eyepacs, ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", known_sets())
def test_the_page_has_the_set_with_its_numbers(name: str) -> None:
    known = known_sets()[name]
    assert rows(f"`{name}`", known.title, known.home, known.lies, f"`{known.command}`") in PAGE
    assert rows(f"`{name}`", known.patients, published(known), known.wrong, known.checked) in PAGE


def test_the_page_has_no_other_set() -> None:
    public = PAGE.partition("## Public sets")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", public, re.MULTILINE) == [*known_sets()] * 2


@pytest.mark.parametrize("role", ROLES)
def test_the_page_has_the_usual_headers_and_their_option(role: str) -> None:
    assert rows(role, ", ".join(ROLES[role]), OPTIONS[role]) in PAGE


@pytest.mark.parametrize("name", known_scales())
def test_the_page_has_the_scale_with_its_source(name: str) -> None:
    scale = known_scales()[name]
    worth = "its steps are those of ICDR" if scale.exact else "little: only referable retinopathy is comparable"
    assert rows(f"`{name}`", f"{scale.title}; {scale.source}", scale.steps, worth) in PAGE


def test_the_page_names_the_options_that_there_are() -> None:
    there = {option for param in main.commands["preprocess"].params for option in param.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    assert named <= there
    reading = {f"--{name.replace('_', '-')}" for name in READING_OPTIONS} - {"--keep-blank"}
    assert reading <= named


def test_the_pages_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table, the description and the command of the page, on pictures of 48 px."""
    monkeypatch.chdir(tmp_path)
    table, description = (re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[1] for kind in ("csv", "toml"))  # type: ignore[index]
    (command,) = re.findall(r"^    (tools preprocess SRC --layout .*)$", PAGE, re.MULTILINE)
    (tmp_path / "SRC").mkdir()
    (tmp_path / "SRC/liste.csv").write_text(table)
    (tmp_path / "clinic.toml").write_text(description)
    for number, name in enumerate(re.findall(r"^\d+\.jpg", table, re.MULTILINE)):
        noise = np.random.default_rng(number).integers(60, 200, (48, 48, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "SRC" / name)
    done = CliRunner().invoke(main, [*shlex.split(command)[1:], "--size", "32", "--workers", "1", "--keep-blank"])
    assert done.exit_code == 0, done.output
    assert "note: liste.csv: read as Our clinic, 2019 to 2024\n" in done.output
    cached = pd.read_csv(tmp_path / "cache/manifest.csv", dtype=str, keep_default_na=False).set_index("id")
    assert cached["grade"].to_dict() == {"0001": "0", "0002": "2", "0003": "", "0004": "", "0005": "4"}
    assert cached["eye"].to_dict() == {
        "0001": "right",
        "0002": "left",
        "0003": "right",
        "0004": "left",
        "0005": "right",
    }
    assert cached["patient"]["0001"] == cached["patient"]["0002"] == "F1"
    assert {id for id, flags in cached["flags"].items() if "ungradable" in flags.split()} == {"0003", "0004"}


def test_the_pages_scale_of_ones_own_can_be_read(tmp_path: Path) -> None:
    from tools.sources.scales import UNGRADABLE, open_scale

    (text,) = re.findall(r'^    title = "Our scale"\n.*?\n\n', PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "ours.toml").write_text(text)
    scale = open_scale(str(tmp_path / "ours.toml"))
    assert [scale.parse(step) for step in ("0", "1", "2", "u")] == [0, 2, 4, UNGRADABLE]
