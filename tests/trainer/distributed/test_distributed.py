"""Several processes, started by torchrun, are one: same photographs in the same steps, same curves, one voice."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import torch
import torchvision

from pipeline.cache.cache import open_cache
from tests.trainer.conftest import FAST, invoke, write_both_eyes, write_tiny_cache
from tests.trainer.distributed.whole_batches import learn
from tests.trainer.plugged import MODULE

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
OPTIONS = [
    *("--cache", "cache", "--device", "cpu", "--loader", "torchvision", "--workers", "1", "--batch", "6"),
    *("--precision", "float32"),
    *("--weights", "weights.pth", "--head-epochs", "1", "--epochs", "1"),
    *("--sampling", "balanced", "--class-weights", "inverse", "--loss", "corn", "--label-smoothing", ".1"),
    *("--mixup", ".2", "--cutmix", "1", "--ema", ".9", "--track-test", "--tta"),
]
"""26 photographs in batches of 6: of the last batch's 2, a third rank has none."""
OWN = {"model": "plain", "loss": "mean", "augment": "brighter"}
OFTEN = ["--checkpoint-minutes", "0"]
"""A checkpoint after each step."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny cache, 26 photographs to train on and 13 to test, weights, and a run of one process."""
    home = tmp_path_factory.mktemp("ranks")
    train, test = (0, 0, 1, 2, 3, 4) * 4 + (0, 1), (0, 1, 2, 3, 4) * 2 + (0, 1, 2)
    write_tiny_cache(home / "cache", train=train, test=test, size=64)
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), home / "weights.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        (home / "alone.err").write_text(invoke("fit", *OPTIONS, "--run", "alone").stderr)
    shutil.rmtree(home / "cache.features")
    for checkpoint in (home / "alone").glob("*.pt"):
        checkpoint.unlink()
    return home


@pytest.fixture
def folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("cache", "weights.pth", "alone", "alone.err"):
        (tmp_path / name).symlink_to(home / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(folder: Path, command: list[str]) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True)


def torchrun(processes: int, *arguments: object, restarts: int = 0) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts", str(restarts)]
    return [*launcher, "--nproc-per-node", str(processes), *map(str, arguments)]


def fit(processes: int, *options: object, restarts: int = 0) -> list[str]:
    # Without "--", torchrun takes our --run for its own --run-path.
    return torchrun(processes, "-m", "--", "trainer", "fit", *options, restarts=restarts)


def end(process: "subprocess.Popen[str]", code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, out + err
    return out, err


def pid_of(rank: int, agent: "subprocess.Popen[str]") -> int:
    """The process that torchrun started as that rank."""
    for pid in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError(f"no rank {rank}")


def wait_for_checkpoints(run: Path, count: int, process: "subprocess.Popen[str]") -> None:
    """Until last.pt has been written that many times from now on."""
    seen: set[int] = set()
    until = time.monotonic() + 60
    while len(seen) <= count:
        assert process.poll() is None, "\n".join(process.communicate())
        assert time.monotonic() < until
        with suppress(FileNotFoundError):  # while it becomes previous.pt it is away
            seen.add((run / "last.pt").stat().st_mtime_ns)
        time.sleep(0.002)


def assert_same_curves(run: Path, alone: Path) -> None:
    """But for the rounding of float32, which training on noise blows up; `learn`, in double precision, wants more."""
    ours, theirs = (
        pd.read_csv(each / "accuracy.csv").drop(columns=["seconds", "images_per_second"]) for each in (run, alone)
    )
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-2)
    ours, theirs = (pd.read_csv(each / "predictions_test.csv", dtype={"id": str}) for each in (run, alone))
    assert len(ours) == 13
    pd.testing.assert_frame_equal(ours, theirs, atol=1e-2)


def test_three_processes_learn_what_one_does_and_speak_with_one_voice(folder: Path) -> None:
    out, err = end(start(folder, fit(3, *OPTIONS, "--run", "run")))
    assert_same_curves(folder / "run", folder / "alone")
    assert err == (folder / "alone.err").read_text()
    said = "3 processes, 2 photographs of a batch each; ranks 0, 1, 2: cpu, 1 thread"
    for once in (said, "epoch 2/2 finetune", "kept epoch ", "results: run/"):
        assert out.count(once) == 1


def test_two_processes_learn_the_other_eye_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_both_eyes(tmp_path / "cache")
    invoke("fit", *FAST, "--epochs", 1, "--run", "one")
    options = ("--fellow-eye", "one", "--head-epochs", "3", "--batch", "6")
    invoke("fit", *options, "--run", "alone")
    end(start(tmp_path, fit(2, *options, "--run", "run")))
    ours, theirs = (pd.read_csv(f"{run}/predictions_test.csv", dtype={"id": str}) for run in ("run", "alone"))
    pd.testing.assert_frame_equal(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_shares_make_the_whole(processes: int, folder: Path) -> None:
    with open_cache(folder / "cache") as cache:
        torch.save(learn(cache), folder / "alone.pt")
    end(start(folder, torchrun(processes, Path(__file__).with_name("whole_batches.py"), "cache", "alone.pt")))


@pytest.mark.slow
def test_any_number_of_processes_goes_on_with_any_others_run_and_sigterm_leaves_a_checkpoint(folder: Path) -> None:
    alone = start(folder, [sys.executable, "-m", "trainer", "fit", *OPTIONS, *OFTEN, "--run", "run"])
    wait_for_checkpoints(folder / "run", 1, alone)
    alone.kill()
    alone.communicate()
    two = start(folder, fit(2, "--run", "run", "--resume", "--checkpoint-minutes", "60"))
    assert two.stdout is not None
    while not two.stdout.readline().startswith("epoch 1/2"):
        assert two.poll() is None
    before = (folder / "run/last.pt").stat().st_mtime_ns
    two.send_signal(signal.SIGTERM)
    _, err = two.communicate(timeout=600)
    assert err.count("stopped by SIGTERM; `trainer fit --run run --resume` continues it") == 1
    assert (folder / "run/last.pt").stat().st_mtime_ns > before
    assert "resuming after" in invoke("fit", "--run", "run", "--resume").output
    assert_same_curves(folder / "run", folder / "alone")


@pytest.mark.slow
def test_a_killed_rank_ends_all_with_its_rank_and_reason_unless_torchrun_may_start_anew(folder: Path) -> None:
    agent = start(folder, fit(2, *OPTIONS, *OFTEN, restarts=1))  # into a folder of its own choice
    run = folder / f"runs/resnet18-weights-64px-torchvision-{folder.name}"
    wait_for_checkpoints(run, 2, agent)
    os.kill(pid_of(1, agent), signal.SIGKILL)
    wait_for_checkpoints(run, 2, agent)
    began, other, killed = time.monotonic(), pid_of(0, agent), pid_of(1, agent)
    os.kill(killed, signal.SIGKILL)
    out, err = end(agent, 1)
    assert time.monotonic() - began < 30
    assert re.search(r"resuming after (step \d of )?epoch", out)
    root = err.partition("Root Cause")[2]
    assert re.search(r"rank +: 1 ", root)
    assert f"Signal 9 (SIGKILL) received by PID {killed}" in root
    assert err.count("Error: one of the 2 processes is lost") <= 2  # torchrun is often faster
    assert not Path(f"/proc/{other}").exists()
    invoke("fit", "--resume")
    assert_same_curves(run, folder / "alone")


def test_functions_of_the_users_are_trained_by_two_processes_as_by_one(folder: Path) -> None:
    """A network with BatchNorm, a loss that is a mean, and an augmentation that draws."""
    functions = [f"--{option}={MODULE}:{name}" for option, name in OWN.items()]
    options = [
        *OPTIONS[: OPTIONS.index("--weights")],
        *functions,
        "--weights",
        "none",
        "--epochs",
        "2",
        "--mixup",
        ".2",
    ]
    said = invoke("fit", *options, "--run", "one").stderr
    out, err = end(start(folder, fit(2, *options, "--run", "two")))
    assert "2 processes, 3 photographs of a batch each" in out
    for name in OWN.values():
        assert said.count(f"importing code from outside: {MODULE}:{name}") <= 1
        assert err.count(f"importing code from outside: {MODULE}:{name}") == 1
    assert_same_curves(folder / "two", folder / "one")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(["--cache", "nowhere"], "Error: nowhere", marks=pytest.mark.slow),
        pytest.param(["--momentum", "2"], "Error: momentum must be at least 0 and less than 1", marks=pytest.mark.slow),
    ],
)
def test_what_is_wrong_is_said_once(options: list[str], said: str, folder: Path) -> None:
    _, err = end(start(folder, fit(2, *OPTIONS, *options)), 1)
    (line,) = (line for line in err.splitlines() if line.startswith("Error: "))
    assert said in line
