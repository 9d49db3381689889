"""A cache as a dataset: what a loader gives, for those who have a DataLoader of their own."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pipeline import CacheDataset, open_cache, open_loader
from pipeline.errors import CacheError

RANDOM = np.random.default_rng(0)
PICTURES = {f"{n}_left": RANDOM.integers(0, 255, (32, 32, 3), np.uint8) for n in range(12)}
GRADES = {id: n % 5 for n, id in enumerate(PICTURES)}
SPLITS = {id: "train" if n < 8 else "test" for n, id in enumerate(PICTURES)}


@pytest.fixture
def folder(make_cache: Callable[..., Path]) -> Path:
    """Eight photographs to train on, four to test on, and one that nobody graded, in two shards."""
    splits = SPLITS | {"x_left": ""}
    return make_cache(PICTURES | {"x_left": PICTURES["0_left"]}, GRADES, splits, shards=2)


def test_it_has_the_photographs_of_a_split_as_a_loader_has_them(folder: Path) -> None:
    dataset = CacheDataset(folder, split="test")
    (batch,) = open_loader("torchvision", open_cache(folder), split="test", batch_size=8)
    assert len(dataset) == 4
    assert dataset.rows.tolist() == batch.rows.tolist()
    assert dataset.grades.tolist() == batch.grades.tolist() == [grade for _, grade in dataset]
    for (image, _), wanted in zip(dataset, batch.images, strict=True):
        assert (image.dtype, image.shape, image.is_contiguous()) == (torch.uint8, (3, 32, 32), True)
        assert image.equal(wanted)


def test_a_transform_gets_a_pil_image(folder: Path) -> None:
    tensor, _ = CacheDataset(folder)[0]
    picture, grade = CacheDataset(folder, transform=lambda image: image)[0]
    assert isinstance(picture, Image.Image)
    assert picture.mode == "RGB"
    assert (np.asarray(picture) == tensor.permute(1, 2, 0).numpy()).all()
    assert grade == open_cache(folder).grades[CacheDataset(folder).rows[0]]


def test_photographs_without_a_grade_come_only_when_asked_for(folder: Path) -> None:
    assert len(CacheDataset(folder, split="all")) == 12
    everything = CacheDataset(folder, split="all", ungraded=True)
    assert len(everything) == 13
    assert sorted(grade for _, grade in everything)[0] == -1
    assert everything.grades.min() == -1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # DataLoader's own default, beside our threads
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_give_what_this_process_gives(folder: Path, start: str) -> None:
    dataset = CacheDataset(folder)
    alone = list(DataLoader(dataset, batch_size=3))  # and its shards are mapped here
    batches = list(DataLoader(dataset, batch_size=3, num_workers=1, multiprocessing_context=start))
    assert [len(grades) for _, grades in batches] == [3, 3, 2]
    for (images, grades), (wanted, right) in zip(batches, alone, strict=True):
        assert images.equal(wanted)
        assert grades.equal(right)


def test_a_worker_maps_the_shards_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = CacheDataset(folder)
    first, _ = dataset[0]
    mine = dataset.cache
    monkeypatch.setattr("pipeline.loading.cache_dataset.os.getpid", lambda: -1)
    assert dataset.cache is not mine
    assert dataset.cache is dataset.cache
    assert dataset[0][0].equal(first)


def test_a_cache_goes_to_another_process_with_the_splits_it_has_here(folder: Path) -> None:
    cache = open_cache(folder)
    cache.manifest["split"] = "val"  # as a fold has its own
    there = pickle.loads(pickle.dumps(CacheDataset(cache, split="val")))
    assert len(there) == 12
    assert there[3][0].equal(CacheDataset(cache, split="val")[3][0])


def test_what_cannot_be_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no graded photograph is in the split 'val'"):
        CacheDataset(folder, split="val")
    with pytest.raises(CacheError, match="split 'training': choose one of train, val, test or all"):
        CacheDataset(folder, split="training")
    with pytest.raises(CacheError, match="is not a cache"):
        CacheDataset(tmp_path)
    with pytest.raises(IndexError):
        CacheDataset(folder)[8]


def test_a_damaged_photograph_is_named(folder: Path) -> None:
    dataset = CacheDataset(folder)
    row = open_cache(folder).manifest.iloc[dataset.rows[0]]
    shard = folder / f"shards/{row['shard']:04d}.tar"
    data = bytearray(shard.read_bytes())
    data[row["offset"] + row["nbytes"] // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CacheError, match=re.escape(f"{row['id']} in shards/")):
        dataset[0]
