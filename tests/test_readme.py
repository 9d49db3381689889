"""The README's commands are commands, and every command is in the README."""

import re
import shlex
from pathlib import Path

import click
import pytest
from torch.distributed.run import get_args_parser

from tools.cli import main as tools
from trainer.cli import main as trainer

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
GROUPS = {"tools": tools, "trainer": trainer}
SHOWN = re.findall(r"^    ((?:tools|trainer|make) .*?)(?:\s+#.*)?$", README, re.MULTILINE)


@pytest.mark.parametrize("line", SHOWN)
def test_a_shown_command_can_be_parsed(line: str) -> None:
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


def test_every_option_named_in_the_text_exists() -> None:
    """Of ours or of torchrun's."""
    options = {
        opt
        for group in GROUPS.values()
        for command in group.commands.values()
        for p in command.params
        for opt in p.opts
    }
    options |= {option for action in get_args_parser()._actions for option in action.option_strings}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", README)) <= options


def test_pictures_are_there() -> None:
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / path).is_file(), path
