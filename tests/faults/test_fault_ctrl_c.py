"""Ctrl-C ends any command of either program with one line and 130, as shells have it; training, which leaves a
checkpoint, and preprocessing, which has workers, are in files of their own."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def assert_stopped(run: Any) -> None:
    run.process.send_signal(signal.SIGINT)
    assert run.end() == (130, "", "stopped by SIGINT\n")


def test_at_work(start: Callable[..., Any], tmp_path: Path) -> None:
    run = start("phantom", tmp_path / "eyes", "--eyes", 10_000)
    while not list(tmp_path.glob("eyes/train/*")):
        assert run.process.poll() is None
        time.sleep(0.02)
    assert_stopped(run)


@pytest.mark.parametrize("command", ["fit", "folds"])
def test_while_it_reads_its_options(start: Callable[..., Any], tmp_path: Path, command: str) -> None:
    config = tmp_path / "config.toml"
    os.mkfifo(config)
    run = start(command, "--config", config, program="trainer")
    with open(config, "w"):  # opened as soon as the command opens it
        # A signal just before read(2) is acted on after it, and this read(2) never ends: seen once on a busy machine.
        time.sleep(0.5)
        assert_stopped(run)
