import os
import pty
import re
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
import torch
from click.testing import Result

from pipeline import progress
from tests.trainer.conftest import FAST, Trained
from trainer.cli import main
from trainer.training.progress import LastLoss


@pytest.mark.slow
def test_a_terminal_shows_step_loss_pace_and_time_left(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = pty.openpty()
    seen = bytearray()

    def read() -> None:
        try:
            while part := os.read(ours, 65536):
                seen.extend(part)
        except OSError:  # how Linux says that the other end of a terminal is closed
            pass

    reader = Thread(target=read)
    reader.start()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        arguments = ["fit", "--cache", trained.cache, *FAST, "--run", tmp_path / "run"]
        main.main([str(argument) for argument in arguments], standalone_mode=False)
        monkeypatch.undo()
    reader.join()
    os.close(ours)
    screen = seen.decode()
    for wanted in ("epoch 1/2 finetune", "3/3", "loss ", "images/s", "0:00 left", "epoch 2/2 finetune"):
        assert wanted in screen
    output = capsys.readouterr().out
    assert output.count(" images/s\n") == 2  # the whole line an epoch is on stdout all the same
    assert "\x1b" not in output


def test_a_pipe_gets_whole_lines_and_nothing_else(trained: Trained) -> None:
    assert "\r" not in trained.output
    assert "\x1b" not in trained.output
    lines = [line for line in trained.output.splitlines() if line.startswith("epoch ")]
    assert [line.partition(":")[0] for line in lines] == ["epoch 1/2 finetune", "epoch 2/2 finetune"]


def test_the_loss_shown_is_that_of_a_step() -> None:
    loss = LastLoss()
    loss.look(torch.tensor([6.0, 1.0, 4.0]))
    loss.look(torch.tensor([100.0, 1.0, 4.0]))
    assert loss.value == 1.5


@pytest.mark.gpu
def test_looking_at_the_loss_never_waits_for_the_gpu() -> None:
    loss, step = LastLoss(), torch.tensor([6.0, 1.0, 4.0], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(1000):
            loss.look(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    loss.look(step)
    assert loss.value == 1.5


def test_a_long_epoch_is_told_of_where_there_is_no_terminal(
    trained: Trained, fit: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    told = fit(trained.cache, "--run", "run").stderr
    assert "epoch 1/2 finetune: 3 of 3, " in told
    assert re.search(r"epoch 1/2 finetune: 2 of 3, [\d.]+ images/s, \d:\d\d left, .*finetune \d:\d\d left", told)
    assert "val: 1 of 1, " in told
