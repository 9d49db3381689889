"""`trainer fit` killed, stopped, starved of disk and fed damaged checkpoints: nothing is lost, nothing is let in."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from click.testing import Result

from tests.conftest import write_cache
from tests.trainer.conftest import train

ROOT = Path(__file__).resolve().parents[2]
TIMING = ["seconds", "images_per_second"]
OPTIONS = [
    "--cache",
    "cache",
    "--epochs",
    "2",
    "--batch",
    "4",
    "--device",
    "cpu",
    "--workers",
    "1",
    "--weights",
    "none",
    "--loader",
    "torchvision",
]

LEVERS = (
    "--sampling balanced --loss corn --label-smoothing .1 --zoom 1.2 --colour .2 --mixup .2 --cutmix 1 --ema .9 "
    "--layer-decay .5 --patience 2 --tta"
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """In this process too, as in those that `start` starts: the results are to be the same to the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a tiny cache, 26 photographs in train, 7 steps an epoch; and with a run nobody disturbed."""
    home = tmp_path_factory.mktemp("home")
    random = np.random.default_rng(0)
    ids = [f"{n}_left" for n in range(36)]
    pictures = {id: random.integers(0, 255, (32, 32, 3), np.uint8) for id in ids}
    splits = {id: "train" if n < 26 else "val" if n < 31 else "test" for n, id in enumerate(ids)}
    write_cache(home / "cache", pictures, {id: n % 5 for n, id in enumerate(ids)}, splits)
    fit(home, *OPTIONS, "--run", "undisturbed")
    return home


@pytest.fixture
def folder(home: Path, tmp_path: Path) -> Path:
    return shutil.copytree(home, tmp_path / "home")


@pytest.fixture(scope="module")
def killed_once(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(home, tmp_path_factory.mktemp("killed") / "home")
    process = start(folder, *OPTIONS, "--run", "run")
    wait_for(checkpoints(folder / "run", 5), process)
    kill(process)
    return folder


@pytest.fixture
def killed(killed_once: Path, tmp_path: Path) -> Path:
    """The user's folder with a run besides that was killed at its fifth checkpoint."""
    return shutil.copytree(killed_once, tmp_path / "home")


def fit(folder: Path, *options: str, exit: int = 0) -> Result:
    """`trainer fit` in this process, to its end, without checkpoints within epochs. What nobody kills need not pay for
    a process of its own, which imports torch anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return train(*options, exit=exit)


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    """`trainer fit` on one thread, with a checkpoint after every step unless told otherwise."""
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", "fit", "--checkpoint-minutes", "0", *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def end(process: subprocess.Popen[str], code: int = 0, within: float = 120) -> tuple[str, str]:
    out, err = process.communicate(timeout=within)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return out, err


def result(run: Path) -> tuple[pd.DataFrame, bytes, bytes]:
    table = pd.read_csv(run / "accuracy.csv").drop(columns=TIMING)
    return table, (run / "model.safetensors").read_bytes(), (run / "predictions_test.csv").read_bytes()


def assert_same(run: Path, undisturbed: Path) -> None:
    for ours, theirs in zip(result(run), result(undisturbed), strict=True):
        assert ours.equals(theirs) if isinstance(ours, pd.DataFrame) else ours == theirs


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)


def checkpoints(run: Path, count: int) -> Callable[[], bool]:
    """A condition: last.pt has been written that many times since this was made."""
    seen: set[int] = set()

    def reached() -> bool:
        with suppress(FileNotFoundError):
            seen.add((run / "last.pt").stat().st_mtime_ns)
        return len(seen) >= count

    return reached


@pytest.mark.parametrize(
    ("loader", "head", "kills"),
    [
        pytest.param("dali", False, [10], marks=pytest.mark.slow),  # within the second epoch
        ("torchvision", True, [2, 6]),  # in the head phase, and in fine-tuning; with every lever there is
        pytest.param("dali", True, [1, 3, 5, 3], marks=pytest.mark.slow),
        pytest.param("torchvision", False, [1] * 12, marks=pytest.mark.slow),
    ],
)
def test_killed_in_the_middle_of_epochs_the_resumed_run_is_the_undisturbed_one(
    folder: Path, loader: str, head: bool, kills: list[int]
) -> None:
    options = [*OPTIONS, "--loader", loader]
    if head:
        torch.manual_seed(0)
        torch.save(torchvision.models.resnet18().state_dict(), folder / "weights.pth")
        options += ["--weights", "weights.pth", "--head-epochs", "1", "--epochs", "1", *LEVERS.split()]
    if head or loader == "dali":
        shutil.rmtree(folder / "undisturbed")
        fit(folder, *options, "--run", "undisturbed")
    begin = [*options, "--run", "run"]
    for count in kills:
        process = start(folder, *begin)
        wait_for(checkpoints(folder / "run", count), process)
        assert process.poll() is None, "it ended before it could be killed"
        kill(process)
        begin = ["--run", "run", "--resume"]
    fit(folder, *begin)
    assert_same(folder / "run", folder / "undisturbed")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_told_to_stop_it_leaves_a_checkpoint_and_says_how_to_go_on(folder: Path, number: int, code: int) -> None:
    process = start(folder, *OPTIONS, "--run", "run", "--checkpoint-minutes", "60")
    wait_for((folder / "run/config.json").exists, process)
    time.sleep(0.5)
    process.send_signal(number)
    _, err = end(process, code)
    assert err.splitlines() == [
        f"stopped by {signal.Signals(number).name}; `trainer fit --run run --resume` continues it"
    ]
    fit(folder, "--run", "run", "--resume")
    assert_same(folder / "run", folder / "undisturbed")


def test_with_the_last_checkpoint_damaged_it_goes_on_from_the_one_before(killed: Path) -> None:
    last = killed / "run/last.pt"
    last.touch()
    os.truncate(last, last.stat().st_size // 2)
    err = fit(killed, "--run", "run", "--resume").stderr
    assert "last.pt is damaged" in err.splitlines()[0]
    assert_same(killed / "run", killed / "undisturbed")


@pytest.mark.slow
def test_two_fits_into_one_run_exclude_each_other(folder: Path) -> None:
    first = start(folder, *OPTIONS, "--run", "run", "--epochs", "1000")
    wait_for((folder / "run/last.pt").exists, first)
    err = fit(folder, "--run", "run", "--resume", exit=1).stderr
    assert err == "Error: run is being trained by another process; wait until it ends\n"
    err = fit(folder, *OPTIONS, "--run", "run", exit=1).stderr
    assert "exists and is never overwritten" in err
    first.send_signal(signal.SIGINT)
    _, err = end(first, 130, within=60)  # at once, with most of a thousand epochs before it
    assert err == "stopped by SIGINT; `trainer fit --run run --resume` continues it\n"


def test_a_full_disk_ends_in_one_line_and_the_last_checkpoint_is_whole(killed: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, hard))  # a checkpoint has 90 MB
    try:
        err = fit(killed, "--run", "run", "--resume", exit=1).stderr
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(err.splitlines()) == 1
    assert "run: cannot be written (File too large); `trainer fit --run run --resume` continues it" in err
    assert not list((killed / "run").glob("*.tmp"))
    fit(killed, "--run", "run", "--resume")
    assert_same(killed / "run", killed / "undisturbed")


def test_a_sick_run_stops_with_step_rate_and_photographs_and_keeps_no_sick_state(folder: Path) -> None:
    err = fit(folder, *OPTIONS, "--run", "run", "--lr", "1e30", "--checkpoint-minutes", "0", exit=1).stderr
    assert len(err.splitlines()) == 1
    for said in ("the loss is not finite at step", "of epoch 1 (learning rate", "photographs ", "_left", "lower --lr"):
        assert said in err
    for name in ("last.pt", "previous.pt"):
        if (folder / "run" / name).exists():
            state = torch.load(folder / "run" / name, weights_only=True)
            assert all(row[0].isfinite() for row in state["steps"])
    assert not (folder / "run/model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["torchvision", "dali"])
def test_memory_does_not_grow_over_twenty_epochs(folder: Path, loader: str) -> None:
    process = start(
        folder, *OPTIONS, "--run", "run", "--epochs", "20", "--loader", loader, "--checkpoint-minutes", "60"
    )
    sizes: list[int] = []

    def measured() -> bool:
        try:
            done = len((folder / "run/accuracy.csv").read_text().splitlines()) - 1
        except FileNotFoundError:
            return False
        if done > len(sizes):
            status = Path(f"/proc/{process.pid}/status").read_text()
            sizes.extend([int(status.split("VmRSS:")[1].split()[0])] * (done - len(sizes)))
        return done >= 20

    wait_for(measured, process)
    end(process)
    assert sizes[-1] <= 1.05 * sizes[1] + 30_000  # kB
