"""Every parameter of every command, given what cannot be: one line, the right exit code, nothing left behind.

The commands' own parameters are walked, so a new option is in it by itself. A new command needs a line in VALID.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner

from pipeline.command_line import Folder, OutputFile, OutputFolder, ResumableOutput
from tests.conftest import write_tiny_eyes
from tests.trainer.conftest import FAST, write_tiny_cache
from tools.cli import main as tools
from trainer.cli import main as trainer

PROGRAMS: dict[str, click.Group] = {"tools": tools, "trainer": trainer}
VALID: dict[str, list[str]] = {
    "tools preprocess": ["eyes", "--out", "new", "--size", "32", "--workers", "1"],
    "tools datasets": ["ddr"],
    "tools check": ["cache"],
    "tools sheet": ["cache", "new.png"],
    "tools audit": ["cache"],
    "tools phantom": ["new", "--eyes", "1"],
    "tools bench": ["cache", "--seconds", "0.01"],
    "trainer fit": ["--cache", "cache", *map(str, FAST)],
    "trainer folds": ["--folds", "2", "--cache", "cache", *map(str, FAST), "--run", "new"],
    "trainer ensemble": ["new", "run", "run2", "--device", "cpu"],
    "trainer evaluate": ["run", "--device", "cpu"],
    "trainer compare": ["run"],
    "trainer report": ["run"],
    "trainer predict": ["run", "photo.png", "--device", "cpu"],
    "trainer serve": ["run", "--device", "cpu", "--port", "0"],
    "trainer explain": ["run", "photo.png", "--device", "cpu"],
    "trainer export": ["run", "--pt2", "new.pt2"],
    "trainer show": ["run"],
    "trainer recipes": [],
}
"""Arguments with which each command works, below the folder that `place` makes."""
SHARED_WITH_FIT = {parameter.name for parameter in trainer.commands["fit"].params} - {"run"}
LONG = "x" * 300
NOWHERE = "/proc/none/x"
"""Where nobody may write, root neither."""
COLUMNS = ("id_column", "grade_column", "patient_column", "eye_column", "split_column")
NO_FILE = ["", ".", "folder", "file", "file/x", LONG, NOWHERE, "cache/x", "run/config.json", "run/model.safetensors"]
NO_STEM = ["", ".", "file/x", LONG, NOWHERE, "cache/x"]
NO_FOLDER = ["", "file", "file/x", LONG, NOWHERE, "cache/x"]
NO_NUMBER = ["", "x", "nan", "inf", "-inf", "1e400"]


def bad_values(command: str, parameter: click.Parameter) -> list[str]:
    """What this parameter must refuse."""
    match parameter.type:
        case OutputFile():
            return NO_STEM if command == "trainer compare" else NO_FILE
        case OutputFolder():
            return [*NO_FOLDER, ".", "folder", "cache", "run"]
        case ResumableOutput():
            return [*NO_FOLDER, "folder", "run" if command == "tools preprocess" else "cache"]
        case click.IntRange() as kind:
            beyond = [kind.min - 1 if kind.min is not None else None, kind.max + 1 if kind.max is not None else None]
            assert kind.max is not None, f"{command} {parameter.name}: how many are too many?"
            return [*NO_NUMBER, "1.5", str(10**30), *(str(value) for value in beyond if value is not None)]
        case click.FloatRange() as kind:
            return [*NO_NUMBER, *([str(kind.min - 1)] if kind.min is not None else [])]
        case click.Choice():
            return ["", "nonsense"]
        case Folder() if parameter.name == "local_cache":
            return [""]  # what it is used for, a cache at a URL, is not here
        case Folder() if parameter.name == "id_key":
            return ["", "folder", "file", "file/x", LONG, NOWHERE, "cache/x", "new/x", "missing/x"]
        case Folder():
            refused = parameter.name == "photographs"  # a file that is none is an answer, and listed in a table
            return ["", "missing", "folder", "file/x", LONG, *([] if refused else ["file"])]
        case click.types.FuncParamType():  # a path or a URL
            return ["", "missing", "folder", "file", "file/x", LONG, "ftp://x/y"]
        case kind if kind is click.FLOAT:
            return NO_NUMBER
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return []
    text = {
        "cache": ["", "missing", "folder", "file", "file/x", LONG, "ftp://x/y"],
        "augment": ["", "nonsense", "a:b:c", "no_such_module:f", "os:abort", LONG],
        "weights": ["", "missing", "folder", "file", "file/x", LONG],
        "config": ["", "missing", "folder", "file", "file/x", "photo.png", LONG],
        "fellow_eye": ["", "missing", "folder", "file", "file/x", "cache", LONG],
        "name": ["", "missing", LONG],
        "names": ["", ".", "..", "a/b", "/", "forest.png", LONG],
        "subgroups": ["", "missing", LONG],
        "patient_pattern": ["(", "nogroup"],
        "seeds": ["", "x", "-1", "1.5", "0,", "0,0", str(2**64), LONG],
        **{column: ["", "missing", LONG] for column in (*COLUMNS, "keep_column")},
        "gradable_column": ["", "missing", "missing=1", "level=", LONG],
        "scale": ["", "missing", "folder", "file", "file/x", LONG],
        "layout": ["", "missing", "folder", "file", "file/x", LONG],
        "split": ["", "missing", "folder", "file", "file/x", LONG],
        "host": ["", "missing.invalid", "a b", "203.0.113.1", LONG],  # the fourth is nobody's
        "scheduler": ["", "nonsense", "tcp://127.0.0.1:1"],
    }
    return text[parameter.name or ""]  # KeyError: say above what this new parameter must refuse


def cases() -> list[Any]:
    found = []
    for program, group in PROGRAMS.items():
        for name, command in group.commands.items():
            for parameter in command.params:
                if name == "folds" and parameter.name in SHARED_WITH_FIT:
                    continue  # tried there
                for value in bad_values(f"{program} {name}", parameter):
                    id = f"{program}-{name}-{parameter.name}-{value[:20]}"
                    found.append(pytest.param(program, name, parameter, value, id=id))
    return found


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # tiny tensors: a second thread only waits
    folder = tmp_path_factory.mktemp("made")
    write_tiny_cache(folder / "cache")
    write_tiny_cache(folder / "other", test=[0, 4])
    write_tiny_eyes(folder / "eyes", range(3))
    shutil.copy(folder / "eyes" / "0_left.png", folder / "photo.png")
    (folder / "folder").mkdir()
    (folder / "folder" / "notes.txt").write_text("somebody's")
    (folder / "file").write_text("somebody's")
    (folder / "labels.csv").write_text("image,level\n0_left,1\n")
    done = CliRunner().invoke(
        trainer, ["fit", "--cache", str(folder / "cache"), *map(str, FAST), "--run", str(folder / "run")]
    )
    assert done.exit_code == 0, done.output
    shutil.copytree(folder / "run", folder / "run2")
    return folder


@pytest.fixture
def place(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything below a folder: who writes a file anew changes one of them."""
    return {
        str(path.relative_to(folder)): (about.st_size, about.st_mtime_ns if path.is_file() else 0)
        for path in folder.rglob("*")
        for about in [path.stat()]
    }


def arguments_with(program: str, name: str, parameter: click.Parameter, value: str) -> list[str]:
    """The command line with the value in the parameter's place."""
    valid = VALID[f"{program} {name}"]
    if isinstance(parameter, click.Argument):
        group = PROGRAMS[program].commands[name]
        at = [each.name for each in group.params if isinstance(each, click.Argument)].index(parameter.name)
        return [*valid[:at], value, *valid[at + 1 :]]
    if parameter.name in COLUMNS:
        valid = [*valid, "--labels", "labels.csv"]
    if parameter.name == "names":
        valid = [*valid, "--cache", "other"]
    return [*valid, parameter.opts[0], value]


@pytest.mark.parametrize(("program", "name", "parameter", "value"), cases())
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    program: str, name: str, parameter: click.Parameter, value: str, place: Path
) -> None:
    before = tree(place)
    done = CliRunner().invoke(
        PROGRAMS[program], [name, *arguments_with(program, name, parameter, value)], prog_name=program
    )
    assert done.exit_code in (1, 2), f"{done.exit_code}: {done.output}"
    assert isinstance(done.exception, SystemExit), done.exception
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.output
    assert done.stderr.splitlines()[-1] == errors[0], done.output
    assert len(errors[0]) < 1000
    assert tree(place) == before


def test_every_command_is_walked() -> None:
    assert VALID.keys() == {f"{program} {name}" for program, group in PROGRAMS.items() for name in group.commands}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_line(place: Path, tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o500)
    done = CliRunner().invoke(trainer, ["predict", "run", "photo.png", "--out", str(shut / "p.csv")])
    assert done.exit_code == 1
    assert done.stderr == f"Error: {shut / 'p.csv'}: cannot be written (its folder may not be written to)\n"
