"""Who has no terminal is told every 30 s how far it is; who has a narrow one still sees the bar and the time left."""

import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.text import Text

from pipeline import progress
from pipeline.progress import Heartbeat, Pace, as_clock, progress_of
from tools.cli import main


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def beats(capsys: pytest.CaptureFixture[str], calls: Iterator[tuple[float, int]], more: str = "") -> list[str]:
    """The lines that come of calls at these seconds with so many done, of 88,126."""
    clock = Clock()
    update = Heartbeat("preparing", Pace("photographs", 1, clock)).update
    for second, done in calls:
        clock.now = 1000.0 + second
        update(done, 88126, lambda: more)
    told = capsys.readouterr()
    assert not told.out
    return told.err.splitlines()


def test_without_a_terminal_a_line_comes_every_30_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    lines = beats(capsys, ((quarter / 4, 25 * quarter // 4) for quarter in range(241)))
    assert lines == [
        "preparing: 750 of 88,126, 25.0 photographs/s, 58:15 left",  # 87,376 / 25 = 3,495 s
        "preparing: 1,500 of 88,126, 25.0 photographs/s, 57:45 left",
    ]


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert beats(capsys, iter([(0, 0), (12, 50000), (29.9, 88126)])) == []


def test_what_was_done_before_does_not_count_as_fast_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert beats(capsys, iter([(0, 80000), (40, 80040)]), "loss 0.51") == [
        "preparing: 80,040 of 88,126, 1.0 photographs/s, 2:14:46 left, loss 0.51"  # 8,086 s
    ]


def test_work_that_stands_still_is_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert beats(capsys, iter([(0, 0), (31, 0)])) == ["preparing: 0 of 88,126"]


def test_a_batch_counts_as_its_photographs() -> None:
    clock = Clock()
    pace = Pace("images", 64, clock)
    assert pace.say(10, 100) == ("", "")
    clock.now += 5
    assert pace.say(20, 100) == ("128.0 images/s", "0:40 left")


@pytest.mark.parametrize(
    ("columns", "seen", "unseen"),
    [
        (140, ["epoch 12/30 finetune", "━", "120/2750", "left", "images/s", "loss 0.6543"], []),
        (60, ["━", "120/2750", "left"], ["loss"]),
        (40, ["━", "left"], ["epoch", "loss", "images/s"]),
    ],
)
def test_a_narrow_terminal_keeps_the_bar_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch, columns: int, seen: list[str], unseen: list[str]
) -> None:
    terminal, clock = Terminal(), Clock()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(Pace.__init__, "__defaults__", (clock,))
    with progress_of("epoch 12/30 finetune", "images", each=32, stays=True) as update:
        update(0, 2750)
        clock.now += 60
        update(120, 2750, lambda: "loss 0.6543, GPU 10.2 of 80 GiB")
    last = Text.from_ansi(terminal.getvalue()).plain.rstrip().splitlines()[-1]
    assert len(last.rstrip()) <= columns
    assert all(each in last for each in seen), last
    assert not any(each in last for each in unseen), last
    assert "21:55 left" in last  # 2,630 steps of 0.5 s


def test_preprocess_says_how_far_it_is_where_there_is_no_terminal(
    tiny_eyes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    arguments = ["preprocess", str(tiny_eyes), "--out", str(tmp_path / "cache"), "--size", "32", "--workers", "1"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "preparing: 400 of 400, " in done.stderr
    assert "photographs/s, 0:00 left" in done.stderr
    assert "preparing" not in done.stdout


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3725, "1:02:05"), (90000, "25:00:00")]
)
def test_time_left_reads_like_a_clock(seconds: float, said: str) -> None:
    assert as_clock(seconds) == said
