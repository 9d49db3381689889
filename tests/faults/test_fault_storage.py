"""A run that is killed on its way to a store leaves nothing that could be taken for a finished cache."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from loopback import Weather

from pipeline import store
from pipeline.cache import open_cache
from pipeline.errors import CacheError
from pipeline.url import Url

Tree = dict[str, bytes]


def brought_down(url: Url) -> Tree:
    return {stored.name: store.read(url / stored.name) for stored in store.files_below(url)}


@pytest.fixture
def stuck(s3: Weather) -> Callable[[str], None]:
    """stuck("cache.json"): requests to put it hang until the weather changes."""

    def stick(name: str) -> None:
        def trouble(method: str, path: str) -> None:
            while method == "PUT" and path.partition("?")[0].endswith(name) and s3.trouble is trouble:
                time.sleep(0.02)

        s3.trouble = trouble

    return stick


def put(s3: Weather, name: str) -> bool:
    return any(method == "PUT" and path.partition("?")[0].endswith(name) for method, path in s3.requests)


@pytest.mark.parametrize("moment", ["unfinished.json", "0001.tar", "manifest.csv", "cache.json"])
def test_killed_at_any_moment_it_is_no_cache_and_the_same_command_goes_on(
    moment: str,
    many: Path,
    undisturbed: Tree,
    there: Url,
    s3: Weather,
    stuck: Callable[[str], None],
    start: Callable[..., Any],
    tools: Callable[..., Result],
) -> None:
    command = ("preprocess", many, "--out", there.text, "--size", 64, "--workers", 1)
    stuck(moment)
    run = start(*command)
    while not put(s3, moment):
        assert run.process.poll() is None, run.process.communicate()
        time.sleep(0.02)
    arrived = brought_down(there)
    os.killpg(run.process.pid, signal.SIGKILL)
    assert run.end(within=5)[0] == -signal.SIGKILL
    with pytest.raises(CacheError, match=r"is incomplete|is not a cache"):
        open_cache(there)
    for name in arrived.keys() & undisturbed.keys():
        assert arrived[name] == undisturbed[name]  # whole or not at all
    s3.clear()
    assert tools(*command).exit_code == 0
    assert brought_down(there) == undisturbed
    if moment == "cache.json":
        assert not put(s3, ".tar")  # what had arrived was not sent again


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 143)])
def test_told_to_end_while_it_sends_it_ends_at_once(
    number: int, code: int, many: Path, there: Url, s3: Weather, stuck: Callable[[str], None], start: Callable[..., Any]
) -> None:
    stuck(".tar")
    run = start("preprocess", many, "--out", there.text, "--size", 64, "--workers", 1)
    while not put(s3, ".tar"):
        time.sleep(0.02)
    run.process.send_signal(number)
    assert run.end(within=3)[0] == code


@pytest.mark.usefixtures("s3")
def test_a_network_that_goes_while_training_ends_it_in_one_line(
    undisturbed: Tree, there: Url, s3: Weather, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from trainer.cli import main

    for name, data in undisturbed.items():
        store.send(data, there / name)
    monkeypatch.setattr(store, "WAITS", (0.01,))
    monkeypatch.chdir(tmp_path)
    s3.trouble = lambda method, path: "drop" if path.endswith("0001.tar") else None
    arguments = ["fit", "--cache", there.text, "--weights", "none", "--size", "32", "--epochs", "1", "--device", "cpu"]
    arguments += ["--loader", "torchvision", "--run", "run"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    last = result.output.splitlines()[-1]
    assert last.startswith(f"Error: {there}/shards/0001.tar: cannot be read (")
    assert "tried 2 times in 0 s, the same command goes on" in last
