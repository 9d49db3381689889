"""Training on a cache behind a URL is training on the cache."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from loopback import Weather

from pipeline import store
from pipeline.url import Url
from tests.trainer.conftest import Trained


@pytest.fixture
def cache_there(trained: Trained, there: Url) -> Url:
    for path in trained.cache.rglob("*.*"):
        store.send(path, there / str(path.relative_to(trained.cache)))
    return there


def test_the_run_is_that_of_the_folder(
    cache_there: Url, trained: Trained, fit: Callable[..., Result], trainer: Callable[..., Result], s3: Weather
) -> None:
    fit(cache_there.text, "--run", "run", "--local-cache", "mine")
    for name in ("predictions_test.csv", "predictions_val.csv", "confusion_test.csv"):
        assert Path("run", name).read_bytes() == (trained.run / name).read_bytes()
    config = json.loads(Path("run/config.json").read_text())
    assert config["cache"] == config["asked"]["cache"] == cache_there.text
    assert len(list(Path("mine/shards").glob("*"))) == 2  # a shard, and the lock
    trainer("evaluate", "run", "--split", "val")
    trainer("report", "run")
    assert "data:image/jpeg" in Path("run/report.html").read_text()


def test_secrets_of_a_url_are_not_written(
    trained: Trained, web: Url, fit: Callable[..., Result], tmp_path: Path
) -> None:
    shutil.copytree(trained.cache, tmp_path / "there")
    address = f"{web.text}/there?sig=hunter22".replace("http://", "http://anna:hunter22@")
    output = fit(address, "--run", "run").output
    assert "hunter22" not in output
    for path in Path("run").rglob("*"):
        assert path.is_dir() or b"hunter22" not in path.read_bytes()


def test_features_are_kept_on_this_machine(
    cache_there: Url, trained: Trained, fit: Callable[..., Result], tmp_path: Path
) -> None:
    weights = trained.run / "model.safetensors"
    fit(cache_there.text, "--weights", weights, "--head-epochs", 1, "--epochs", 0, "--run", "run")
    assert list((tmp_path / "local").glob("*/cache.features/train-*.safetensors"))


def test_a_network_that_goes_while_training_ends_it_in_one_line(
    cache_there: Url, fit: Callable[..., Result], s3: Weather, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "WAITS", (0.01,))
    s3.trouble = lambda method, path: "drop" if path.endswith(".tar") else None
    last = fit(cache_there.text, "--run", "run", exit=1).output.splitlines()[-1]
    assert last.startswith(f"Error: {cache_there}/shards/0000.tar: cannot be read (")
    assert "tried 2 times in 0 s, the same command goes on" in last
    s3.clear()
    fit(cache_there.text, "--run", "run", "--resume")


def test_room_for_less_than_the_cache_changes_no_figure(
    make_cache: Callable[..., Path], there: Url, fit: Callable[..., Result], s3: Weather
) -> None:
    random = np.random.default_rng(0)
    pictures = {f"{n}_left": random.integers(0, 255, (32, 32, 3), np.uint8) for n in range(60)}
    grades = {id: n % 5 for n, id in enumerate(pictures)}
    splits = {id: ("train", "train", "train", "val", "test")[n // 5 % 5] for n, id in enumerate(pictures)}
    here = make_cache(pictures, grades, splits, shards=4)
    for path in here.rglob("*.*"):
        store.send(path, there / str(path.relative_to(here)))
    fit(here, "--run", "here", "--epochs", 1)
    largest = max(path.stat().st_size for path in here.rglob("*.tar"))
    fit(there.text, "--run", "there", "--epochs", 1, "--local-cache-gb", 2.5 * largest / 1e9)
    for name in ("predictions_test.csv", "predictions_val.csv"):
        ours, theirs = (pd.read_csv(Path(run, name)) for run in ("there", "here"))
        assert ours["id"].equals(theirs["id"])
