"""The papers of the project say what is so."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tools.cli import main as tools
from trainer.cli import main as trainer

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_package_that_is_asked_for_has_its_licence_listed() -> None:
    requirements = chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    packages = {re.match(r"[\w-]+", each)[0] for each in requirements} - {PROJECT["name"]}  # type: ignore[index]
    rows = re.findall(r"^\| ([\w, -]+) \| ", (ROOT / "docs/licences.md").read_text(), re.MULTILINE)
    assert {name for row in rows for name in row.split(", ")} - {"package"} == packages


def test_the_licence_is_one() -> None:
    assert PROJECT["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")
    assert "license: MIT\n" in (ROOT / "CITATION.cff").read_text()


def test_the_version_is_one() -> None:
    version = PROJECT["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(("program", "group"), [("tools", tools), ("trainer", trainer)])
def test_a_program_says_its_version(program: str, group: click.Group) -> None:
    done = CliRunner().invoke(group, ["--version"], prog_name=program)
    assert (done.exit_code, done.output) == (0, f"{program}, version {PROJECT['version']}\n")


def test_the_forge_runs_the_readmes_command() -> None:
    assert "run: make test\n" in (ROOT / ".github/workflows/test.yml").read_text()
    assert "\nmake test\n" in (ROOT / ".ci/run").read_text()
    assert "    make test " in (ROOT / "README.md").read_text()
