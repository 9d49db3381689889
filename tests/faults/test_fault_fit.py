"""`trainer fit` killed, stopped, starved of disk and fed damaged checkpoints: nothing is lost, nothing is let in."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision

from tests.conftest import write_cache

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
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
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder with a tiny cache: 26 photographs in train, 7 steps an epoch."""
    random = np.random.default_rng(0)
    ids = [f"{n}_left" for n in range(36)]
    pictures = {id: random.integers(0, 255, (32, 32, 3), np.uint8) for id in ids}
    splits = {id: "train" if n < 26 else "val" if n < 31 else "test" for n, id in enumerate(ids)}
    write_cache(tmp_path / "cache", pictures, {id: n % 5 for n, id in enumerate(ids)}, splits)
    return tmp_path


def start(folder: Path, *options: str, limit: int | None = None) -> subprocess.Popen[str]:
    """`trainer fit` in a process group of its own, on one thread; `limit`: the largest file it may write, bytes."""

    def few() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, "-m", "trainer", "fit", *OPTIONS, "--checkpoint-minutes", "0", *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=few,
    )


def end(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
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
        ("torchvision", False, [3, 2]),  # within the first epoch, and again two checkpoints later
        ("dali", False, [10]),  # within the second
        ("torchvision", True, [2, 4]),  # in the head phase, and in fine-tuning
        pytest.param("dali", True, [1, 3, 5, 4], marks=pytest.mark.slow),
        pytest.param("torchvision", False, [1] * 12, marks=pytest.mark.slow),
    ],
)
def test_killed_in_the_middle_of_epochs_the_resumed_run_is_the_undisturbed_one(
    folder: Path, loader: str, head: bool, kills: list[int]
) -> None:
    options = ["--loader", loader]
    if head:
        torch.manual_seed(0)
        torch.save(torchvision.models.resnet18().state_dict(), folder / "weights.pth")
        options += ["--weights", "weights.pth", "--head-epochs", "1", "--epochs", "1"]
    end(start(folder, *options, "--run", "undisturbed"))
    process = start(folder, *options, "--run", "run")
    for count in kills:
        wait_for(checkpoints(folder / "run", count), process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        process = start(folder, "--run", "run", "--resume")
    end(process)
    assert_same(folder / "run", folder / "undisturbed")
    assert (folder / "run/accuracy.csv").read_text().count("epoch") == 1  # one header


@pytest.mark.parametrize(("number", "code", "within"), [(signal.SIGTERM, 143, 10), (signal.SIGINT, 130, 3)])
def test_told_to_stop_it_leaves_a_checkpoint_and_says_how_to_go_on(
    folder: Path, number: int, code: int, within: float
) -> None:
    end(start(folder, "--run", "undisturbed"))
    process = start(folder, "--run", "run", "--checkpoint-minutes", "60")
    wait_for((folder / "run/config.json").exists, process)
    time.sleep(0.5)
    began = time.monotonic()
    os.killpg(process.pid, number)
    _, err = end(process, code)
    assert time.monotonic() - began < within
    assert err.splitlines() == [f"stopped by {signal.Signals(number).name}; `trainer fit --run run --resume` goes on"]
    end(start(folder, "--run", "run", "--resume"))
    assert_same(folder / "run", folder / "undisturbed")


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(folder: Path, shared: Path) -> None:
    end(start(folder, "--run", "undisturbed"))
    process = start(folder, "--run", "run")
    wait_for(checkpoints(folder / "run", 5), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    run = folder / "run"
    whole = (run / "last.pt").read_bytes() if (run / "last.pt").exists() else (run / "previous.pt").read_bytes()
    canary = (shared / "cases/B49/checkpoints/canary_zip.pt").read_bytes()
    (run / "previous.pt").write_bytes(whole)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for damaged in (whole[: len(whole) // 2], b"", bytes(flipped), canary):
        (run / "last.pt").write_bytes(damaged)
        other = folder / f"run{len(list(folder.iterdir()))}"
        subprocess.run(["cp", "-r", run, other], check=True)
        _, err = end(start(folder, "--run", str(other), "--resume"))
        if damaged != bytes(flipped) or err:  # a flipped bit may lie where no tensor does
            assert "last.pt" in err
            assert "going on from the one before, previous.pt" in err
        assert_same(other, folder / "undisturbed")
        assert not list(folder.rglob("CANARY_FIRED"))
    for name in ("last.pt", "previous.pt"):
        (run / name).write_bytes(b"noise")
    _, err = end(start(folder, "--run", "run", "--resume"), 1)
    assert len(err.splitlines()) == 2  # last.pt with a warning, previous.pt as the error
    assert "previous.pt is damaged" in err


def test_two_fits_into_one_run_exclude_each_other(folder: Path) -> None:
    first = start(folder, "--run", "run", "--epochs", "50")
    wait_for((folder / "run/last.pt").exists, first)
    _, err = end(start(folder, "--run", "run", "--resume"), 1)
    assert err == "Error: run is being trained by another process; wait until it ends\n"
    _, err = end(start(folder, "--run", "run"), 1)
    assert "exists and is never overwritten" in err
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()


def test_a_full_disk_ends_in_one_line_and_the_last_checkpoint_is_whole(folder: Path) -> None:
    end(start(folder, "--run", "undisturbed"))
    process = start(folder, "--run", "run")
    wait_for(checkpoints(folder / "run", 3), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    _, err = end(start(folder, "--run", "run", "--resume", limit=20_000_000), 1)  # a checkpoint has 90 MB
    assert len(err.splitlines()) == 1
    assert "run: cannot be written (File too large); `trainer fit --run run --resume` goes on" in err
    assert not list((folder / "run").glob("*.tmp"))
    end(start(folder, "--run", "run", "--resume"))
    assert_same(folder / "run", folder / "undisturbed")


def test_a_sick_run_stops_with_step_rate_and_photographs_and_keeps_no_sick_state(folder: Path) -> None:
    _, err = end(start(folder, "--run", "run", "--lr", "1e30"), 1)
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
    process = start(folder, "--run", "run", "--epochs", "20", "--loader", loader, "--checkpoint-minutes", "60")
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
