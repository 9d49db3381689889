"""Folds of a cache: patients whole, every grade in each, shards shared."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.cache.cache import open_cache
from pipeline.cache.folder import verify_files
from pipeline.cache.folds import fold_splits, write_fold
from pipeline.errors import CacheError

MANIFEST = pd.DataFrame(
    {
        "id": [f"{n}_{eye}" for n in range(100) for eye in ("left", "right")],
        "patient": [str(n) for n in range(100) for _ in "lr"],
        "grade": [n % 5 for n in range(100) for _ in "lr"],
        "split": ["test" if n >= 80 else "val" if n >= 70 else "train" for n in range(100) for _ in "lr"],
    }
)


def test_each_patient_is_test_once_and_never_in_train_then() -> None:
    columns = fold_splits(MANIFEST, 5, 0)
    tested = pd.concat([MANIFEST["id"][splits == "test"] for splits in columns])
    assert sorted(tested) == sorted(MANIFEST["id"][MANIFEST["split"] != "test"])
    for splits in columns:
        assert MANIFEST.assign(split=splits).groupby("patient")["split"].nunique().max() == 1
        assert set(splits[MANIFEST["split"] == "test"]) == {""}  # test stays closed
        assert (splits == "val").sum() == 16  # an eighth of the 64 other patients, both eyes
        assert set(MANIFEST["grade"][splits == "test"]) == set(range(5))


def test_the_whole_set_may_be_folded() -> None:
    columns = fold_splits(MANIFEST, 4, 0, with_test=True)
    assert sum((splits == "test").sum() for splits in columns) == 200


def test_the_same_seed_draws_the_same_folds_and_another_others() -> None:
    first, again, other = (fold_splits(MANIFEST, 3, seed)[0] for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first.equals(other)


def test_photographs_without_a_grade_or_a_split_take_no_part() -> None:
    table = MANIFEST.assign(grade=MANIFEST["grade"].mask(MANIFEST.index == 0, -1))
    table.loc[1, "split"] = ""
    for splits in fold_splits(table, 3, 0):
        assert list(splits[:2]) == ["", ""]


def test_too_few_patients_are_said() -> None:
    with pytest.raises(CacheError, match="5 patients are too few for 3 folds"):
        fold_splits(MANIFEST[:10], 3, 0)


def test_a_fold_is_an_ordinary_cache_that_takes_no_room(make_cache: Callable[..., Path], tmp_path: Path) -> None:
    pictures = {f"{n}_left": np.full((64, 64, 3), 40 + n, np.uint8) for n in range(6)}
    path = make_cache(pictures, dict.fromkeys(pictures, 0), dict.fromkeys(pictures, "train"))
    with open_cache(path) as cache:
        splits = pd.Series(["test", "val", *["train"] * 4])
        folder = write_fold(cache, tmp_path / "fold0", splits, "fold 0 of 3")
        with open_cache(folder) as fold:
            assert list(fold.manifest["split"]) == list(splits)
            assert fold.digest != cache.digest
            assert bytes(fold.read(3)) == bytes(cache.read(3))
            assert verify_files(folder, fold.index) == []
        assert (folder / "shards/0000.tar").samefile(path / "shards/0000.tar")
        before = (folder / "cache.json").stat().st_mtime_ns
        write_fold(cache, folder, splits, "fold 0 of 3")
        assert (folder / "cache.json").stat().st_mtime_ns == before  # one that is there stays
