"""A run that is killed on its way to a store leaves nothing that could be taken for a finished cache."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from pipeline.cache.cache import open_cache
from pipeline.errors import CacheError
from pipeline.storage import object_store
from pipeline.storage.url import Url
from tests.loopback import Weather

Tree = dict[str, bytes]


def brought_down(url: Url) -> Tree:
    return {stored.name: object_store.read(url / stored.name) for stored in object_store.files_below(url)}


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
    tiny_eyes: Path,
    tmp_path: Path,
    there: Url,
    s3: Weather,
    stuck: Callable[[str], None],
    start: Callable[..., Any],
    tools: Callable[..., Result],
    tree: Callable[[Path], Tree],
) -> None:
    command = ("preprocess", tiny_eyes, "--size", 32, "--workers", 1, "--out")
    assert tools(*command, tmp_path / "undisturbed").exit_code == 0
    undisturbed = tree(tmp_path / "undisturbed")
    stuck(moment)
    run = start(*command, there.text)
    while not put(s3, moment):
        assert run.process.poll() is None, run.process.communicate()
        time.sleep(0.02)
    arrived = brought_down(there)
    os.killpg(run.process.pid, signal.SIGKILL)
    assert run.end()[0] == -signal.SIGKILL
    with pytest.raises(CacheError, match=r"is incomplete|is not a cache"):
        open_cache(there)
    for name in arrived.keys() & undisturbed.keys():
        assert arrived[name] == undisturbed[name]  # whole or not at all
    s3.clear()
    assert tools(*command, there.text).exit_code == 0
    assert brought_down(there) == undisturbed
    if moment == "cache.json":
        assert not put(s3, ".tar")  # what had arrived was not sent again


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_told_to_end_while_it_sends_it_ends_at_once(
    number: int,
    code: int,
    tiny_eyes: Path,
    there: Url,
    s3: Weather,
    stuck: Callable[[str], None],
    start: Callable[..., Any],
) -> None:
    stuck(".tar")
    run = start("preprocess", tiny_eyes, "--out", there.text, "--size", 32, "--workers", 1)
    while not put(s3, ".tar"):
        time.sleep(0.02)
    run.process.send_signal(number)
    assert run.end(within=30)[0] == code  # it would wait as long as the store does
