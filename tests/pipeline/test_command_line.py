"""What both command lines share: errors of the library are one line and an exit code, and options leave no trace."""

import os
import pickle
import re

import click
import pytest
from click.testing import CliRunner

from pipeline.command_line import GuardedGroup, local_cache_gb_option, local_cache_option
from pipeline.errors import FundusError, LoaderMissing, StoreError, UsageError
from pipeline.storage.url import path_or_url

KINDS = [FundusError, *FundusError.__subclasses__()]


@click.group(cls=GuardedGroup)
def program() -> None:
    pass


@program.command()
@click.argument("kind", type=int)
def fail(kind: int) -> None:
    raise KINDS[kind]("the disk is on fire; call for help")


@program.command()
@click.argument("where", type=path_or_url)
def go(where: object) -> None:
    pass


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not UsageError])
def test_a_command_ends_with_one_line_and_the_errors_exit_code(kind: type[FundusError]) -> None:
    done = CliRunner().invoke(program, ["fail", str(KINDS.index(kind))])
    assert done.stderr == "Error: the disk is on fire; call for help\n"
    assert done.exit_code == (3 if kind is LoaderMissing else 1)


def test_wrong_usage_shows_the_usage_of_the_command_too() -> None:
    done = CliRunner().invoke(program, ["fail", str(KINDS.index(UsageError))])
    wanted = "Usage: program fail .*\nTry 'program fail --help' for help.\n\nError: the disk is on fire; .*\n"
    assert re.fullmatch(wanted, done.stderr)
    assert done.exit_code == 2


def test_so_does_one_whose_arguments_raise_it() -> None:
    done = CliRunner().invoke(program, ["go", "ftp://x/y"])
    assert re.fullmatch("Error: ftp://x/y: of URLs only .* are known\n", done.stderr)
    assert done.exit_code == StoreError.exit_code == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_keeps_its_message_on_its_way_from_another_process(kind: type[FundusError]) -> None:
    error = pickle.loads(pickle.dumps(kind("no")))
    assert type(error) is kind
    assert error.message == str(error) == "no"


def test_wrong_usage_is_a_value_error_to_python() -> None:
    assert issubclass(UsageError, ValueError)


def test_the_machines_folder_is_in_the_environment_while_a_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    @local_cache_option
    @local_cache_gb_option
    def command() -> None:
        print(os.environ["FUNDUS_LOCAL_CACHE"], os.environ["FUNDUS_LOCAL_CACHE_GB"])

    monkeypatch.setenv("FUNDUS_LOCAL_CACHE", "before")
    monkeypatch.delenv("FUNDUS_LOCAL_CACHE_GB", raising=False)
    assert CliRunner().invoke(command, ["--local-cache", "mine", "--local-cache-gb", "2.5"]).stdout == "mine 2.5\n"
    assert os.environ["FUNDUS_LOCAL_CACHE"] == "before"
    assert "FUNDUS_LOCAL_CACHE_GB" not in os.environ
