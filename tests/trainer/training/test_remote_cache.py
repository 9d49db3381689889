"""Training on a cache behind a URL is training on the cache."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result

from pipeline.storage import object_store
from pipeline.storage.url import Url
from tests.loopback import Weather
from tests.trainer.conftest import Trained
from trainer.commands.fit import prepare
from trainer.config import FitConfig
from trainer.training.loop import open_loaders


def put(folder: Path, url: Url) -> Url:
    for path in folder.rglob("*.*"):
        object_store.send(path, url / str(path.relative_to(folder)))
    return url


def test_the_run_is_that_of_the_folder_and_no_secret_is_written(
    trained: Trained, web: Url, fit: Callable[..., Result], tmp_path: Path
) -> None:
    shutil.copytree(trained.cache, tmp_path / "there")
    address = f"{web.text}/there?sig=hunter22".replace("http://", "http://anna:hunter22@")
    output = fit(address, "--run", "run", "--local-cache", "mine").output
    for name in ("predictions_test.csv", "predictions_val.csv", "confusion_test.csv"):
        assert Path("run", name).read_bytes() == (trained.run / name).read_bytes()
    shown = f"{web.text}/there?sig=***".replace("http://", "http://***@")
    config = json.loads(Path("run/config.json").read_text())
    assert config["cache"] == config["asked"]["cache"] == config["resolved"]["cache"] == shown
    assert f"cache {shown}: train 20, val 5, test 5 photographs" in output
    assert "hunter22" not in output
    for path in Path("run").rglob("*"):
        assert path.is_dir() or b"hunter22" not in path.read_bytes()
    assert len(list(Path("mine/shards").iterdir())) == 2  # a shard, and the lock


def test_room_for_less_than_the_cache_changes_no_figure(
    trained: Trained, make_cache: Callable[..., Path], there: Url, trainer: Callable[..., Result]
) -> None:
    random = np.random.default_rng(0)
    pictures = {f"{n}_left": random.integers(0, 255, (32, 32, 3), np.uint8) for n in range(60)}
    here = make_cache(pictures, {id: n % 5 for n, id in enumerate(pictures)}, dict.fromkeys(pictures, "test"), shards=4)
    largest = max(path.stat().st_size for path in here.rglob("*.tar"))
    run, other = trained.copy("here"), trained.copy("there")
    trainer("evaluate", run, "--cache", here)
    capacity = 2.5 * largest / 1e9
    trainer("evaluate", other, "--cache", put(here, there).text, "--local-cache-gb", capacity)
    ours, theirs = (pd.read_csv(each / "predictions_test.csv").set_index("id") for each in (other, run))
    assert ours.index.equals(theirs.index)
    # Shard by shard, photographs come in other batches, where sums are rounded otherwise.
    assert ours.to_numpy() == pytest.approx(theirs.to_numpy(), abs=1e-6)


def test_a_network_that_goes_while_training_ends_it_in_one_line(
    trained: Trained, there: Url, fit: Callable[..., Result], s3: Weather, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(trained.cache, there)
    monkeypatch.setattr(object_store, "WAITS", (0.01,))
    s3.trouble = lambda method, path: "drop" if path.endswith(".tar") else None
    last = fit(there.text, "--run", "run", exit=1).output.splitlines()[-1]
    assert last.startswith(f"Error: {there}/shards/0000.tar: cannot be read (")
    assert last.endswith(" s; run the same command to continue")


def test_how_a_shuffle_keeps_to_few_shards_is_settled_at_the_start(
    trained: Trained, make_cache: Callable[..., Path], there: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    pictures = {f"{n}_left": random.integers(0, 255, (32, 32, 3), np.uint8) for n in range(60)}
    splits = {id: "val" if n % 5 == 0 else "train" for n, id in enumerate(pictures)}
    here = make_cache(pictures, dict.fromkeys(pictures, 1), splits, shards=4)
    put(here, there)
    asked = FitConfig(cache=there.text, weights="none", device="cpu")
    assert prepare(asked)[0].together is None
    largest = max(path.stat().st_size for path in here.rglob("*.tar"))
    monkeypatch.setenv("FUNDUS_LOCAL_CACHE_GB", str(2.5 * largest / 1e9))
    resolved, cache, _ = prepare(asked)
    assert resolved.together == cache.shuffle_block == 1
    with open_loaders(resolved, cache) as loaders:
        shards = [cache.manifest["shard"].to_numpy()[batch.rows] for batch in loaders["train"].epoch(0)]
    assert (np.diff(np.concatenate(shards)) != 0).sum() == 3  # one shard after the other
