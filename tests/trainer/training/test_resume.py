"""A run that was killed and resumed is the run that was not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import torchvision
from click.testing import Result
from safetensors.torch import load_file

from tests.trainer.conftest import Trained
from trainer.network.metadata import read_metadata
from trainer.network.model import load_model, read_provenance, save_model
from trainer.run_folder import create_run, default_name
from trainer.training.checkpoint import Progress

Fit = Callable[..., Result]
Trainer = Callable[..., Result]
Cache = Callable[..., Path]


def start(*options: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "trainer", "fit", *map(str, options)]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})


def wait_for_rows(accuracy: Path, rows: int, process: "subprocess.Popen[bytes]") -> None:
    while not accuracy.exists() or len(accuracy.read_text().splitlines()) <= rows:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.001)


def results(run: Path) -> tuple[pd.DataFrame, bytes, str]:
    table = pd.read_csv(run / "accuracy.csv", dtype=str).drop(columns=["seconds", "images_per_second"])
    texts = [(run / name).read_text() for name in ("predictions_test.csv", "metrics_val.json", "metrics_test.json")]
    return table, (run / "model.safetensors").read_bytes(), "".join(texts)


def same(one: Path, other: Path) -> None:
    tables, weights, measured = zip(results(one), results(other), strict=True)
    pd.testing.assert_frame_equal(*tables)
    assert weights[0] == weights[1]
    assert measured[0] == measured[1]


@pytest.mark.slow  # tests/faults kill within epochs, and keep the best
@pytest.mark.parametrize(("keep", "optimizer"), [("best", "sgd"), ("last", "adamw")])
def test_killed_between_epochs_and_resumed_it_is_the_undisturbed_run(
    keep: str, optimizer: str, trainer: Trainer, tiny_cache: Cache, tmp_path: Path
) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "weights.pth")
    options = ("--cache", tiny_cache(), "--weights", "weights.pth", "--head-epochs", 1, "--epochs", 2, "--keep", keep)
    options += ("--batch", 4, "--device", "cpu", "--loader", "torchvision", "--workers", 1, "--optimizer", optimizer)
    killed = start(*options, "--run", "killed")
    wait_for_rows(tmp_path / "killed" / "accuracy.csv", 2, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "summary.json").exists()
    trainer("fit", *options, "--run", "whole")
    trainer("fit", *options, "--run", "killed", "--resume")
    same(tmp_path / "whole", tmp_path / "killed")


@pytest.fixture
def after_training(trained: Trained, tmp_path: Path) -> Path:
    """A run that was killed when its last epoch was done."""
    run = trained.unfinished(tmp_path / "run")
    for file in [*run.glob("*_val*"), *run.glob("*_test*"), run / "accuracy.csv"]:
        file.unlink()
    return run


def test_killed_after_training_it_only_measures(after_training: Path, trained: Trained, trainer: Trainer) -> None:
    output = trainer("fit", "--run", after_training, "--resume").output
    assert "resuming after epoch 2 of 2" in output
    same(trained.run, after_training)


def test_killed_before_the_weights_got_their_operating_point_they_get_the_same(
    after_training: Path, trained: Trained, trainer: Trainer
) -> None:
    model, metadata = load_model(after_training / "model.safetensors")
    assert metadata.operating is not None
    met = read_provenance(after_training / "model.safetensors")
    save_model(after_training / "model.safetensors", model, replace(metadata, operating=None), met)
    trainer("fit", "--run", after_training, "--resume")
    same(trained.run, after_training)


def test_killed_before_its_first_checkpoint_it_begins_again(
    after_training: Path, trained: Trained, trainer: Trainer
) -> None:
    for name in ("last.pt", "model.safetensors"):
        (after_training / name).unlink()
    trainer("fit", "--run", after_training, "--resume")
    same(trained.run, after_training)


def test_killed_between_checkpoint_and_kept_weights_these_are_written(after_training: Path, trainer: Trainer) -> None:
    checkpoint = torch.load(after_training / "last.pt", weights_only=True)
    checkpoint["history"][-1]["kappa_val"] = 2.0  # so that the last epoch is the best, whatever it was
    torch.save(checkpoint, after_training / "last.pt")
    (after_training / "model.safetensors").unlink()
    trainer("fit", "--run", after_training, "--resume")
    assert read_metadata(after_training / "model.safetensors").epoch == 2
    saved = load_file(after_training / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in checkpoint["model"].items())


def test_from_another_folder_it_finds_its_cache(
    fit: Fit, trainer: Trainer, tiny_cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_cache()
    fit(Path("cache"), "--run", "run", "--epochs", 1)
    (tmp_path / "run/summary.json").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "resuming after epoch 1 of 1" in trainer("fit", "--run", tmp_path / "run", "--resume").output


def test_what_was_begun_on_a_gpu_because_there_was_one_goes_on_where_there_is_none(
    after_training: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = json.loads((after_training / "config.json").read_text())
    config["asked"]["device"], config["resolved"]["device"] = "auto", "cuda"
    (after_training / "config.json").write_text(json.dumps(config))
    assert "resuming after epoch 2 of 2" in trainer("fit", "--run", after_training, "--resume").output


def test_an_epoch_lasted_as_long_as_it_did_before_and_after(
    fit: Fit, after_training: Path, trainer: Trainer, tiny_cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint within an epoch knows its seconds, and a run that goes on counts them."""
    saved: list[Progress] = []
    monkeypatch.setattr(
        "trainer.training.loop.save_checkpoint", lambda run, progress, learner: saved.append(copy(progress))
    )
    fit(tiny_cache(name="pictures"), "--run", "another", "--epochs", 1, "--checkpoint-minutes", 0)
    monkeypatch.undo()
    monkeypatch.chdir(after_training.parent)
    first, second, *_, after = saved
    assert 0 < first.trained < second.trained < second.seconds
    assert after.trained == 0

    checkpoint = torch.load(after_training / "previous.pt", weights_only=True)  # of epoch 1
    torch.save({**checkpoint, "seconds": 100.0, "trained": 40.0}, after_training / "last.pt")
    trainer("fit", "--run", after_training, "--resume")
    epoch = pd.read_csv(after_training / "accuracy.csv").iloc[1]
    assert 100 < epoch["seconds"] < 200
    assert 0.2 < epoch["images_per_second"] <= 0.5  # 20 photographs in 40 s and some


def test_a_finished_run_has_nothing_to_resume(trained: Trained, trainer: Trainer) -> None:
    before = (trained.run / "summary.json").stat()
    assert "run is finished" in trainer("fit", "--run", trained.run, "--resume").output
    assert (trained.run / "summary.json").stat() == before
    stderr = trainer("fit", "--run", trained.run, "--resume", "--epochs", 8, "--tta", exit=1).stderr
    assert "run is finished, so --epochs 8 --tta changes nothing; another run starts from its weights: " in stderr
    way_on = f"--cache {trained.cache} --weights {trained.run}/model.safetensors --epochs 8 --tta`"
    assert f"`trainer fit {way_on}" in stderr


def test_resume_without_a_name_takes_the_newest_unfinished_run(trained: Trained, trainer: Trainer) -> None:
    for name in ("finished", "older", "newer"):
        trained.copy(f"runs/{name}")
    for seconds, name in enumerate(("older", "newer")):
        Path("runs", name, "summary.json").unlink()
        os.utime(Path("runs", name, "config.json"), (seconds, seconds))
    assert "runs/newer: resuming" in trainer("fit", "--resume").output
    assert "runs/older: resuming" in trainer("fit", "--resume").output
    assert "no unfinished run below runs/" in trainer("fit", "--resume", exit=1).stderr


def test_resume_into_a_new_folder_starts_the_run(fit: Fit, tiny_cache: Cache, tmp_path: Path) -> None:
    fit(tiny_cache(), "--run", "run", "--epochs", 1, "--resume")  # what a scheduler's first attempt looks like
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_run_is_never_overwritten(trained: Trained, fit: Fit, tmp_path: Path) -> None:
    before = {file.name: file.stat() for file in trained.run.iterdir()}
    refused = fit(trained.cache, "--run", trained.run, "--seed", 1, exit=1)
    assert "run exists and is never overwritten; --resume continues it" in refused.stderr
    assert {file.name: file.stat() for file in trained.run.iterdir()} == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    assert "notes exists and is never overwritten" in fit(trained.cache, "--run", "notes", exit=1).stderr


def test_runs_without_a_name_get_one_of_their_own() -> None:
    names = [create_run(None, "resnet18-none-32px-dali").path.as_posix() for _ in range(3)]
    assert names == [f"runs/resnet18-none-32px-dali{suffix}" for suffix in ("", "-2", "-3")]


def test_a_run_without_a_name_is_called_as_its_model_weights_size_loader_and_data(
    fit: Fit, tiny_cache: Cache, tmp_path: Path
) -> None:
    tiny_cache(name="clinic/cache")
    assert "results: runs/resnet18-none-32px-torchvision-clinic/ " in fit("clinic/cache", "--epochs", 1).output


@pytest.mark.parametrize(
    ("weights", "cache", "name"),
    [
        ("imagenet", "/data/aptos", "resnet50-imagenet-256px-dali-aptos"),
        ("/runs/painted/model.safetensors", "/data/aptos/cache", "resnet50-painted-256px-dali-aptos"),
        ("/tries/run/model.safetensors", "/data/aptos", "resnet50-tries-run-256px-dali-aptos"),
        ("none", "/cache", "resnet50-none-256px-dali"),
        ("none", f"/{'long' * 50}", f"resnet50-none-256px-dali-{'long' * 10}"),
        (f"/{'w' * 250}.pth", "/data/aptos", f"resnet50-{'w' * 40}-256px-dali-aptos"),
    ],
)
def test_a_name_says_which_weights_and_which_data(weights: str, cache: str, name: str) -> None:
    assert default_name("resnet50", weights, 256, "dali", Path(cache)) == name


def test_a_name_in_any_script_is_a_folders_name(tmp_path: Path) -> None:
    """A letter may have four bytes, and a folder's name has 255 at most."""
    name = default_name("resnet50", f"/{'😀' * 60}.pth", 256, "dali", Path(f"/{'😀' * 60}"))
    for _ in range(2):
        assert name in create_run(None, name).path.name


def test_resume_does_not_mix_settings_or_caches(after_training: Path, trainer: Trainer, tiny_cache: Cache) -> None:
    refused = trainer("fit", "--run", after_training, "--resume", "--seed", 7, exit=1)
    assert "was started with seed 0, not 7" in refused.stderr
    other = tiny_cache(train=[0, 1, 2, 3, 4], name="other")
    refused = trainer("fit", "--run", after_training, "--resume", "--cache", other, exit=1)
    assert "other is not as it was when the run was started" in refused.stderr


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "canary_pickle", "canary_zip", "wrong_arch", "flipped"])
def test_a_damaged_or_foreign_checkpoint_is_named_and_never_run(
    damage: str, trained: Trained, after_training: Path, trainer: Trainer, shared: Path, tmp_path: Path
) -> None:
    if damage == "flipped":
        data = bytearray((after_training / "last.pt").read_bytes())
        data[len(data) // 2] ^= 4  # amid the weights, where torch looks at no checksum
        (after_training / "last.pt").write_bytes(data)
    else:
        shutil.copyfile(shared / f"cases/B49/checkpoints/{damage}.pt", after_training / "last.pt")
    resumed = trainer("fit", "--run", after_training, "--resume")
    warning = resumed.stderr.splitlines()[0]
    assert "run/last.pt is" in warning
    assert warning.endswith("going on from the one before, previous.pt")
    same(trained.run, after_training)
    assert not list(tmp_path.rglob("*CANARY*"))


def test_where_both_checkpoints_are_damaged_it_is_said_and_neither_is_run(
    after_training: Path, trainer: Trainer, shared: Path, tmp_path: Path
) -> None:
    for name in ("last.pt", "previous.pt"):
        shutil.copyfile(shared / "cases/B49/checkpoints/canary_zip.pt", after_training / name)
    stderr = trainer("fit", "--run", after_training, "--resume", exit=1).stderr
    assert [line.split(":")[0] for line in stderr.splitlines()] == ["WARNING", "Error"]
    assert "run/previous.pt is damaged" in stderr
    assert not list(tmp_path.rglob("*CANARY*"))
