"""A run that is killed, interrupted or told to end leaves nothing but work to go on with."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from pipeline.cache.cache import open_cache
from pipeline.errors import CacheError
from tools.preprocessing.executors import SharedSignals

ROOT = Path(__file__).resolve().parents[2]
Start = Callable[..., Any]
Tools = Callable[..., Result]
Trees = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def disturbed(many: Path, tmp_path: Path, start: Start) -> Callable[[], Any]:
    return lambda: start("preprocess", many, "--out", tmp_path / "c", "--size", 64, "--workers", 2)


@pytest.fixture
def goes_on(many: Path, tmp_path: Path, tools: Tools, tree: Trees, undisturbed: dict[str, bytes]) -> Callable[[], None]:
    """The same command once more makes the cache that nobody disturbed."""

    def check() -> None:
        whole = tree(tmp_path / "c") if (tmp_path / "c").exists() else {}
        for name in whole.keys() & undisturbed.keys():
            assert whole[name] == undisturbed[name], name  # a final name holds the final bytes
        assert tools("preprocess", many, "--out", tmp_path / "c", "--size", 64, "--workers", 2).exit_code == 0
        assert tree(tmp_path / "c") == undisturbed

    return check


def test_a_worker_killed_ends_the_run_in_one_line(disturbed: Callable[[], Any], goes_on: Callable[[], None]) -> None:
    run = disturbed()
    workers = run.workers()
    time.sleep(1)  # the OOM killer comes for those who are at work
    os.kill(max(workers), signal.SIGKILL)
    code, _, err = run.end()
    assert code == 1
    assert err.splitlines() == [
        "Error: a worker was killed, probably because memory ran out; run the same command with fewer --workers"
    ]
    goes_on()


def test_the_parent_killed_takes_its_workers_along(
    disturbed: Callable[[], Any], goes_on: Callable[[], None], tmp_path: Path
) -> None:
    run = disturbed()
    run.workers()
    time.sleep(1)
    os.kill(run.process.pid, signal.SIGKILL)
    assert run.end()[0] == -signal.SIGKILL
    with pytest.raises(CacheError, match="incomplete"):
        open_cache(tmp_path / "c")
    goes_on()


@pytest.mark.parametrize("moment", [0, 0.05, 0.3, 1])  # seconds after the first worker was started
@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, ["stopped by SIGINT"]), (signal.SIGTERM, 143, [])]
)
def test_told_to_end_all_end_at_once_and_quietly(
    disturbed: Callable[[], Any],
    goes_on: Callable[[], None],
    tmp_path: Path,
    number: int,
    code: int,
    said: list[str],
    moment: float,
) -> None:
    run = disturbed()
    run.workers()
    time.sleep(moment)
    os.killpg(run.process.pid, number)  # as a terminal or a scheduler does it: all of them
    got, _, err = run.end()
    assert (got, err.splitlines()) == (code, said)
    assert not (tmp_path / "c/cache.json").exists()  # it did not work on to the end
    assert not list((tmp_path / "c").rglob("*.tmp"))
    if moment == 1:
        goes_on()


@pytest.mark.slow
def test_sigterm_to_the_main_process_alone_is_enough(
    disturbed: Callable[[], Any], goes_on: Callable[[], None], tmp_path: Path
) -> None:
    run = disturbed()
    run.workers()
    time.sleep(0.7)
    run.process.terminate()
    assert run.end()[::2] == (143, "")
    assert not (tmp_path / "c/cache.json").exists()
    goes_on()


def test_a_worker_killed_in_the_act_of_counting_holds_up_nobody() -> None:
    signals = SharedSignals.make()
    counting = threading.Thread(target=signals.done.get_lock().acquire)
    counting.start()
    counting.join()
    assert not signals.done.get_lock().acquire(block=False)  # held by one who is no more
    assert signals.photographs == 0
    signals.stop.value = True


def test_the_second_of_two_runs_says_that_the_first_holds_the_cache(
    disturbed: Callable[[], Any], goes_on: Callable[[], None], tmp_path: Path
) -> None:
    first = disturbed()
    first.workers()
    second = disturbed()
    code, _, err = second.end()
    assert code == 1
    assert err == f"Error: {tmp_path / 'c'} is being written by another `tools preprocess`; wait until it ends\n"
    assert first.end()[0] == 0
    goes_on()


# --- at every event of the file system, and at random moments


def sweep(shared: Path, out: Path, *options: object) -> str:
    """Kills, runs again and compares: what `crash_sweep.py` has to say."""
    harness = shared / "cases/harness/crash_sweep.py"
    command = [sys.executable, "-m", "tools", "preprocess", shared / "cases/B35/data", "--out", out, "--size", 64]
    arguments = [sys.executable, harness, out, *options, "--", *command]
    run = subprocess.run([*map(str, arguments)], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 left a damaged final name, 0 resumed caches differ" in run.stdout
    assert not re.match("0 kills", run.stdout)
    return run.stdout


def test_killed_at_every_fifth_file_event_it_goes_on(shared: Path, tmp_path: Path) -> None:
    sweep(shared, tmp_path / "c", "--step", 5)


@pytest.mark.slow
def test_killed_at_every_file_event_it_goes_on(shared: Path, tmp_path: Path) -> None:
    sweep(shared, tmp_path / "c")


@pytest.mark.slow
def test_killed_at_fifty_random_moments_it_goes_on(shared: Path, tmp_path: Path) -> None:
    assert sweep(shared, tmp_path / "c", "--random", 50).startswith("50 kills")


@pytest.mark.slow
def test_two_workers_killed_at_random_moments_go_on(
    many: Path, tmp_path: Path, disturbed: Callable[[], Any], goes_on: Callable[[], None]
) -> None:
    draw = random.Random(0)
    for _ in range(15):
        shutil.rmtree(tmp_path / "c", ignore_errors=True)
        run = disturbed()
        time.sleep(draw.uniform(0.2, 4))
        os.killpg(run.process.pid, signal.SIGKILL)
        goes_on()
