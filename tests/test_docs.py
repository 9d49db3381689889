"""The commands of the README and of the pages in docs/ are commands, and every command is in the README."""

import re
import shlex
import subprocess
import textwrap
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from torch.distributed.run import get_args_parser

from tools.cli import main as tools
from trainer.cli import main as trainer

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = {path.name: path.read_text("utf-8") for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
GROUPS = {"tools": tools, "trainer": trainer}
COMMAND = re.compile(r"^    ((?:tools|trainer|make) [a-z].*?)(?:\s+#.*)?$", re.MULTILINE)
SHOWN = COMMAND.findall(README)
NO_OPTIONS_OF_OURS = {"benchmarks.md", "experiments.md", "licences.md"}
"""Pages that name options of other programs and of scripts in benchmarks/."""


@pytest.mark.parametrize("line", sorted({line for page in PAGES.values() for line in COMMAND.findall(page)}))
def test_a_shown_command_can_be_parsed(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of --config are there, the TOML file as docs/training.md shows it; runs of --fellow-eye are not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trainer.fellow_run.fellow_defaults", lambda run: {})
    toml = PAGES["training.md"].split("## Settings in a file")[1].split("\n\n")[3]
    Path("settings.toml").write_text(textwrap.dedent(toml))
    Path("runs/NAME").mkdir(parents=True)
    Path("runs/NAME/config.json").write_text('{"asked": {"epochs": 30}}')
    program, name, *arguments = shlex.split(line)
    if program == "make":
        assert f"\n{name}:" in (ROOT / "Makefile").read_text()
        return
    command = GROUPS[program].get_command(click.Context(GROUPS[program]), name)  # type: ignore[arg-type]
    assert command is not None, f"no {program} {name}"
    command.make_context(name, arguments, resilient_parsing=False).close()


@pytest.mark.parametrize("program", GROUPS)
def test_every_command_is_shown_and_helps(program: str) -> None:
    for name, command in GROUPS[program].commands.items():
        assert any(line.startswith(f"{program} {name}") for line in SHOWN), f"{program} {name} is not in the README"
        assert command.help
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or parameter.help, f"{program} {name} {parameter.name}"


def test_the_three_commands_stand_as_written() -> None:
    assert {"tools preprocess data/", "trainer fit --loader dali", "trainer fit --loader torchvision"} <= set(SHOWN)


def test_a_line_of_torchrun_reaches_our_command_with_its_options() -> None:
    """`-m` without `--` would give --run to torchrun."""
    (line,) = re.findall(r"^    (torchrun .*)$", PAGES["scaling.md"], re.MULTILINE)
    given = get_args_parser().parse_args(shlex.split(line)[1:])
    assert given.module
    assert (given.training_script, given.run_path) == ("trainer", False)
    assert given.training_script_args == ["fit", "--cache", "cache", "--run", "runs/two"]


@pytest.mark.parametrize("page", sorted(PAGES.keys() - NO_OPTIONS_OF_OURS))
def test_every_option_named_in_the_text_exists(page: str) -> None:
    """Of ours, or of a program that the pages show."""
    options = {
        opt
        for group in GROUPS.values()
        for command in group.commands.values()
        for p in command.params
        for opt in p.opts + p.secondary_opts
    }
    options |= {option for action in get_args_parser()._actions for option in action.option_strings}
    options |= {"--nworkers", "--nthreads", "--port", "--size", "--batch", "--version"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", PAGES[page])) <= options


def test_the_options_of_fit_are_in_the_table_of_training() -> None:
    fit = trainer.commands["fit"]
    named = set(re.findall(r"--[a-z][a-z0-9-]+", PAGES["training.md"]))
    assert {option for p in fit.params for option in p.opts if option.startswith("--")} <= named


def anchors(page: str) -> set[str]:
    """Of the headings, as forges make them."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    folder = ROOT if name == "README.md" else ROOT / "docs"
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", PAGES[name]):
        path, _, anchor = target.partition("#")
        assert not path or (folder / path).exists(), target
        if anchor:
            assert anchor in anchors(PAGES[Path(path).name if path else name]), target


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 160


@pytest.mark.parametrize("program", GROUPS)
def test_the_list_of_commands_has_whole_sentences(program: str) -> None:
    shown = CliRunner().invoke(GROUPS[program], ["--help"], terminal_width=80).output
    lines = shown.partition("Commands:\n")[2].splitlines()
    assert len(lines) == len(GROUPS[program].commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in lines), shown


@pytest.mark.parametrize(("program", "name"), [("trainer", "fit"), ("tools", "preprocess")])
def test_a_long_help_has_sections(program: str, name: str) -> None:
    """Each option stands once; only what commands share stands below "Options"."""
    shown = CliRunner().invoke(GROUPS[program], [name, "--help"], terminal_width=80).output
    options = [option for p in GROUPS[program].commands[name].params for option in p.opts if option.startswith("--")]
    for option in options:
        assert len(re.findall(rf"^  (?:-\w, )?{option}(?![\w-])", shown, re.MULTILINE)) == 1, option
    rest = shown.partition("\nOptions:\n")[2]
    assert set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", rest, re.MULTILINE)) <= {
        *("--local-cache", "--local-cache-gb", "--help"),
    }


def test_make_both_gives_the_commands_of_the_page() -> None:
    shown = PAGES["training.md"].split("## With few graded photographs")[1].split("\n## ")[0]
    wanted = [shlex.split(line) for line in COMMAND.findall(shown) if not line.startswith("make")]
    dry = ["make", "--dry-run", "--jobs=1", "both", "DATA=data/", "OUT=scratch-of-the-test"]
    printed = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {
        "scratch-of-the-test/painted/cache": "cache-painted",
        "scratch-of-the-test/painted/eyes": "painted",
        "scratch-of-the-test/painted/run": "runs/painted",
        "scratch-of-the-test/run": "runs/grades",
        "scratch-of-the-test/both": "runs/both",
        "scratch-of-the-test/graham": "cache-graham",
        "scratch-of-the-test/cache": "cache",
    }
    for made, named in folders.items():
        printed = printed.replace(made, named)
    given = [shlex.split(line) for line in re.findall(r"^\.venv/bin/((?:tools|trainer) .*)$", printed, re.MULTILINE)]
    left_out = {"--cache", "cache", "--out"}  # where these are the defaults
    assert sorted(sorted(set(each) - left_out) for each in given) == sorted(
        sorted(set(each) - left_out) for each in wanted
    )
