import subprocess
import sys
from collections.abc import Callable

import click
import pytest
from click.testing import Result

from pipeline.loading.loaders import LOADERS
from trainer import config
from trainer.cli import main

Trainer = Callable[..., Result]


def test_every_command_and_option_says_what_it_does() -> None:
    assert main.help
    for name, command in main.commands.items():
        assert command.help, name
        for option in command.params:
            assert isinstance(option, click.Argument) or option.help, f"{name} {option.name}"  # type: ignore[attr-defined]


def test_help_imports_nothing_slow() -> None:
    code = (
        "import sys, trainer.cli, contextlib\n"
        "with contextlib.suppress(SystemExit): trainer.cli.main(['fit', '--help'])\n"
        "slow = {'torch', 'torchvision', 'pandas', 'numpy', 'sklearn', 'matplotlib', 'cv2'}\n"
        "print(sorted(slow & sys.modules.keys()))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--class-weights" in output
    assert output.splitlines()[-1] == "[]"


def test_the_package_can_be_run() -> None:
    output = subprocess.run(
        [sys.executable, "-m", "trainer", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert output.startswith("Usage: trainer ")


def test_the_loaders_offered_are_those_there_are() -> None:
    assert config.LOADERS == LOADERS


@pytest.mark.parametrize(
    "options",
    [
        ("--model", "alexnet"),
        ("--lr", "0"),
        ("--lr", "nan"),
        ("--momentum", "1"),
        ("--epochs", "0", "--head-epochs", "0"),
        ("--epochs", "0", "--weights", "none"),
        ("--batch", "0"),
        ("--size", "16"),
        ("--nonsense",),
    ],
)
def test_wrong_usage_exits_with_two(options: tuple[str, ...], trainer: Trainer) -> None:
    trainer("fit", "--cache", "nowhere", *options, exit=2)


def test_a_missing_cache_is_one_line(trainer: Trainer) -> None:
    stderr = trainer("fit", "--cache", "nowhere", exit=1).stderr
    assert "nowhere does not exist" in stderr
    assert stderr.count("\n") == 1
